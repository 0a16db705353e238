"""The kernel that blends a tile's ellipses into its pixels, nearest first.

Each step works on a row of 16 pixels without a branch, so that the compiler makes vectors of it. e to the power -s is a
polynomial of s / 8, squared three times: right to 1e-6 over all that is drawn.
"""

from __future__ import annotations

import math

import numpy as np

from deployments.splat.cpu_jit import kernel, part
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

MOST_ALPHA = np.float32(0.999)
LEAST_LIGHT = np.float32(1e-4)
# Of e ** q for q from -log(255) / 8 to 0, least relative error.
E0, E1, E2 = np.float32(0.99999993), np.float32(0.99999292), np.float32(0.49988725)
E3, E4, E5 = np.float32(0.16599422), np.float32(0.03980833), np.float32(0.0058688)
# Ellipses that are fetched together; before each such batch it is asked whether any light is left.
TOGETHER = 32


@kernel
def blend(
    first: int,
    end: int,
    starts: Int64,
    listed: Int32,
    ellipses: Float32,
    across: int,
    background: Float32,
    rgb: Float32,
    alpha: Float32,
    depth: Float32,
) -> None:
    """Draws the tiles `first` to `end`.

    Args:
        starts, listed: as of `list_tiles`.
        rgb: (height, width, 3), written; alpha and depth (height, width) as well.
    """
    height, width = alpha.shape
    # A row of 16 pixels is one line of memory: what shines through (below 0 once nothing more is drawn there), red,
    # green, blue, and depth. As arrays of their own the compiler would ask for each row whether they overlap.
    lines = np.empty((TILE, 5 * TILE), np.float32)
    batch = np.empty((TOGETHER, COLUMNS), np.float32)
    scale = np.float32(math.sqrt(1 / 8))
    for tile in range(first, end):
        top, left = tile // across * TILE, tile % across * TILE
        # An integer and a float32 make a float64 here, which is half as fast.
        corner_x, corner_y = np.float32(left + 0.5), np.float32(top + 0.5)
        lines[:, :TILE] = 1
        lines[:, TILE:] = 0
        at, stop = starts[tile] - starts[first], starts[tile + 1] - starts[first]
        while at < stop and not dark(lines):
            # Their values lie far apart in memory: fetched together, the waits for them overlap.
            count = min(TOGETHER, stop - at)
            for k in range(count):
                j = listed[at + k]
                for column in range(COLUMNS):
                    batch[k, column] = ellipses[j, column]
            at += count
            for k in range(count):
                u, v = batch[k, U] - corner_x, batch[k, V] - corner_y
                a, b, c = batch[k, A] * scale, batch[k, B] * scale, batch[k, C] * scale
                least, opacity = batch[k, LIMIT] * np.float32(-0.125), batch[k, OPACITY]
                red, green, blue, z = batch[k, RED], batch[k, GREEN], batch[k, BLUE], batch[k, DEPTH]
                reach = batch[k, REACH_Y]
                y0 = int(max(v - reach + np.float32(1), np.float32(0)))
                y1 = int(min(v + reach, np.float32(TILE - 1))) + 1
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
                        cover = min(MOST_ALPHA, opacity * e) if q >= least else np.float32(0)
                        before = line[x]
                        weight = cover * before
                        after = before - weight
                        ends = after <= LEAST_LIGHT
                        weight = np.float32(0) if ends else weight
                        line[x] = -abs(before) if ends else after
                        line[TILE + x] += weight * red
                        line[2 * TILE + x] += weight * green
                        line[3 * TILE + x] += weight * blue
                        line[4 * TILE + x] += weight * z
        for y in range(min(TILE, height - top)):
            for x in range(min(TILE, width - left)):
                light = abs(lines[y, x])
                for channel in range(3):
                    rgb[top + y, left + x, channel] = lines[y, (1 + channel) * TILE + x] + light * background[channel]
                alpha[top + y, left + x] = 1 - light
                depth[top + y, left + x] = lines[y, 4 * TILE + x] / (1 - light) if light < 1 else 0


@part
def dark(lines: Float32) -> bool:
    """Whether nothing more is drawn anywhere in the tile."""
    most = np.float32(-1)
    for y in range(TILE):
        for x in range(TILE):
            most = max(most, lines[y, x])
    return bool(most < 0)
