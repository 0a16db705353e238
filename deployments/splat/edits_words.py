"""Edits in words, for the list of a scene's versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from deployments.splat.edits_types import (
    All,
    AllOf,
    AnyOf,
    Box,
    Crop,
    Delete,
    Duplicate,
    Edit,
    Fade,
    Mask,
    Merge,
    Not,
    Recolour,
    Rotate,
    Scale,
    Selection,
    Sphere,
    Translate,
    Vector,
)

_MOST_NAMED: Final = 3


def describe(edits: Sequence[Edit]) -> str:
    """Short words: `moved a box by (0, 1, 0), deleted a sphere and 2 more`."""
    named = ", ".join(_edit(edit) for edit in edits[:_MOST_NAMED])
    left = len(edits) - _MOST_NAMED
    return f"{named} and {left} more" if left > 0 else named


def _edit(edit: Edit) -> str:
    match edit:
        case Crop(where):
            return f"cropped to {_selection(where)}"
        case Delete(where):
            return f"deleted {_selection(where)}"
        case Duplicate(where, offset):
            return f"copied {_selection(where)} by {_vector(offset)}"
        case Translate(where, offset):
            return f"moved {_selection(where)} by {_vector(offset)}"
        case Rotate(where, axis, degrees):
            return f"turned {_selection(where)} by {degrees:g}° about {_vector(axis)}"
        case Scale(where, factor):
            return f"scaled {_selection(where)} by {factor:g}"
        case Recolour(where):
            return f"recoloured {_selection(where)}"
        case Fade(where, factor):
            return f"faded {_selection(where)} by {factor:g}"
        case Merge(scene, version):
            return f"merged {scene}" + (f" version {version}" if version is not None else "")


def _selection(where: Selection) -> str:
    match where:
        case All():
            return "everything"
        case Box():
            return "a box"
        case Sphere():
            return "a sphere"
        case Mask():
            return "chosen Gaussians"
        case Not(of):
            return f"all but {_selection(of)}"
        case AllOf() | AnyOf():
            return "a selection"


def _vector(vector: Vector) -> str:
    return f"({', '.join(f'{value:.4g}' for value in vector)})"
