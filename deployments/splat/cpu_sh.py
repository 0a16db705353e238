"""Spherical harmonics, for the kernels."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from deployments.splat.cpu_jit import part


@part
def harmonics(bases: int, dx: float, dy: float, dz: float, out: npt.NDArray[np.floating]) -> None:
    """The real spherical harmonics of a direction up to degree 3 (constants of Sloan 2013)."""
    out[0] = 0.28209479177387814
    if bases > 1:
        length = math.sqrt(dx * dx + dy * dy + dz * dz)
        over = 1 / length if length > 0 else 0.0
        x, y, z = dx * over, dy * over, dz * over
        out[1], out[2], out[3] = -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x
    if bases > 4:
        xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
        out[4], out[5] = 1.0925484305920792 * xy, -1.0925484305920792 * yz
        out[6] = 0.9461746957575601 * zz - 0.31539156525252005
        out[7], out[8] = -1.0925484305920792 * xz, 0.5462742152960396 * (xx - yy)
    if bases > 9:
        out[9] = -0.5900435899266435 * y * (3 * xx - yy)
        out[10] = 2.890611442640554 * xy * z
        out[11] = -0.4570457994644658 * y * (5 * zz - 1)
        out[12] = z * (1.865881662950577 * zz - 1.119528997770346)
        out[13] = -0.4570457994644658 * x * (5 * zz - 1)
        out[14] = 1.445305721320277 * z * (xx - yy)
        out[15] = -0.5900435899266435 * x * (xx - 3 * yy)
