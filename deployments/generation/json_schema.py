"""Which JSON schemas (2020-12) an answer can be made to fit, so that those it would not fit are refused instead.

xgrammar reads over what it cannot express, and a schema that it reads in part allows answers that the whole one does
not. What is refused here was tried with the grammars of its 0.2 release.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final
from urllib.parse import unquote

import jsonschema

# Keywords whose value is a schema, a list of them, or an object of them (JSON Schema 2020-12, section 10).
_ONE: Final = ("items", "additionalProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties")
_LISTED: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions")
# No grammar says these.
_NEVER: Final = (
    *("not", "if", "then", "else", "contains", "minContains", "maxContains"),
    *("dependentRequired", "dependentSchemas", "dependencies", "$dynamicRef", "$recursiveRef"),
)
# Each is taken alone: what stands beside it would not count.
_WHOLE: Final = ("$ref", "const", "enum", "allOf", "anyOf", "oneOf")
_OF_TYPES: Final[Mapping[str, frozenset[str]]] = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "uniqueItems", "unevaluatedItems"}),
    "object": frozenset({*("properties", "patternProperties", "additionalProperties", "propertyNames", "required")})
    | {"minProperties", "maxProperties", "unevaluatedProperties"},
}
_ASSERTIONS: Final = frozenset({"type"}).union(*_OF_TYPES.values())
# Where one of these is, xgrammar knows the type without being told.
_TELLING: Final = frozenset(
    {"properties", "additionalProperties", "unevaluatedProperties", "items", "prefixItems", "unevaluatedItems"}
)
_LENGTHS: Final = frozenset({"minLength", "maxLength"})
_BOUNDS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_LOOKAROUND = re.compile(r"(?<!\\)(?:\\\\)*\(\?<?[=!]")
# How deep two members of a `oneOf` are compared.
_DEEP = 4


def check(schema: Any) -> None:
    """Whether every text that the schema's grammar allows fits the schema.

    Raises:
        ValueError: it is no schema, or says something that no grammar does; the message says what and where.
    """
    if not isinstance(schema, dict | bool):
        raise ValueError("a schema is an object")
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        where = "/".join(str(part) for part in ("#", *error.absolute_path))
        raise ValueError(f"{where}: {error.message}") from None
    _check_references(schema)
    for part, where, is_name in _parts(schema):
        if problem := _problem(part, schema, is_name):
            raise ValueError(f"{where}: {problem}")


def _parts(schema: Any) -> Iterator[tuple[dict[str, Any], str, bool]]:
    """Every schema in it that is an object, with its place, and whether it is of names, which are strings."""
    left = [(schema, "#", False)]
    while left:
        part, where, is_name = left.pop()
        if not isinstance(part, dict):
            continue
        yield part, where, is_name
        left += [(part[key], f"{where}/{key}", key == "propertyNames") for key in _ONE if key in part]
        for key in _LISTED:
            left += [(one, f"{where}/{key}/{number}", is_name) for number, one in enumerate(part.get(key, ()))]
        for key in _NAMED:
            left += [(one, f"{where}/{key}/{name}", False) for name, one in part.get(key, {}).items()]


def _check_references(schema: Any) -> None:
    """Each `$ref` must mean something.

    xgrammar takes another document for anything, so that answers would not fit it; and of a schema that is defined by
    itself alone it makes a grammar of no text at all (JSON Schema 2020-12, section 9.4.1, leaves that one undefined).

    Raises:
        ValueError: one does not.
    """
    parts = [part for part, _, _ in _parts(schema)]
    places = {id(part) for part in parts}
    for at in (part["$ref"] for part in parts if "$ref" in part):
        if not at.startswith("#"):
            raise ValueError("a $ref must lead to a place in the schema itself (#/...)")
        target = _place(at, schema)
        if not isinstance(target, bool) and id(target) not in places:
            raise ValueError(f"there is no schema at {at}")
    try:
        TopologicalSorter({id(part): map(id, _of_the_same_value(part, schema)) for part in parts}).prepare()
    except CycleError:
        raise ValueError("a part of it is defined by itself") from None


def _of_the_same_value(part: dict[str, Any], root: Any) -> Iterator[Any]:
    """The schemas that the very value must fit which must fit this one, rather than something within that value."""
    if "$ref" in part:
        yield _place(part["$ref"], root)
    for keyword in ("allOf", "anyOf", "oneOf"):
        yield from part.get(keyword, ())


def _place(reference: str, root: Any) -> Any:
    """What a JSON pointer (RFC 6901) leads to; None where there is nothing."""
    for name in reference.split("/")[1:]:
        key = unquote(name).replace("~1", "/").replace("~0", "~")
        if isinstance(root, list) and key.isdecimal() and int(key) < len(root):
            root = root[int(key)]
        else:
            root = root.get(key) if isinstance(root, dict) else None
    return root


def _problem(part: dict[str, Any], root: Any, is_name: bool) -> str | None:
    """What of one schema would not be kept; None when all of it is."""
    if unknown := [key for key in _NEVER if key in part]:
        return f"{unknown[0]} cannot be kept while an answer is written"
    if whole := [key for key in _WHOLE if key in part]:
        return _whole_problem(part, whole, root)
    types = _types(part)
    if types is None and not is_name and not part.keys() & _TELLING and (untyped := part.keys() & _ASSERTIONS):
        return f"{min(untyped)} needs a type beside it"
    return _string_problem(part) or _number_problem(part, types) or _array_problem(part) or _object_problem(part)


def _whole_problem(part: dict[str, Any], whole: Sequence[str], root: Any) -> str | None:
    keyword, beside = whole[0], (part.keys() & _ASSERTIONS) | set(whole[1:])
    if keyword in ("const", "enum"):
        return _values_problem(part, keyword, beside)
    if beside:
        return f"{min(beside)} does not count beside {keyword}; put it into what {keyword} names"
    members = part[keyword]
    if keyword == "allOf" and len(members) > 1:
        return "allOf of several schemas cannot be kept; make one of them"
    if keyword == "oneOf":
        pairs = ((one, other) for number, one in enumerate(members) for other in members[:number])
        if not all(_disjoint(one, other, root) for one, other in pairs):
            return "a value may fit two members of oneOf; say anyOf, or give them a const of their own to tell them by"
    return None


def _values_problem(part: dict[str, Any], keyword: str, beside: set[str]) -> str | None:
    """Values that are given one by one may stand beside anything that all of them fit."""
    if more := beside & {"const", "enum", "allOf", "anyOf", "oneOf", "$ref"}:
        return f"{min(more)} does not count beside {keyword}"
    if "pattern" in beside:  # a client's own, which Python could be made to try for hours
        return f"pattern does not count beside {keyword}"
    rest = jsonschema.Draft202012Validator({key: part[key] for key in beside})
    values = [part["const"]] if keyword == "const" else part["enum"]
    if not values:
        return "enum has no value"
    wrong = [value for value in values if not rest.is_valid(value)]
    return f"{wrong[0]!r} does not fit what stands beside it" if wrong else None


def _string_problem(part: dict[str, Any]) -> str | None:
    if isinstance(pattern := part.get("pattern"), str) and _LOOKAROUND.search(pattern):
        return "a pattern that looks ahead or behind cannot be kept"
    told = [key for key in ("pattern", "format") if key in part]
    if told and (lengths := part.keys() & _LENGTHS):
        return f"{min(lengths)} does not count beside {told[0]}"
    return "pattern does not count beside format" if len(told) == 2 else None


def _number_problem(part: dict[str, Any], types: frozenset[str] | None) -> str | None:
    if "multipleOf" not in part:
        return None
    if types is not None and "number" in types:
        return "multipleOf can be kept for integers only"
    if part["multipleOf"] != int(part["multipleOf"]):
        return "multipleOf of integers must be an integer"
    return "multipleOf does not count beside bounds" if part.keys() & _BOUNDS else None


def _array_problem(part: dict[str, Any]) -> str | None:
    return "uniqueItems cannot be kept while an answer is written" if part.get("uniqueItems") else None


def _object_problem(part: dict[str, Any]) -> str | None:
    properties = part.get("properties", {})
    if undeclared := [name for name in part.get("required", ()) if name not in properties]:
        return f"required names {undeclared[0]!r}, which properties does not have"
    for keyword in ("patternProperties", "propertyNames"):
        if properties and keyword in part:
            return f"{keyword} does not count beside properties"
    return None


def _types(part: dict[str, Any]) -> frozenset[str] | None:
    """The types that it names; None for none."""
    named = part.get("type")
    return None if named is None else frozenset([named] if isinstance(named, str) else named)


def _disjoint(one: Any, other: Any, root: Any, deep: int = _DEEP) -> bool:
    """Whether no value can fit both, as far as that can be told: by types, by constants, or by those of a property that
    both require.
    """
    one, other = _followed(one, root), _followed(other, root)
    if not isinstance(one, dict) or not isinstance(other, dict) or not deep:
        return False
    first, second = _values(one), _values(other)
    if first is not None and second is not None:
        return not any(_same(a, b) for a in first for b in second)
    mine, theirs = _kinds(one), _kinds(other)
    if mine is not None and theirs is not None and not mine & theirs:
        return True
    if not mine == theirs == frozenset({"object"}):
        return False
    both = set(one.get("required", ())) & set(other.get("required", ()))
    properties = one.get("properties", {}), other.get("properties", {})
    return any(
        _disjoint(properties[0][name], properties[1][name], root, deep - 1)
        for name in both
        if name in properties[0] and name in properties[1]
    )


def _followed(part: Any, root: Any) -> Any:
    """What its references lead to; they go in no circle."""
    while isinstance(part, dict) and "$ref" in part:
        part = _place(part["$ref"], root)
    return part


def _values(part: dict[str, Any]) -> list[Any] | None:
    if "const" in part:
        return [part["const"]]
    return part.get("enum")


def _same(one: Any, other: Any) -> bool:
    """As JSON Schema compares: true is not 1, though 1.0 is."""
    return bool(jsonschema.Draft202012Validator({"const": one}).is_valid(other))


def _kinds(part: dict[str, Any]) -> frozenset[str] | None:
    """Types of the values that may fit, every number as a number; None for any."""
    if (values := _values(part)) is not None:
        return frozenset(_kind(value) for value in values)
    types = _types(part)
    return None if types is None else frozenset("number" if each == "integer" else each for each in types)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
