"""The kernel that takes a loss's gradient from pixels back to ellipses.

It draws each tile once more, nearest first. With e_i what ellipse i adds to the loss per unit of weight, w_i its weight
and T_i the light before it, the loss is linear in the picture, so that

    d loss / d alpha_i = T_i e_i - (all - sum over j <= i of w_j e_j) / (1 - alpha_i),

where `all` is known from the finished picture. Nothing but that picture is kept from the forward pass.
"""

from __future__ import annotations

import math

import numpy as np

from deployments.splat.cpu_blend import E0, E1, E2, E3, E4, E5, LEAST_LIGHT, MOST_ALPHA, TOGETHER, dark
from deployments.splat.cpu_jit import kernel
from deployments.splat.cpu_project import (
    BLUE,
    COLUMNS,
    DEPTH,
    GREEN,
    LIMIT,
    OPACITY,
    REACH_Y,
    RED,
    TILE,
    A,
    B,
    C,
    Float32,
    Int32,
    Int64,
    U,
    V,
)

_SUMS = 9


@kernel
def blend_gradient(
    first: int,
    end: int,
    starts: Int64,
    listed: Int32,
    ellipses: Float32,
    across: int,
    slopes: Float32,
    total: Float32,
) -> Float32:
    """Gradients of the ellipses' columns, (M, COLUMNS), from the tiles `first` to `end`; limit and reaches have none.

    Args:
        slopes: (5, height, width): of the loss, by the sums over weights times red, green, blue, depth and one.
        total: (height, width): `all` above, the background included.
    """
    height, width = total.shape
    out = np.zeros((ellipses.shape[0], COLUMNS), np.float32)
    # A row of 16 pixels is one line, as in `blend`: what shines through, what is left of `all`, and the five slopes.
    lines = np.empty((TILE, 7 * TILE), np.float32)
    batch = np.empty((TOGETHER, COLUMNS), np.float32)
    sums = np.empty((_SUMS, TILE), np.float32)
    scale = np.float32(math.sqrt(1 / 8))
    for tile in range(first, end):
        top, left = tile // across * TILE, tile % across * TILE
        # An integer and a float32 make a float64 here, which is half as fast.
        corner_x, corner_y = np.float32(left + 0.5), np.float32(top + 0.5)
        rows, columns = min(TILE, height - top), min(TILE, width - left)
        lines[:, :TILE] = -1
        lines[:, TILE:] = 0
        for y in range(rows):
            lines[y, :columns] = 1
            lines[y, TILE : TILE + columns] = total[top + y, left : left + columns]
            for k in range(5):
                lines[y, (2 + k) * TILE : (2 + k) * TILE + columns] = slopes[k, top + y, left : left + columns]
        at, stop = starts[tile] - starts[first], starts[tile + 1] - starts[first]
        while at < stop and not dark(lines):
            count = min(TOGETHER, stop - at)
            for k in range(count):
                j = listed[at + k]
                for column in range(COLUMNS):
                    batch[k, column] = ellipses[j, column]
            for k in range(count):
                j = listed[at + k]
                u, v = batch[k, U] - corner_x, batch[k, V] - corner_y
                a, b, c = batch[k, A] * scale, batch[k, B] * scale, batch[k, C] * scale
                least, opacity = batch[k, LIMIT] * np.float32(-0.125), batch[k, OPACITY]
                r, g, bl, z = batch[k, RED], batch[k, GREEN], batch[k, BLUE], batch[k, DEPTH]
                reach = batch[k, REACH_Y]
                y0 = int(max(v - reach + np.float32(1), np.float32(0)))
                y1 = int(min(v + reach, np.float32(TILE - 1))) + 1
                sums[:] = 0
                for y in range(y0, y1):
                    line = lines[y]
                    dy = np.float32(y) - v
                    q0 = c * dy
                    q0 = -q0 * q0
                    p0 = b * dy - a * u
                    for x in range(TILE):
                        p = a * np.float32(x) + p0
                        q = q0 - p * p
                        e = E0 + q * (E1 + q * (E2 + q * (E3 + q * (E4 + q * E5))))
                        e = e * e
                        e = e * e
                        e = e * e
                        e = e if q >= least else np.float32(0)
                        free = opacity * e
                        cover = min(MOST_ALPHA, free)
                        before = line[x]
                        weight = cover * before
                        after = before - weight
                        ends = after <= LEAST_LIGHT
                        weight = np.float32(0) if ends else weight
                        line[x] = -abs(before) if ends else after
                        value = (
                            r * line[2 * TILE + x]
                            + g * line[3 * TILE + x]
                            + bl * line[4 * TILE + x]
                            + z * line[5 * TILE + x]
                            + line[6 * TILE + x]
                        )
                        behind = line[TILE + x] - weight * value
                        line[TILE + x] = behind
                        slope = before * value - behind / (np.float32(1) - cover)
                        slope = slope if weight > 0 and free <= MOST_ALPHA else np.float32(0)
                        # By s; e is the same whether s is in eighths or not.
                        bend = -slope * free
                        sums[0, x] += weight * line[2 * TILE + x]
                        sums[1, x] += weight * line[3 * TILE + x]
                        sums[2, x] += weight * line[4 * TILE + x]
                        sums[3, x] += weight * line[5 * TILE + x]
                        sums[4, x] += slope * e
                        sums[5, x] += bend * p
                        sums[6, x] += bend * p * dy
                        sums[7, x] += bend * dy
                        sums[8, x] += bend * dy * dy
                red = green = blue = far = clear = steep = lean = lift = bow = tilt = np.float32(0)
                for x in range(TILE):
                    red += sums[0, x]
                    green += sums[1, x]
                    blue += sums[2, x]
                    far += sums[3, x]
                    clear += sums[4, x]
                    steep += sums[5, x]
                    tilt += sums[5, x] * (np.float32(x) - u)
                    lean += sums[6, x]
                    lift += sums[7, x]
                    bow += sums[8, x]
                # s = p p + q q, and p is scaled by root 1/8 here.
                twice = 2 / scale
                out[j, RED] += red
                out[j, GREEN] += green
                out[j, BLUE] += blue
                out[j, DEPTH] += far
                out[j, OPACITY] += clear
                out[j, A] += twice * tilt
                out[j, B] += twice * lean
                out[j, C] += 2 * batch[k, C] * bow
                out[j, U] -= twice * steep * batch[k, A]
                out[j, V] -= twice * steep * batch[k, B] + 2 * batch[k, C] * batch[k, C] * lift
            at += count
    return out
