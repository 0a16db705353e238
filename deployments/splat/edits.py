"""Applies edits to a scene of Gaussians: pure functions from arrays to arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from deployments.splat.edits_select import Bools, mask_of, matrix_of, selected
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
    Quaternion,
    Recolour,
    Rotate,
    Scale,
    Selection,
    Sphere,
    Translate,
    Vector,
)
from deployments.splat.edits_words import describe
from deployments.splat.gaussians import SH_C0, Float32, Gaussians, concatenate
from deployments.splat.motion import Motion
from deployments.splat.sh_rotation import rotated
from serve.errors import ArgusError, InvalidRequest, PayloadTooLarge

__all__ = [
    "All",
    "AllOf",
    "AnyOf",
    "Box",
    "Crop",
    "Delete",
    "Duplicate",
    "Edit",
    "Fade",
    "Mask",
    "Merge",
    "Not",
    "Recolour",
    "Rotate",
    "Scale",
    "Selection",
    "Sphere",
    "Translate",
    "apply",
    "describe",
    "mask_of",
]

# A scene by its name and version; the current one for None.
Fetch = Callable[[str, int | None], Gaussians]
Float64 = npt.NDArray[np.float64]

# Beyond it nothing is drawn right; files are held to the same.
_LARGEST: Final = 1e9
_LEAST_SCALE: Final = 1e-9
# How bright red, green and blue are to the eye (ITU-R BT.709).
_LUMINANCE: Final = np.array([0.2126, 0.7152, 0.0722])


def apply(gaussians: Gaussians, edits: Sequence[Edit], fetch: Fetch, *, max_gaussians: int) -> Gaussians:
    """The scene after all edits, in order; the one given stays as it is.

    Args:
        fetch: gives the scenes that are merged in.

    Raises:
        InvalidRequest: `empty_selection`, `invalid_selection`, `invalid_edit`, `empty_scene` (an edit leaves nothing),
            `motions_differ` (scenes whose motions have other periods are merged); `param` says which edit.
        PayloadTooLarge: `too_many_gaussians`.
        NotFound: what `fetch` raises.
    """
    for index, edit in enumerate(edits):
        try:
            gaussians = _applied(gaussians, edit, fetch, max_gaussians)
        except ArgusError as error:
            raise error.at(f"edits[{index}]") from error
    return gaussians


def _applied(gaussians: Gaussians, edit: Edit, fetch: Fetch, most: int) -> Gaussians:
    if isinstance(edit, Merge):
        return _merged(gaussians, edit, fetch, most)
    which = selected(edit.where, gaussians.means)
    if not which.any():
        raise InvalidRequest("The selection holds no Gaussian of the scene.", code="empty_selection")
    match edit:
        case Crop():
            return gaussians.select(which)
        case Delete():
            if which.all():
                raise InvalidRequest("Nothing would be left of the scene.", code="empty_scene")
            return gaussians.select(~which)
        case Duplicate(offset=offset):
            _check_count(len(gaussians) + int(which.sum()), most)
            copies = gaussians.select(which)
            return _concatenated(gaussians, _moved(copies, np.ones(len(copies), bool), offset))
        case Translate(offset=offset):
            return _moved(gaussians, which, offset)
        case Rotate(axis=axis, degrees=degrees, centre=centre):
            return _turned(gaussians, which, axis, degrees, _centre(gaussians, which, centre))
        case Scale(factor=factor, centre=centre):
            return _scaled(gaussians, which, factor, _centre(gaussians, which, centre))
        case Recolour():
            return _recoloured(gaussians, which, edit)
        case Fade(factor=factor):
            _check(0 <= factor < math.inf, "An opacity's factor is at least 0.")
            faded = np.clip(gaussians.opacities[which] * factor, 0, 1)
            return replace(gaussians, opacities=_with(gaussians.opacities, which, faded))


def _merged(gaussians: Gaussians, edit: Merge, fetch: Fetch, most: int) -> Gaussians:
    other = fetch(edit.scene, edit.version)
    _check_count(len(gaussians) + len(other), most)
    every, origin = np.ones(len(other), bool), np.zeros(3)
    other = _scaled(other, every, edit.scale, origin) if edit.scale != 1 else other
    other = _turned(other, every, edit.axis, edit.degrees, origin) if edit.degrees else other
    return _concatenated(gaussians, _moved(other, every, edit.offset))


def _concatenated(first: Gaussians, second: Gaussians) -> Gaussians:
    try:
        return concatenate([first, second])
    except ValueError as error:
        raise InvalidRequest(f"The scenes do not move together: {error}.", code="motions_differ") from error


def _moved(gaussians: Gaussians, which: Bools, offset: Vector) -> Gaussians:
    return _placed(gaussians, which, gaussians.means[which] + np.array(offset))


def _turned(gaussians: Gaussians, which: Bools, axis: Vector, degrees: float, centre: Float64) -> Gaussians:
    length = float(np.linalg.norm(axis))
    _check(0 < length < math.inf, "An axis is a vector of a length above 0.")
    _check(math.isfinite(degrees), "An angle is a number of degrees.")
    half = math.radians(degrees % 360) / 2
    x, y, z = (math.sin(half) * value / length for value in axis)
    turn = math.cos(half), x, y, z
    matrix = matrix_of(turn)
    moved = _placed(gaussians, which, (gaussians.means[which] - centre) @ matrix.T + centre)
    motion = gaussians.motion
    if motion is not None:
        waves = _with(motion.waves, which, motion.waves[which] @ matrix.T)
        motion = replace(motion, waves=waves, turns=_with(motion.turns, which, motion.turns[which] @ matrix.T))
    sh = gaussians.sh
    if gaussians.sh_degree:
        sh = _with(sh, which, rotated(sh[which], matrix))
    quats = _with(gaussians.quats, which, _product(turn, gaussians.quats[which]))
    return replace(moved, quats=quats, sh=sh, motion=motion)


def _scaled(gaussians: Gaussians, which: Bools, factor: float, centre: Float64) -> Gaussians:
    _check(0 < factor < math.inf, "A factor of size is above 0.")
    moved = _placed(gaussians, which, (gaussians.means[which] - centre) * factor + centre)
    scales = np.clip(gaussians.scales[which].astype(np.float64) * factor, _LEAST_SCALE, _LARGEST)
    motion = gaussians.motion
    if motion is not None:
        waves = motion.waves[which].astype(np.float64) * factor
        _check(bool((np.abs(waves) <= _LARGEST).all()), f"The edit moves Gaussians further than {_LARGEST:g}.")
        motion = Motion(motion.period_s, _with(motion.waves, which, waves), motion.turns)
    return replace(moved, scales=_with(gaussians.scales, which, scales), motion=motion)


def _recoloured(gaussians: Gaussians, which: Bools, edit: Recolour) -> Gaussians:
    """Every change of colours but a flat one is a matrix on red, green and blue, the same from all directions."""
    factors = np.array(edit.tint) * edit.brightness
    colours = (*(edit.rgb or ()), *factors)
    _check(all(0 <= value <= _LARGEST for value in colours), "Colours and their factors are at least 0.")
    sh = gaussians.sh[which].astype(np.float64)
    base = 0.5 + SH_C0 * sh[:, 0]
    matrix: npt.NDArray[np.floating[Any]] = np.diag(factors)
    if edit.rgb is not None and edit.flat:
        sh[:, 1:] = 0
        base[:] = edit.rgb
    elif edit.rgb is not None:
        mean = max(float((np.maximum(base, 0) @ _LUMINANCE).mean()), 1e-3)
        matrix = np.outer(factors * edit.rgb, _LUMINANCE / mean)
    sh[:, 1:] = sh[:, 1:] @ matrix.T
    sh[:, 0] = (base @ matrix.T - 0.5) / SH_C0
    _check(bool((np.abs(sh) <= _LARGEST).all()), "The factors make colours too bright.")
    return replace(gaussians, sh=_with(gaussians.sh, which, sh))


def _placed(gaussians: Gaussians, which: Bools, means: Float64) -> Gaussians:
    _check(bool((np.abs(means) <= _LARGEST).all()), f"The edit puts Gaussians further out than {_LARGEST:g}.")
    return replace(gaussians, means=_with(gaussians.means, which, means))


def _centre(gaussians: Gaussians, which: Bools, centre: Vector | None) -> Float64:
    if centre is not None:
        return np.array(centre, np.float64)
    return np.asarray(gaussians.means[which].mean(axis=0, dtype=np.float64))


def _with(array: Float32, which: Bools, values: npt.NDArray[np.floating[Any]]) -> Float32:
    """A copy with other values where selected."""
    if which.all():
        return np.ascontiguousarray(values, np.float32)
    changed = array.copy()
    changed[which] = values
    return changed


def _product(turn: Quaternion, quats: Float32) -> Float64:
    """Quaternions (N, 4) after a further turn."""
    w, x, y, z = turn
    left = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    product = quats @ left.T
    return np.asarray(product / np.linalg.norm(product, axis=1, keepdims=True))


def _check(right: bool, message: str) -> None:
    if not right:
        raise InvalidRequest(message, code="invalid_edit")


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise PayloadTooLarge(
            f"The scene would have {count:,} Gaussians; at most {most:,} are allowed.", code="too_many_gaussians"
        )
