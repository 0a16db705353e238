"""Real spherical harmonics up to degree 3, in the order and with the signs of Kerbl et al. 2023, and their rotation."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from deployments.splat.gaussians import SH_C0, Float32

Float64 = npt.NDArray[np.float64]

_C1: Final = 0.4886025119029199
_C2: Final = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792, 0.5462742152960396)
_C3: Final = (
    -0.5900435899266435,
    2.890611442640554,
    -0.4570457994644658,
    0.3731763325901154,
    -0.4570457994644658,
    1.445305721320277,
    -0.5900435899266435,
)


def basis(directions: npt.NDArray[Any]) -> Float64:
    """(N, 16): each harmonic's value in unit directions (N, 3); the first 1, 4 or 9 are those of a lower degree."""
    x, y, z = np.asarray(directions, np.float64).T
    xx, yy, zz = x * x, y * y, z * z
    return np.stack(
        [
            np.full_like(x, SH_C0),
            -_C1 * y,
            _C1 * z,
            -_C1 * x,
            _C2[0] * x * y,
            _C2[1] * y * z,
            _C2[2] * (2 * zz - xx - yy),
            _C2[3] * x * z,
            _C2[4] * (xx - yy),
            _C3[0] * y * (3 * xx - yy),
            _C3[1] * x * y * z,
            _C3[2] * y * (4 * zz - xx - yy),
            _C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
            _C3[4] * x * (4 * zz - xx - yy),
            _C3[5] * z * (xx - yy),
            _C3[6] * x * (xx - 3 * yy),
        ],
        axis=1,
    )


def rotated(sh: Float32, rotation: Float64) -> Float32:
    """Coefficients (N, K, 3) of functions that have been turned with what they belong to.

    A turn maps each degree's harmonics to each other (Ivanic & Ruedenberg 1996); the matrix of that map is read off
    from their values in a few directions, which is exact, as no other functions come in.

    Args:
        rotation: (3, 3), from old directions to new ones.
    """
    out = sh.copy()
    # What is seen in a direction now was seen in the direction that has been turned there.
    now, before = basis(_DIRECTIONS), basis(_DIRECTIONS @ rotation)
    for degree in range(1, 4):
        band = slice(degree**2, (degree + 1) ** 2)
        if band.start < sh.shape[1]:
            matrix = np.linalg.lstsq(now[:, band], before[:, band], rcond=None)[0].astype(np.float32)
            out[:, band] = np.einsum("ij,njc->nic", matrix, sh[:, band])
    return out


def _spread(count: int) -> Float64:
    """(count, 3): unit vectors in all directions."""
    index = np.arange(count) + 0.5
    height = 1 - 2 * index / count
    turn = np.pi * (1 + np.sqrt(5)) * index
    across = np.sqrt(1 - height**2)
    return np.stack([across * np.cos(turn), across * np.sin(turn), height], axis=1)


_DIRECTIONS: Final = _spread(64)
