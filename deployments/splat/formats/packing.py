"""What several compressed formats share: quaternions without their largest component, bytes, an order along a curve."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from deployments.splat.gaussians import Float32

Floats = npt.NDArray[np.floating[Any]]
UInt8 = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.integer[Any]]
# The others are at most this when one component of a unit quaternion is the largest.
MOST_OF_OTHERS: Final = 0.5**0.5


def to_byte(values: npt.NDArray[Any]) -> UInt8:
    """Rounded, and cut to 0 to 255."""
    cut: UInt8 = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return cut


def without_largest(quats: Float32) -> tuple[npt.NDArray[np.intp], Float32]:
    """Index (N,) of each quaternion's largest component, and the three others (N, 3) in order, their sign such that the
    largest is positive."""
    largest = np.abs(quats).argmax(axis=1)
    rows = np.arange(len(quats))
    signs = np.where(quats[rows, largest] < 0, -1, 1).astype(np.float32)
    others = quats[np.arange(4)[None] != largest[:, None]].reshape(-1, 3)
    return largest, others * signs[:, None]


def with_largest(largest: Ints, others: Floats) -> Float32:
    """The quaternions (N, 4) that `without_largest` took apart; of length 1 unless the others are too long."""
    quats = np.empty((len(others), 4), np.float32)
    is_largest = np.arange(4)[None] == largest[:, None]
    quats[~is_largest] = others.reshape(-1)
    quats[is_largest] = np.sqrt(np.maximum(0, 1 - (others**2).sum(axis=1)))
    return quats


def along_curve(means: Float32) -> npt.NDArray[np.intp]:
    """Indices (N,) that put neighbours in space beside each other: the order of Morton (1966), 10 bits an axis."""
    least = means.min(axis=0)
    extent = np.maximum(means.max(axis=0) - least, np.finfo(np.float32).tiny)
    cells = ((means - least) / extent * 1023).astype(np.uint32)
    codes = np.zeros(len(means), np.uint32)
    for bit in range(10):
        for axis in range(3):
            codes |= ((cells[:, axis] >> np.uint32(bit)) & np.uint32(1)) << np.uint32(3 * bit + axis)
    return np.argsort(codes, kind="stable")
