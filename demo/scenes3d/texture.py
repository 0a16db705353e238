"""Colours for surfaces: noise of several sizes and a checker, with detail that feature detectors hold on to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: Cells of the table of random values; the noise repeats after so many.
_CELLS = 256


def noise(places: Floats, seed: int, sizes: tuple[float, ...]) -> Floats:
    """Value noise: (N, 3) about 0 and mostly from -1 to 1, at places (N, 2); `sizes` are those of its grains."""
    total = np.zeros((len(places), 3))
    for number, size in enumerate(sizes):
        table = np.random.default_rng([seed, number]).uniform(-1, 1, (_CELLS, _CELLS, 3))
        total += _between(table, places / size)
    return total / np.sqrt(len(sizes))


def checker(places: Floats, size: float) -> Floats:
    """(N,) of -1 and 1: fields of a board."""
    return 1.0 - 2.0 * (np.floor(places / size).sum(1) % 2)


def _between(table: Floats, places: Floats) -> Floats:
    """Bilinear interpolation in a table that repeats."""
    cell = np.floor(places).astype(np.intp)
    u, v = (places - cell).T[..., None]
    x, y = (cell % _CELLS).T
    right, below = (x + 1) % _CELLS, (y + 1) % _CELLS
    upper = table[y, x] * (1 - u) + table[y, right] * u
    lower = table[below, x] * (1 - u) + table[below, right] * u
    mixed: Floats = upper * (1 - v) + lower * v
    return mixed
