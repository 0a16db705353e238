"""Which Gaussians a selection means."""

from __future__ import annotations

from functools import reduce

import numpy as np
import numpy.typing as npt

from deployments.splat.edits_types import All, AllOf, AnyOf, Box, Mask, Not, Quaternion, Selection, Sphere
from deployments.splat.gaussians import Float32
from serve.errors import InvalidRequest

Bools = npt.NDArray[np.bool_]


def selected(where: Selection, means: Float32) -> Bools:
    """(N,): whether each of the Gaussians with these centres (N, 3) is selected.

    Raises:
        InvalidRequest: `invalid_selection`: a box or sphere that can hold nothing, or a mask for another scene.
    """
    match where:
        case All():
            return np.ones(len(means), bool)
        case Box(least, most, turn):
            return _in_box(means, np.array(least), np.array(most), turn)
        case Sphere(centre, radius):
            if not radius > 0:
                raise _invalid(f"A sphere has a radius above 0; {radius:g} is not.")
            return np.asarray(np.linalg.norm(means - np.array(centre), axis=1) <= radius)
        case Mask(bits, count):
            if count != len(means) or len(bits) != -(-count // 8):
                raise _invalid(
                    f"The mask is for {count:,} Gaussians in {len(bits):,} bytes; the scene has {len(means):,}."
                )
            return np.unpackbits(np.frombuffer(bits, np.uint8), count=count, bitorder="little").astype(bool)
        case Not(of):
            return ~selected(of, means)
        case AllOf(of):
            return reduce(np.logical_and, (selected(one, means) for one in of), np.ones(len(means), bool))
        case AnyOf(of):
            return reduce(np.logical_or, (selected(one, means) for one in of), np.zeros(len(means), bool))


def mask_of(which: Bools) -> Mask:
    """The selection of these (N,)."""
    return Mask(np.packbits(which, bitorder="little").tobytes(), len(which))


def matrix_of(turn: Quaternion) -> npt.NDArray[np.float64]:
    """(3, 3): the rotation by a quaternion w, x, y, z of any length.

    Raises:
        InvalidRequest: `invalid_selection`: its length is 0.
    """
    length = float(np.linalg.norm(turn))
    if not (0 < length < np.inf):
        raise _invalid("A turn is a quaternion of a length above 0.")
    w, x, y, z = np.array(turn) / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _in_box(means: Float32, least: npt.NDArray[np.float64], most: npt.NDArray[np.float64], turn: Quaternion) -> Bools:
    if not (least <= most).all():
        raise _invalid("A box's least is at most its most, on each axis.")
    turned = matrix_of(turn)
    if turn[1:] == (0.0, 0.0, 0.0):  # exact at the borders
        return np.asarray(((means >= least) & (means <= most)).all(axis=1))
    local = (means - (least + most) / 2) @ turned
    return np.asarray((np.abs(local) <= (most - least) / 2).all(axis=1))


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_selection", param="where")
