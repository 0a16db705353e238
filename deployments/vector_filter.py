"""Filters over metadata: a small tree of conditions and the strict parser of its JSON form.

    {"category": "shoe", "price": {"gte": 10, "lt": 30}, "$or": [{"size": {"in": [41, 42]}}, {"sale": true}]}

The entries of a mapping must all hold. Types are never converted: `1` equals `1.0` but neither `"1"` nor `true`, and a
range compares numbers with numbers and strings with strings (by code point). A condition on a list holds when it holds
for one of the list's elements; two bounds may be met by two elements. A field that is missing meets no condition but
`{"exists": false}` and what a `$not` makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

from deployments.vector_types import Scalar
from serve.errors import InvalidRequest

MAX_DEPTH: Final = 8
MAX_CONDITIONS: Final = 64
MAX_VALUES: Final = 1000
MAX_TEXT_BYTES: Final = 65_536

RangeOp = Literal["gt", "gte", "lt", "lte"]
_RANGE_OPS: Final = get_args(RangeOp)
_FIELD_OPS: Final = ("eq", "in", "exists", *_RANGE_OPS)


@dataclass(frozen=True, slots=True)
class In:
    """The field, or one of its elements, equals one of `values`. Equality is `In` with one value."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """The field, or one of its elements, is of `bound`'s type and lies on the named side of it."""

    field: str
    op: RangeOp
    bound: str | int | float


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is there; null and the empty list count."""

    field: str


@dataclass(frozen=True, slots=True)
class And:
    """Every part holds."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one part holds."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Filter


Filter = In | Range | Exists | And | Or | Not


def parse_filter(data: Any, *, param: str = "filter") -> Filter:
    """The filter that a JSON mapping describes.

    Args:
        data: the decoded JSON.
        param: name of the request field; errors extend it with the path to the key at fault.

    Raises:
        InvalidRequest: an unknown operator, a value of the wrong type, an empty mapping or list (it would match
            everything or nothing by accident), or more than 8 levels, 64 conditions, 1000 values or 64 KiB of text.
    """
    return _Parser().mapping(data, param, depth=1)


def check_integer(value: int, *, param: str) -> None:
    """Refuses what SQLite would store as a rounded float.

    Raises:
        InvalidRequest: `value` needs more than 64 bits.
    """
    if not -(2**63) <= value < 2**63:
        raise InvalidRequest("integers must fit 64 bits", param=param)


def check_text(value: str, *, param: str) -> int:
    """The length of `value` in bytes of UTF-8.

    Raises:
        InvalidRequest: a lone surrogate, which UTF-8 cannot express.
    """
    try:
        return len(value.encode())
    except UnicodeEncodeError:
        raise InvalidRequest("text must be valid Unicode", param=param) from None


def check_scalar(value: Any, *, param: str) -> Scalar:
    """`value` if it is a JSON scalar that can be stored and compared exactly.

    Raises:
        InvalidRequest: another type, NaN or infinity, an integer beyond 64 bits, text that is not valid Unicode.
    """
    if isinstance(value, str):
        check_text(value, param=param)
    elif isinstance(value, int):
        check_integer(value, param=param)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequest("numbers must be finite", param=param)
    elif value is not None:
        raise InvalidRequest("must be text, a number, true, false or null", param=param)
    return cast(Scalar, value)


class _Parser:
    """One parse: carries what is left of the size limits."""

    def __init__(self) -> None:
        self._conditions = MAX_CONDITIONS
        self._values = MAX_VALUES
        self._text_bytes = MAX_TEXT_BYTES

    def mapping(self, data: Any, param: str, depth: int) -> Filter:
        if not isinstance(data, Mapping) or not data:
            raise InvalidRequest("a filter is a JSON object with at least one entry", param=param)
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"a filter may be {MAX_DEPTH} levels deep", code="filter_too_large", param=param)
        return _all([part for key, value in data.items() for part in self._entry(key, value, param, depth)])

    def _entry(self, key: Any, value: Any, param: str, depth: int) -> list[Filter]:
        where = f"{param}.{key}"
        if not isinstance(key, str):
            raise InvalidRequest("keys must be text", param=where)
        if key in ("$and", "$or"):
            if not isinstance(value, list) or not value:
                raise InvalidRequest(f"{key} takes a list of filters, at least one", param=where)
            parts = tuple(self.mapping(part, f"{where}[{i}]", depth + 1) for i, part in enumerate(value))
            return [And(parts) if key == "$and" else Or(parts)]
        if key == "$not":
            return [Not(self.mapping(value, where, depth + 1))]
        if key.startswith("$"):
            raise InvalidRequest(
                f"unknown operator {key!r}; there are $and, $or and $not", code="unknown_operator", param=where
            )
        self._spend_text(key, where)
        if not isinstance(value, Mapping):
            return [self._condition(key, "eq", value, where)]
        if not value:
            raise InvalidRequest(f"a condition needs one of {', '.join(_FIELD_OPS)}", param=where)
        return [self._condition(key, op, operand, f"{where}.{op}") for op, operand in value.items()]

    def _condition(self, field: str, op: Any, operand: Any, param: str) -> Filter:
        self._conditions -= 1
        if self._conditions < 0:
            raise InvalidRequest(f"a filter may have {MAX_CONDITIONS} conditions", code="filter_too_large", param=param)
        if op == "eq":
            return In(field, (self._value(operand, param),))
        if op == "in":
            if not isinstance(operand, list) or not operand:
                raise InvalidRequest("'in' takes a list of values, at least one", param=param)
            return In(field, tuple(self._value(value, f"{param}[{i}]") for i, value in enumerate(operand)))
        if op == "exists":
            if not isinstance(operand, bool):
                raise InvalidRequest("'exists' takes true or false", param=param)
            return Exists(field) if operand else Not(Exists(field))
        if op in _RANGE_OPS:
            bound = self._value(operand, param)
            if bound is None or isinstance(bound, bool):
                raise InvalidRequest(f"{op!r} takes a number or text", param=param)
            return Range(field, op, bound)
        raise InvalidRequest(
            f"unknown operator {op!r}; there are {', '.join(_FIELD_OPS)}", code="unknown_operator", param=param
        )

    def _value(self, value: Any, param: str) -> Scalar:
        scalar = check_scalar(value, param=param)
        self._values -= 1
        if self._values < 0:
            raise InvalidRequest(f"a filter may name {MAX_VALUES} values", code="filter_too_large", param=param)
        if isinstance(scalar, str):
            self._spend_text(scalar, param)
        return scalar

    def _spend_text(self, text: str, param: str) -> None:
        self._text_bytes -= check_text(text, param=param)
        if self._text_bytes < 0:
            raise InvalidRequest(
                f"a filter may hold {MAX_TEXT_BYTES} bytes of text", code="filter_too_large", param=param
            )


def _all(parts: list[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else And(tuple(parts))
