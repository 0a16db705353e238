"""The kernel that takes a loss's gradient from ellipses back to Gaussians: the chain rule through `project` and
`arrange`, step by step backwards. A name that starts with g_ is the loss's slope by what the rest of the name says."""

from __future__ import annotations

import math

import numpy as np

from deployments.splat.cpu_jit import kernel, part
from deployments.splat.cpu_project import (
    DEPTH,
    EPS2D,
    FIELD,
    OPACITY,
    RED,
    A,
    B,
    C,
    Float32,
    Float64,
    Int32,
    U,
    V,
)
from deployments.splat.cpu_sh import harmonics

_SHARP = 1e-12


@kernel
def project_gradient(
    begin: int,
    end: int,
    order: Int32,
    slopes: Float32,
    ellipses: Float32,
    means: Float32,
    quats: Float32,
    scales: Float32,
    opacities: Float32,
    sh: Float32,
    bases: int,
    rotation: Float64,
    eye: Float64,
    lens: tuple[float, float, float, float, float, float],
    antialiased: bool,
    g_means: Float32,
    g_quats: Float32,
    g_scales: Float32,
    g_opacities: Float32,
    g_sh: Float32,
) -> None:
    """Gradients of the Gaussians `order[begin:end]`; see `project` and `arrange` for the arguments.

    Args:
        slopes: (M, COLUMNS): of the loss, by the ellipses' columns.
        g_means, g_quats, g_scales, g_opacities, g_sh: as the Gaussians' own arrays; written.
    """
    fx, fy, cx, cy, width, height = lens
    right, left = (width - cx) / fx + FIELD * 0.5 * width / fx, cx / fx + FIELD * 0.5 * width / fx
    below, above = (height - cy) / fy + FIELD * 0.5 * height / fy, cy / fy + FIELD * 0.5 * height / fy
    basis, g_basis = np.empty(16), np.empty(16)
    direction, g_direction = np.empty(3), np.empty(3)
    turn, g_axes = np.empty((3, 3)), np.empty((3, 3))
    m, n, e, f = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    g_d = np.empty(3)
    for j in range(begin, end):
        i = order[j]
        dx, dy, dz = means[i, 0] - eye[0], means[i, 1] - eye[1], means[i, 2] - eye[2]
        z = rotation[2, 0] * dx + rotation[2, 1] * dy + rotation[2, 2] * dz
        tx = (rotation[0, 0] * dx + rotation[0, 1] * dy + rotation[0, 2] * dz) / z
        ty = (rotation[1, 0] * dx + rotation[1, 1] * dy + rotation[1, 2] * dz) / z
        slope_x, slope_y = min(right, max(-left, tx)), min(below, max(-above, ty))
        px, py = fx / z, fy / z
        length = _turn(quats, i, turn)
        for k in range(3):
            m[k] = px * (rotation[0, k] - slope_x * rotation[2, k])
            n[k] = py * (rotation[1, k] - slope_y * rotation[2, k])
        for k in range(3):
            e[k] = (turn[0, k] * m[0] + turn[1, k] * m[1] + turn[2, k] * m[2]) * scales[i, k]
            f[k] = (turn[0, k] * n[0] + turn[1, k] * n[1] + turn[2, k] * n[2]) * scales[i, k]
        xx, xy, yy = e[0] * e[0] + e[1] * e[1] + e[2] * e[2], e[0] * f[0] + e[1] * f[1] + e[2] * f[2], 0.0
        yy = f[0] * f[0] + f[1] * f[1] + f[2] * f[2]
        sharp = xx * yy - xy * xy
        wide_x, wide_y = xx + EPS2D, yy + EPS2D
        det = wide_x * wide_y - xy * xy

        # The factors a, b and c, and what antialiasing takes from the opacity.
        a, b, c = np.float64(ellipses[j, A]), np.float64(ellipses[j, B]), np.float64(ellipses[j, C])
        g_a = slopes[j, A] - slopes[j, B] * xy / wide_y
        g_xy = -slopes[j, B] * a / wide_y
        g_yy = -slopes[j, B] * b / wide_y - slopes[j, C] * c / (2 * wide_y) + g_a * a / (2 * wide_y)
        g_det = -g_a * a / (2 * det)
        g_xx = 0.0
        if antialiased:
            kept = math.sqrt(max(0.0, sharp / det))
            g_opacities[i] = slopes[j, OPACITY] * kept
            g_kept = slopes[j, OPACITY] * opacities[i]
            g_det -= g_kept * kept / (2 * det)
            g_sharp = g_kept * kept / (2 * sharp) if sharp > _SHARP else 0.0
            g_xx, g_yy, g_xy = g_xx + g_sharp * yy, g_yy + g_sharp * xx, g_xy - 2 * g_sharp * xy
        else:
            g_opacities[i] = slopes[j, OPACITY]
        g_xx, g_yy, g_xy = g_xx + g_det * wide_y, g_yy + g_det * wide_x, g_xy - 2 * g_det * xy

        # The half axes in the picture: e and f; then the Gaussian's axes and the projection's rows m and n.
        g_px = g_py = g_slope_x = g_slope_y = 0.0
        for k in range(3):
            g_e, g_f = 2 * g_xx * e[k] + g_xy * f[k], 2 * g_yy * f[k] + g_xy * e[k]
            g_scale = 0.0
            for row in range(3):
                g_axis = m[row] * g_e + n[row] * g_f
                g_scale += g_axis * turn[row, k]
                g_axes[row, k] = g_axis * scales[i, k]
            g_scales[i, k] = g_scale
            e[k], f[k] = g_e * scales[i, k], g_f * scales[i, k]
        for row in range(3):
            g_m = turn[row, 0] * e[0] + turn[row, 1] * e[1] + turn[row, 2] * e[2]
            g_n = turn[row, 0] * f[0] + turn[row, 1] * f[1] + turn[row, 2] * f[2]
            g_px += g_m * m[row] / px
            g_py += g_n * n[row] / py
            g_slope_x -= g_m * px * rotation[2, row]
            g_slope_y -= g_n * py * rotation[2, row]
        _turn_gradient(quats, i, length, g_axes, g_quats)

        # The centre.
        g_tx = slopes[j, U] * fx + (g_slope_x if -left < tx < right else 0.0)
        g_ty = slopes[j, V] * fy + (g_slope_y if -above < ty < below else 0.0)
        g_z = slopes[j, DEPTH] - (g_px * px + g_py * py + g_tx * tx + g_ty * ty) / z
        for k in range(3):
            g_d[k] = rotation[0, k] * g_tx / z + rotation[1, k] * g_ty / z + rotation[2, k] * g_z

        # The colours, and the direction that they are seen from.
        far = math.sqrt(dx * dx + dy * dy + dz * dz)
        direction[0], direction[1], direction[2] = dx / far, dy / far, dz / far
        harmonics(bases, dx, dy, dz, basis)
        g_basis[:] = 0
        for channel in range(3):
            if ellipses[j, RED + channel] > 0:
                slope = np.float64(slopes[j, RED + channel])
                for k in range(bases):
                    g_sh[i, k, channel] = slope * basis[k]
                    g_basis[k] += slope * sh[i, k, channel]
        _direction_gradient(bases, direction, g_basis, g_direction)
        along = direction[0] * g_direction[0] + direction[1] * g_direction[1] + direction[2] * g_direction[2]
        for k in range(3):
            g_means[i, k] = g_d[k] + (g_direction[k] - direction[k] * along) / far


@part
def _turn(quats: Float32, i: int, out: Float64) -> float:
    """The rotation of quaternion `i`, and the quaternion's length."""
    w, x, y, z = np.float64(quats[i, 0]), np.float64(quats[i, 1]), np.float64(quats[i, 2]), np.float64(quats[i, 3])
    length = math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w / length, x / length, y / length, z / length
    out[0, 0], out[0, 1], out[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    out[1, 0], out[1, 1], out[1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    out[2, 0], out[2, 1], out[2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    return length


@part
def _turn_gradient(quats: Float32, i: int, length: float, g: Float64, out: Float32) -> None:
    w, x, y, z = quats[i, 0] / length, quats[i, 1] / length, quats[i, 2] / length, quats[i, 3] / length
    g_w = 2 * (z * (g[1, 0] - g[0, 1]) + y * (g[0, 2] - g[2, 0]) + x * (g[2, 1] - g[1, 2]))
    g_x = 2 * (
        y * (g[0, 1] + g[1, 0]) + z * (g[0, 2] + g[2, 0]) + w * (g[2, 1] - g[1, 2]) - 2 * x * (g[1, 1] + g[2, 2])
    )
    g_y = 2 * (
        x * (g[0, 1] + g[1, 0]) + z * (g[1, 2] + g[2, 1]) + w * (g[0, 2] - g[2, 0]) - 2 * y * (g[0, 0] + g[2, 2])
    )
    g_z = 2 * (
        x * (g[0, 2] + g[2, 0]) + y * (g[1, 2] + g[2, 1]) + w * (g[1, 0] - g[0, 1]) - 2 * z * (g[0, 0] + g[1, 1])
    )
    # Only what is across the quaternion turns; its length says nothing.
    along = g_w * w + g_x * x + g_y * y + g_z * z
    out[i, 0], out[i, 1] = (g_w - along * w) / length, (g_x - along * x) / length
    out[i, 2], out[i, 3] = (g_y - along * y) / length, (g_z - along * z) / length


@part
def _direction_gradient(bases: int, direction: Float64, g: Float64, out: Float64) -> None:
    """Of `harmonics`, by the unit vector."""
    x, y, z = direction[0], direction[1], direction[2]
    out[:] = 0
    if bases > 1:
        out[0], out[1], out[2] = -0.4886025119029199 * g[3], -0.4886025119029199 * g[1], 0.4886025119029199 * g[2]
    if bases > 4:
        k, k0, k2 = 1.0925484305920792, 0.9461746957575601, 0.5462742152960396
        out[0] += k * (y * g[4] - z * g[7]) + 2 * k2 * x * g[8]
        out[1] += k * (x * g[4] - z * g[5]) - 2 * k2 * y * g[8]
        out[2] += 2 * k0 * z * g[6] - k * (y * g[5] + x * g[7])
    if bases > 9:
        k3, k2, k1 = 0.5900435899266435, 1.445305721320277, 0.4570457994644658
        xx, yy, zz = x * x, y * y, z * z
        three, five = 3 * (xx - yy), 5 * zz - 1
        out[0] += -k3 * (6 * x * y * g[9] + three * g[15]) + 2 * k2 * z * (y * g[10] + x * g[14]) - k1 * five * g[13]
        out[1] += k3 * (6 * x * y * g[15] - three * g[9]) + 2 * k2 * z * (x * g[10] - y * g[14]) - k1 * five * g[11]
        out[2] += k2 * (2 * x * y * g[10] + (xx - yy) * g[14]) - 10 * k1 * z * (y * g[11] + x * g[13])
        out[2] += (5.597644988851731 * zz - 1.119528997770346) * g[12]
