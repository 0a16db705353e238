"""Edits of scenes as fields of a request: what is done, and to which Gaussians."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field, FiniteFloat, model_validator

from deployments.splat import edits_types as edits
from serve.config.model_base import Name
from serve.errors import InvalidRequest
from serve.protocol.bodies import Fields, validate
from serve.protocol.scene_cameras import Colour, Row4, Triple

_MOST_EDITS: Final = 64
# Of selections within selections.
_DEEPEST: Final = 8
# Selections in one: each asks every Gaussian of a scene.
_MOST = 64
# Edits after which a mask made for the version before fits no more.
_RECOUNTING: Final = ("crop", "delete", "duplicate", "merge")
Positive = Annotated[FiniteFloat, Field(gt=0)]
# The Gaussians that a text names, by the field it stands in.
Found = Callable[[str, str], edits.Selection]


class BoxFields(Fields):
    """Those whose centre is in a box."""

    min: Triple = Field(description="Its least corner.")
    max: Triple = Field(description="Its other corner.")
    turn: Row4 = Field(
        (1.0, 0.0, 0.0, 0.0), description="How it is turned about its own centre: quaternion w, x, y, z."
    )


class SphereFields(Fields):
    """Those whose centre is in a sphere."""

    centre: Triple = Field(description="Its middle.")
    radius: Positive = Field(description="In the scene's unit.")


class MaskFields(Fields):
    """Those whose bit is set, in the order of the scene's version; `select` gives such masks."""

    bits: str = Field(description="Base64; eight Gaussians a byte, the first in the lowest bit.")
    count: int = Field(ge=1, description="Gaussians of the version that it was made for.")


class WhereFields(Fields):
    """Which Gaussians: one field."""

    all: Literal[True] | None = Field(None, description="Every one.")
    box: BoxFields | None = Field(None, description="In a box.")
    sphere: SphereFields | None = Field(None, description="In a sphere.")
    mask: MaskFields | None = Field(None, description="One by one.")
    text: str | None = Field(None, description="What a text names, such as `red circle`; a vision model looks for it.")
    # Selections within selections; typed loosely, since OpenAPI documents here hold no recursive schemas.
    none_of: dict[str, Any] | None = Field(None, description="All but those of another selection.")
    all_of: list[dict[str, Any]] | None = Field(None, min_length=1, max_length=16, description="In each of these.")
    any_of: list[dict[str, Any]] | None = Field(None, min_length=1, max_length=16, description="In one of these.")

    @model_validator(mode="after")
    def _one_way_of_saying_it(self) -> WhereFields:
        if sum(value is not None for value in dict(self).values()) != 1:
            raise ValueError(f"a selection has one of {', '.join(type(self).model_fields)}")
        if _count([*([self.none_of] if self.none_of else []), *(self.all_of or ()), *(self.any_of or ())]) > _MOST:
            raise ValueError(f"it is made of more than {_MOST} selections")
        return self


class _Edit(Fields):
    """What every edit but a merge has."""

    where: WhereFields = Field(description="Which Gaussians.")


class CropFields(_Edit):
    """Keep them, and nothing else."""

    op: Literal["crop"]


class DeleteFields(_Edit):
    """Take them out."""

    op: Literal["delete"]


class DuplicateFields(_Edit):
    """Put a copy beside them."""

    op: Literal["duplicate"]
    offset: Triple = Field(description="How far away.")


class TranslateFields(_Edit):
    """Move them."""

    op: Literal["translate"]
    offset: Triple = Field(description="How far.")


class RotateFields(_Edit):
    """Turn them, counter-clockwise when the axis points to the viewer."""

    op: Literal["rotate"]
    axis: Triple = Field(description="Of any length above 0.")
    degrees: FiniteFloat = Field(description="By how much.")
    centre: Triple | None = Field(None, description="A point that stays; their mean when left out.")


class ScaleFields(_Edit):
    """Make them larger or smaller."""

    op: Literal["scale"]
    factor: Positive = Field(description="Of their size.")
    centre: Triple | None = Field(None, description="A point that stays; their mean when left out.")


class RecolourFields(_Edit):
    """Give them another colour."""

    op: Literal["recolour"]
    rgb: Colour | None = Field(
        None,
        description="Their mean colour afterwards: #rrggbb, or red, green and blue from 0 to 1.",
        json_schema_extra={"type": ["string", "array", "null"]},
    )
    flat: bool = Field(False, description="With `rgb`: this very colour everywhere; light and dark go.")
    tint: Triple = Field((1.0, 1.0, 1.0), description="Factors of red, green and blue.")
    brightness: float = Field(1.0, ge=0, le=1e6, description="A factor of all three.")


class FadeFields(_Edit):
    """Multiply their opacity."""

    op: Literal["fade"]
    factor: float = Field(ge=0, le=1e6, description="It stays within 0 to 1.")


class MergeFields(Fields):
    """Put another scene in: scaled, then turned (both about its own origin), then moved."""

    op: Literal["merge"]
    scene: Name = Field(description="Its name.")
    version: int | None = Field(None, ge=1, description="Of it; the current one when left out.")
    scale: Positive = Field(1.0, description="Its size here.")
    axis: Triple = Field((0.0, 0.0, 1.0), description="That it is turned about.")
    degrees: FiniteFloat = Field(0.0, description="By how much.")
    offset: Triple = Field((0.0, 0.0, 0.0), description="How far it is moved.")


EditFields = Annotated[
    CropFields
    | DeleteFields
    | DuplicateFields
    | TranslateFields
    | RotateFields
    | ScaleFields
    | RecolourFields
    | FadeFields
    | MergeFields,
    Field(discriminator="op"),
]


class EditsFields(Fields):
    """Edits, done in order, all or none."""

    edits: list[EditFields] = Field(min_length=1, max_length=_MOST_EDITS, description="What is done.")
    base_version: int | None = Field(
        None, ge=1, description="The version that the client has seen; a 409 when it is not the current one any more."
    )


class SelectFields(Fields):
    """A selection to be looked at before it is used."""

    where: WhereFields = Field(description="Which Gaussians.")
    version: int | None = Field(None, ge=1, description="Of the scene; the current one when left out.")
    mask: bool = Field(False, description="Answer with the selection as a mask too.")


def texts_in(given: Sequence[Any]) -> dict[str, str]:
    """The texts in the selections of edits, each with the field that it stands in.

    Raises:
        InvalidRequest: `invalid_field`: one stands behind an edit that changes which Gaussians there are, whose number
            is known only when it is done.
    """
    found: dict[str, str] = {}
    changed = False
    for index, edit in enumerate(given):
        if not isinstance(edit, MergeFields):
            texts = dict(texts_of(edit.where, f"edits[{index}].where"))
            if texts and changed:
                raise InvalidRequest(
                    "A text selects in the scene as it is before all edits, so none may stand behind a crop, delete, "
                    "duplicate or merge; send it in a request of its own.",
                    code="invalid_field",
                    param=next(iter(texts)),
                )
            found |= texts
        changed |= edit.op in _RECOUNTING
    return found


def _count(selections: list[Any]) -> int:
    """Of all within them, as they came; counting ends above the bound."""
    count, left = 0, selections
    while left and count <= _MOST:
        one = left.pop()
        count += 1
        if isinstance(one, dict):
            for inner in (one.get("none_of"), one.get("all_of"), one.get("any_of")):
                left += inner if isinstance(inner, list) else [] if inner is None else [inner]
    return count


def texts_of(where: WhereFields, param: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """The texts in a selection, each with the field that it stands in."""
    if where.text is not None:
        yield f"{param}.text", where.text
    for field, inner in _inner(where, param, depth):
        yield from texts_of(inner, field, depth + 1)


def selection(where: WhereFields, param: str, found: Found, depth: int = 0) -> edits.Selection:
    """What a selection means.

    Args:
        found: gives what the texts in it name.

    Raises:
        InvalidRequest: a selection within it is none; `invalid_mask`.
    """
    if where.text is not None:
        return found(f"{param}.text", where.text)
    if where.box is not None:
        return edits.Box(where.box.min, where.box.max, where.box.turn)
    if where.sphere is not None:
        return edits.Sphere(where.sphere.centre, where.sphere.radius)
    if where.mask is not None:
        return _mask(where.mask, f"{param}.mask.bits")
    inner = tuple(selection(one, field, found, depth + 1) for field, one in _inner(where, param, depth))
    if where.none_of is not None:
        return edits.Not(inner[0])
    if where.all_of is not None:
        return edits.AllOf(inner)
    return edits.All() if where.all else edits.AnyOf(inner)


def edit(given: Any, param: str, found: Found) -> edits.Edit:
    """What an edit means; see `selection`."""
    if isinstance(given, MergeFields):
        return edits.Merge(given.scene, given.version, given.scale, given.axis, given.degrees, given.offset)
    where = selection(given.where, f"{param}.where", found)
    match given:
        case CropFields():
            return edits.Crop(where)
        case DeleteFields():
            return edits.Delete(where)
        case DuplicateFields():
            return edits.Duplicate(where, given.offset)
        case TranslateFields():
            return edits.Translate(where, given.offset)
        case RotateFields():
            return edits.Rotate(where, given.axis, given.degrees, given.centre)
        case ScaleFields():
            return edits.Scale(where, given.factor, given.centre)
        case RecolourFields():
            return edits.Recolour(where, given.rgb, given.flat, given.tint, given.brightness)
        case _:
            return edits.Fade(where, given.factor)


def _inner(where: WhereFields, param: str, depth: int) -> list[tuple[str, WhereFields]]:
    """The selections within one, each with its field."""
    named: list[tuple[str, dict[str, Any]]] = []
    if where.none_of is not None:
        named.append((f"{param}.none_of", where.none_of))
    for name, several in (("all_of", where.all_of), ("any_of", where.any_of)):
        named += [(f"{param}.{name}[{index}]", one) for index, one in enumerate(several or ())]
    if named and depth >= _DEEPEST:
        message = f"Selections stand within each other at most {_DEEPEST} deep."
        raise InvalidRequest(message, code="invalid_field", param=param)
    return [(field, _validated(one, field)) for field, one in named]


def _validated(given: dict[str, Any], param: str) -> WhereFields:
    try:
        return validate(given, WhereFields)
    except InvalidRequest as error:
        inner = "" if error.param in (None, "body") else f".{error.param}"
        raise InvalidRequest(error.message, code=error.code, param=f"{param}{inner}") from None


def _mask(given: MaskFields, param: str) -> edits.Mask:
    try:
        bits = base64.b64decode(given.bits, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("The bits are not base64.", code="invalid_mask", param=param) from None
    if len(bits) != -(-given.count // 8):
        message = f"{given.count:,} Gaussians take {-(-given.count // 8):,} bytes; there are {len(bits):,}."
        raise InvalidRequest(message, code="invalid_mask", param=param)
    return edits.Mask(bits, given.count)
