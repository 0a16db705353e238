"""The centres of a scene's Gaussians as a cloud of coloured points, which every program for PLY files shows."""

from __future__ import annotations

from typing import Final

import numpy as np

from deployments.splat.formats.packing import to_byte
from deployments.splat.gaussians import SH_C0, Gaussians
from serve.errors import InvalidRequest

_RECORD: Final = np.dtype([("place", "<f4", 3), ("rgb", "u1", 3)])


def write(gaussians: Gaussians, least_opacity: float = 0.5) -> bytes:
    """A PLY file of x, y, z and red, green, blue, as the scene stands at time 0; the colours are those of degree 0.

    Raises:
        InvalidRequest: `no_points`: no Gaussian is as opaque.
    """
    chosen = gaussians.select(gaussians.opacities >= least_opacity)
    if not len(chosen):
        message = f"No Gaussian has an opacity of {least_opacity:g} or more."
        raise InvalidRequest(message, code="no_points", param="format")
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(chosen)}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {channel}" for channel in ("red", "green", "blue")),
        "end_header\n",
    ]
    rows = np.empty(len(chosen), _RECORD)
    rows["place"] = chosen.means
    rows["rgb"] = to_byte((0.5 + SH_C0 * chosen.sh[:, 0]) * 255)
    return "\n".join(header).encode() + rows.tobytes()
