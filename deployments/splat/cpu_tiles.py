"""Kernels that find which ellipses touch which tile of a picture.

A tile's list is exact: the stretch of tiles that an ellipse covers is found for each row of tiles (as in Hanson et al.
2024, Speedy-Splat), not for its bounding box.
"""

from __future__ import annotations

import math

import numpy as np

from deployments.splat.cpu_jit import kernel, part
from deployments.splat.cpu_project import LIMIT, REACH_Y, TILE, A, B, C, Float32, Int16, Int32, Int64, U, V


@part
def _stretch(ellipses: Float32, boxes: Int16, j: int, row: int) -> tuple[int, int]:
    """First and end tile of a row of tiles that ellipse `j` covers."""
    x0, x1 = np.int64(boxes[j, 0]), np.int64(boxes[j, 1])
    if x1 - x0 > 1 and boxes[j, 3] - boxes[j, 2] > 1:
        a, b, c, limit = ellipses[j, A], ellipses[j, B], ellipses[j, C], ellipses[j, LIMIT]
        top = max(row * TILE + np.float32(0.5) - ellipses[j, V], -ellipses[j, REACH_Y])
        end = min((row + 1) * TILE - np.float32(0.5) - ellipses[j, V], ellipses[j, REACH_Y])
        # The edges are at dx = (-b dy -+ sqrt(limit - c c dy dy)) / a; the leftmost point is at dy = tip, the rightmost
        # opposite.
        tip = b / c * math.sqrt(limit / (b * b + c * c))
        low = min(max(tip, top), end)
        high = min(max(-tip, top), end)
        left = (-b * low - math.sqrt(max(limit - c * c * low * low, np.float32(0)))) / a
        right = (-b * high + math.sqrt(max(limit - c * c * high * high, np.float32(0)))) / a
        u = ellipses[j, U] - np.float32(0.5)
        x0 = max(x0, np.int64(math.floor(max((u + left) / TILE, np.float32(-1)))))
        x1 = min(x1, np.int64(math.floor(min((u + right) / TILE, np.float32(32767)))) + 1)
    return x0, x1  # type: ignore[return-value]


@kernel
def count_tiles(first: int, end: int, ellipses: Float32, boxes: Int16, across: int, counts: Int64) -> None:
    """How many ellipses touch each tile of the rows of tiles `first` to `end`; `counts` starts at 0."""
    for j in range(boxes.shape[0]):
        for row in range(max(first, boxes[j, 2]), min(end, boxes[j, 3])):
            x0, x1 = _stretch(ellipses, boxes, j, row)
            for tile in range(row * across + x0, row * across + x1):
                counts[tile] += 1


@kernel
def list_tiles(first: int, end: int, ellipses: Float32, boxes: Int16, across: int, starts: Int64) -> Int32:
    """The ellipses that touch each of the tiles `first` to `end`, a tile's after the other's, nearest first.

    Args:
        starts: (tiles + 1,): where each tile's list would start if those of all tiles were one list.
    """
    listed = np.empty(starts[end] - starts[first], np.int32)
    at = starts[first:end] - starts[first]
    for j in range(boxes.shape[0]):
        for row in range(max(first // across, boxes[j, 2]), min((end - 1) // across + 1, boxes[j, 3])):
            x0, x1 = _stretch(ellipses, boxes, j, row)
            for tile in range(max(first, row * across + x0), min(end, row * across + x1)):
                listed[at[tile - first]] = j
                at[tile - first] += 1
    return listed
