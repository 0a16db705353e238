"""Where in a document a pydantic error lies, as the author of the document would say it.

Pydantic's locations also name the branch of a union that it tried; a document has no such key.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]


def real_path(kind: type[BaseModel], location: Sequence[int | str], *, unknown_key: bool = False) -> Location:
    """The keys and positions of `location` that stand in the document.

    Args:
        kind: the model that was validated.
        unknown_key: the last part is a key that no model has, to be kept as it is.
    """
    path: list[int | str] = []
    options: list[Any] = [kind]
    parts = list(location)
    for i, part in enumerate(parts):
        options = [leaf for option in options for leaf in _branches(option)]
        if unknown_key and i == len(parts) - 1:
            path.append(part)
        elif children := _children(options, part):
            path.append(part)
            options = children
        else:  # the tag of a union, or the name of one of its branches
            options = [option for option in options if part in _tags(option)] or options
    return tuple(path)


def fields_at(kind: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Names of the fields that are allowed at `location`."""
    options: list[Any] = [kind]
    for part in location:
        options = [leaf for option in options for leaf in _branches(option)]
        options = _children(options, part) or [option for option in options if part in _tags(option)] or options
    models = [leaf for option in options for leaf in _branches(option) if _is_model(leaf)]
    return sorted({name for model in models for name in model.model_fields})


def most_telling(kind: type[BaseModel], errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """The error that lies deepest: of several branches of a union, the one that fitted longest, objects first."""

    def rank(error: ErrorDetails) -> tuple[int, bool]:
        path = real_path(kind, error["loc"], unknown_key=error["type"] == "extra_forbidden")
        return len(path), isinstance(error["input"], dict) and error["type"].startswith("union_tag")

    return max(errors, key=rank)


def _branches(kind: Any) -> Iterator[Any]:
    """A union's members, annotations taken off; any other type is its own single branch."""
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        yield from _branches(typing.get_args(kind)[0])
    elif origin is typing.Union or type(kind).__name__ == "UnionType":
        for member in typing.get_args(kind):
            yield from _branches(member)
    else:
        yield kind


def _children(options: list[Any], part: int | str) -> list[Any]:
    found: list[Any] = []
    for option in options:
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if isinstance(part, int) and origin in (list, tuple) and arguments:
            found.append(arguments[0])
        elif _is_model(option) and part in option.model_fields and not _only_a_tag(options, part):
            found.append(option.model_fields[part].annotation)
        elif isinstance(part, str) and origin is dict and not _names_a_branch(options, part):
            found.append(arguments[1])
    return found


def _only_a_tag(options: list[Any], part: int | str) -> bool:
    """With several models still possible, a tag narrows the choice before any field is looked at."""
    models = [option for option in options if _is_model(option)]
    return len(models) > 1 and any(part in _tags(model) for model in models)


def _names_a_branch(options: list[Any], part: str) -> bool:
    return len(options) > 1 and ("[" in part or part in ("str", "int", "float", "bool"))


def _tags(option: Any) -> tuple[Any, ...]:
    """Values of the literal field by which a union tells its members."""
    if not _is_model(option):
        return ()
    for name in ("kind", "type", "op"):
        if name in option.model_fields:
            return typing.get_args(option.model_fields[name].annotation)
    return ()


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
