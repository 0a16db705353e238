"""Kernels that turn Gaussians into ellipses in a picture, and their harmonics into colours.

The projection is Zwicker et al. 2001 (EWA splatting) as Kerbl et al. 2023 use it. It is reckoned in float64, which
costs nothing here, so that long thin ellipses stay ellipses. An ellipse's exponent is kept as

    s = p * p + q * q,  p = a * dx + b * dy,  q = c * dy,

which is the Cholesky factor of half the inverse covariance: it can never turn negative, and it takes fewer steps a
pixel than the conic does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from deployments.splat.cpu_jit import kernel, part
from deployments.splat.cpu_sh import harmonics

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

TILE = 16
# Columns of an ellipse: centre in pixels; a, b, c; largest s that is drawn; half width and height in pixels; opacity;
# red, green, blue; depth; and space, so that one is a line of the processor's cache.
U, V, A, B, C, LIMIT, REACH_X, REACH_Y, OPACITY, RED, GREEN, BLUE, DEPTH = range(13)
COLUMNS = 16

EPS2D = 0.3
_LEAST_ALPHA = 1 / 255
# Half widths of the picture beyond which the projection's slope is not followed further.
FIELD = 0.3
_LARGEST = 1e30


@kernel
def covariances(begin: int, end: int, quats: Float32, scales: Float32, out: Float32) -> None:
    """Covariances xx, xy, xz, yy, yz, zz in the world; `out` is (N, 6)."""
    for i in range(begin, end):
        w, x, y, z = np.float64(quats[i, 0]), np.float64(quats[i, 1]), np.float64(quats[i, 2]), np.float64(quats[i, 3])
        norm = w * w + x * x + y * y + z * z
        double = 2 / norm if norm > 0 else 0.0
        sx, sy, sz = np.float64(scales[i, 0]), np.float64(scales[i, 1]), np.float64(scales[i, 2])
        m00 = (1 - double * (y * y + z * z)) * sx
        m01 = double * (x * y - w * z) * sy
        m02 = double * (x * z + w * y) * sz
        m10 = double * (x * y + w * z) * sx
        m11 = (1 - double * (x * x + z * z)) * sy
        m12 = double * (y * z - w * x) * sz
        m20 = double * (x * z - w * y) * sx
        m21 = double * (y * z + w * x) * sy
        m22 = (1 - double * (x * x + y * y)) * sz
        out[i, 0] = m00 * m00 + m01 * m01 + m02 * m02
        out[i, 1] = m00 * m10 + m01 * m11 + m02 * m12
        out[i, 2] = m00 * m20 + m01 * m21 + m02 * m22
        out[i, 3] = m10 * m10 + m11 * m11 + m12 * m12
        out[i, 4] = m10 * m20 + m11 * m21 + m12 * m22
        out[i, 5] = m20 * m20 + m21 * m21 + m22 * m22


@kernel
def project(
    begin: int,
    end: int,
    means: Float32,
    covariances: Float32,
    opacities: Float32,
    sh: Float32,
    bases: int,
    rotation: Float64,
    eye: Float64,
    lens: tuple[float, float, float, float, float, float],
    limits: tuple[float, float, float],
    antialiased: bool,
    shapes: Float32,
    boxes: Int16,
    depths: Float32,
) -> None:
    """Ellipses of the Gaussians that a camera sees, with the colours that it sees.

    Args:
        bases: harmonics of `sh` that are evaluated: 1, 4, 9 or 16.
        rotation: world to camera.
        lens: fx, fy, cx, cy, width, height.
        limits: near, far, radius_clip.
        shapes: (N, COLUMNS), written.
        boxes: (N, 4), written: first and end tile across, first and end tile down.
        depths: (N,), written: 0 where nothing is to be drawn.
    """
    fx, fy, cx, cy, width, height = lens
    near, far, clip = limits
    basis = np.empty(16, np.float32)
    right, left = (width - cx) / fx + FIELD * 0.5 * width / fx, cx / fx + FIELD * 0.5 * width / fx
    below, above = (height - cy) / fy + FIELD * 0.5 * height / fy, cy / fy + FIELD * 0.5 * height / fy
    r00, r01, r02 = rotation[0]
    r10, r11, r12 = rotation[1]
    r20, r21, r22 = rotation[2]
    for i in range(begin, end):
        depths[i] = 0
        dx, dy, dz = means[i, 0] - eye[0], means[i, 1] - eye[1], means[i, 2] - eye[2]
        z = r20 * dx + r21 * dy + r22 * dz
        opacity = np.float64(opacities[i])
        if not (z >= near and z <= far and z > 0 and opacity >= _LEAST_ALPHA):
            continue
        tx = (r00 * dx + r01 * dy + r02 * dz) / z
        ty = (r10 * dx + r11 * dy + r12 * dz) / z
        # Rows of the projection's derivative times the rotation.
        slope_x, slope_y = min(right, max(-left, tx)), min(below, max(-above, ty))
        px, py = fx / z, fy / z
        m0, m1, m2 = px * (r00 - slope_x * r20), px * (r01 - slope_x * r21), px * (r02 - slope_x * r22)
        n0, n1, n2 = py * (r10 - slope_y * r20), py * (r11 - slope_y * r21), py * (r12 - slope_y * r22)
        s00, s01, s02 = covariances[i, 0], covariances[i, 1], covariances[i, 2]
        s11, s12, s22 = covariances[i, 3], covariances[i, 4], covariances[i, 5]
        v0, v1, v2 = s00 * m0 + s01 * m1 + s02 * m2, s01 * m0 + s11 * m1 + s12 * m2, s02 * m0 + s12 * m1 + s22 * m2
        xx, xy = m0 * v0 + m1 * v1 + m2 * v2, n0 * v0 + n1 * v1 + n2 * v2
        v0, v1, v2 = s00 * n0 + s01 * n1 + s02 * n2, s01 * n0 + s11 * n1 + s12 * n2, s02 * n0 + s12 * n1 + s22 * n2
        yy = n0 * v0 + n1 * v1 + n2 * v2
        sharp = xx * yy - xy * xy
        xx += EPS2D
        yy += EPS2D
        det = xx * yy - xy * xy
        if not (det > 0 and xx < _LARGEST and yy < _LARGEST):
            continue
        if antialiased:
            opacity *= math.sqrt(max(0.0, sharp / det))
            if opacity < _LEAST_ALPHA:
                continue
        limit = math.log(opacity / _LEAST_ALPHA)
        reach_x, reach_y = math.sqrt(2 * limit * xx), math.sqrt(2 * limit * yy)
        if math.ceil(reach_x) <= clip and math.ceil(reach_y) <= clip:
            continue
        u, v = fx * tx + cx, fy * ty + cy
        x0, x1 = _tiles(u, reach_x, width)
        y0, y1 = _tiles(v, reach_y, height)
        if x1 <= x0 or y1 <= y0:
            continue
        a = math.sqrt(yy / (2 * det))
        shapes[i, U], shapes[i, V] = u, v
        shapes[i, A], shapes[i, B], shapes[i, C] = a, -a * xy / yy, math.sqrt(1 / (2 * yy))
        shapes[i, LIMIT] = limit
        shapes[i, REACH_X], shapes[i, REACH_Y] = reach_x, reach_y
        shapes[i, OPACITY] = opacity
        harmonics(bases, dx, dy, dz, basis)
        red = green = blue = np.float32(0.5)
        for k in range(bases):
            red += basis[k] * sh[i, k, 0]
            green += basis[k] * sh[i, k, 1]
            blue += basis[k] * sh[i, k, 2]
        shapes[i, RED], shapes[i, GREEN], shapes[i, BLUE] = _shown(red), _shown(green), _shown(blue)
        shapes[i, DEPTH] = z
        boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3] = x0, x1, y0, y1
        depths[i] = z


@part
def _tiles(middle: float, reach: float, size: float) -> tuple[int, int]:
    """First and end tile with a pixel's centre within reach; the end is not after the first when there is none."""
    first, last = max(middle - reach - 0.5, 0.0), min(middle + reach - 0.5, size - 1)
    if not last >= first:
        return 0, 0
    return int(first / TILE), int(last / TILE) + 1


@part
def _shown(colour: Any) -> Any:
    """Not below 0, and what overflowed (in either direction, or both) does not spread to other Gaussians."""
    return min(colour, _LARGEST) if colour > 0 else 0.0


@kernel
def order_by_depth(depths: Float32) -> Int32:
    """Indices of the depths above 0, nearest first; equal ones keep their order. A radix sort of the floats' bits."""
    total = depths.shape[0]
    bits = depths.view(np.uint32)
    counts = np.zeros((3, 2048), np.int64)
    seen = 0
    for i in range(total):
        key = bits[i]
        if depths[i] > 0:
            seen += 1
            counts[0, key & 2047] += 1
            counts[1, (key >> 11) & 2047] += 1
            counts[2, key >> 22] += 1
    for k in range(3):
        at = 0
        for digit in range(2048):
            count = counts[k, digit]
            counts[k, digit] = at
            at += count
    order, other = np.empty(seen, np.int32), np.empty(seen, np.int32)
    keys, other_keys = np.empty(seen, np.uint32), np.empty(seen, np.uint32)
    for i in range(total):
        if depths[i] > 0:
            key = bits[i]
            at = counts[0, key & 2047]
            counts[0, key & 2047] += 1
            other[at], other_keys[at] = i, key
    for j in range(seen):
        key = other_keys[j]
        digit = (key >> 11) & 2047
        at = counts[1, digit]
        counts[1, digit] += 1
        order[at], keys[at] = other[j], key
    for j in range(seen):
        digit = keys[j] >> 22
        at = counts[2, digit]
        counts[2, digit] += 1
        other[at] = order[j]
    return other


@kernel
def arrange(
    begin: int, end: int, order: Int32, shapes: Float32, boxes: Int16, ellipses: Float32, ordered_boxes: Int16
) -> None:
    """Ellipses and boxes in the order of drawing: (M, COLUMNS) and (M, 4), written."""
    for j in range(begin, end):
        i = order[j]
        for k in range(COLUMNS):
            ellipses[j, k] = shapes[i, k]
        for k in range(4):
            ordered_boxes[j, k] = boxes[i, k]
