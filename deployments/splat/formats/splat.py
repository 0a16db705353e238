""".splat files (antimatter15/splat): 32 bytes a Gaussian, no header, colours without harmonics above degree 0.

Three float32 of position, three of linear scale, four bytes of red, green, blue and opacity, four of the quaternion
w, x, y, z as 128 + 128 q.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from deployments.splat.formats.checks import LARGEST, check_count, checked, refuse
from deployments.splat.formats.packing import to_byte
from deployments.splat.gaussians import SH_C0, Gaussians

_RECORD: Final = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])
# Enough to tell Gaussians from other bytes.
_LOOKED_AT: Final = 256


def plausible(data: bytes) -> bool:
    """Whether these bytes can be Gaussians; the format has nothing else to be known by."""
    if not data or len(data) % _RECORD.itemsize:
        return False
    rows = np.frombuffer(data, _RECORD, min(len(data) // _RECORD.itemsize, _LOOKED_AT))
    numbers = np.concatenate([rows["means"], rows["scales"]], axis=1)
    return bool((np.abs(numbers) <= LARGEST).all() and (rows["scales"] >= 0).all() and rows["scales"].any())


def read(data: bytes, max_gaussians: int) -> Gaussians:
    """The scene in a file.

    Raises:
        InvalidMedia: `invalid_scene`.
        PayloadTooLarge: `too_many_gaussians`.
    """
    count, left = divmod(len(data), _RECORD.itemsize)
    if left:
        raise refuse(f"A .splat file has {_RECORD.itemsize} bytes a Gaussian; this one has {left} left over.")
    check_count(count, max_gaussians)
    rows = np.frombuffer(data, _RECORD)
    colours = rows["rgba"].astype(np.float32) / 255
    quats = rows["quats"].astype(np.float32) / 128 - 1
    sh = ((colours[:, None, :3] - 0.5) / SH_C0).astype(np.float32)
    return checked(rows["means"], quats, rows["scales"], colours[:, 3], sh)


def write(gaussians: Gaussians) -> bytes:
    """A file with the largest and most opaque first, so that a viewer shows the scene's shape while it loads. Colours
    are those of degree 0, cut to 0 to 1."""
    order = np.argsort(-gaussians.opacities * gaussians.scales.prod(axis=1), kind="stable")
    chosen = gaussians.select(order)
    rows = np.empty(len(chosen), _RECORD)
    rows["means"] = chosen.means
    rows["scales"] = chosen.scales
    rows["rgba"][:, :3] = to_byte((0.5 + SH_C0 * chosen.sh[:, 0]) * 255)
    rows["rgba"][:, 3] = to_byte(chosen.opacities * 255)
    rows["quats"] = to_byte(chosen.quats * 128 + 128)
    return rows.tobytes()
