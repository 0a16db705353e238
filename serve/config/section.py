"""What every section of a cluster file is, and everything else that is read from a file of ours."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

_STRAY = PydanticCustomError("stray_boolean", "Input should hold neither true nor false")


class Strict(BaseModel):
    """Unknown keys are refused: a misspelt limit that is silently ignored is worse than no limit.

    So are infinities, and booleans where none is meant: pydantic takes `true` for the number 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # Not a validator of fields: none may run before that of the field that tells the members of a union apart.
    @model_validator(mode="before")
    @classmethod
    def _no_stray_booleans(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        stray = [
            InitErrorDetails(type=_STRAY, loc=(name,), input=value)
            for name, value in given.items()
            if _holds_boolean(value) and name in cls.model_fields and not _takes_booleans(cls, name)
        ]
        if stray:
            raise ValidationError.from_exception_data(cls.__name__, stray)
        return given


class Section(Strict):
    """A part of a cluster file."""

    model_config = ConfigDict(validate_default=True)


def _holds_boolean(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_boolean, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_boolean, value))
    return isinstance(value, bool)


@functools.cache
def _takes_booleans(kind: type[BaseModel], field: str) -> bool:
    """Whether a boolean may stand somewhere in it; of what a section within it holds, that section says so itself."""
    return any(
        part in (bool, Any, object) or (isinstance(part, type) and issubclass(part, BaseModel))
        for part in _parts(kind.model_fields[field].annotation)
    )


def _parts(annotation: Any) -> Iterator[Any]:
    """What an annotation is made of: `dict[str, float | None]` of `str`, `float` and `None`."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _parts(argument)
