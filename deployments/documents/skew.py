"""Pages that were scanned a little askew: by how much, and what stands on them as it would on a straight page.

The engine reads slanted lines well, but layout compares heights and left edges, and at one degree the right end of a
line stands level with the left end of the next. The slant is that at which the rows of the page's dark pixels differ
most from each other (Postl 1986, "Detection of linear oblique structures and skew scan in digitized documents").
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from deployments.documents.messages import Box, Point, Quad, TextLine
from deployments.documents.segments import Word

Pixels = npt.NDArray[np.uint8]

# Slants that are looked for, in degrees: a sheet that was drawn in askew, not a turned one; first in steps of half a
# degree. Below the least one lines of a page's width stay apart.
_MOST, _COARSE, _FINE, _LEAST = 6.0, 0.5, 0.1, 0.2
# Dark pixels that are looked at; of more, some.
_PIXELS = 200_000


def slant_of(pixels: Pixels, words: Sequence[Word]) -> float:
    """How far the lines of a page fall to the right, in radians; negative when they rise, 0 on a straight page.

    Args:
        pixels: (height, width, 3) uint8 RGB.
        words: found in it; nothing else is looked at.
    """
    text = np.zeros(pixels.shape[:2], np.uint8)
    for word in words:
        left, top, right, bottom = (round(side) for side in word.box)
        text[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = 1
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    dark = cv2.adaptiveThreshold(grey, 1, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, 25, 10) * text
    y, x = np.nonzero(dark)
    if not len(y):
        return 0.0
    some = slice(None, None, len(y) // _PIXELS + 1)
    y, x = y[some], x[some]

    def contrast(degrees: float) -> float:
        rows = np.round(y - x * math.tan(math.radians(degrees))).astype(np.int64)
        return float(np.square(np.diff(np.bincount(rows - rows.min()).astype(np.float64))).sum())

    def best(middle: float, reach: float, step: float) -> float:
        steps = round(reach / step)
        return max((middle + step * i for i in range(-steps, steps + 1)), key=contrast)

    found = best(best(0.0, _MOST, _COARSE), _COARSE, _FINE)
    return math.radians(found) if abs(found) >= _LEAST else 0.0


def turning(slant: float, centre: Point) -> Callable[[Point], Point]:
    """Turns points by an angle in radians, clockwise as the page is seen."""
    about, turn = complex(*centre), cmath.rect(1.0, slant)

    def turned(point: Point) -> Point:
        place = about + (complex(*point) - about) * turn
        return place.real, place.imag

    return turned


def level_picture(pixels: Pixels, slant: float) -> Pixels:
    """The picture turned about its middle so that lines that fall by `slant` are level; its size stays."""
    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), math.degrees(slant), 1.0)
    white = (255.0, 255.0, 255.0)
    return np.asarray(cv2.warpAffine(pixels, matrix, (width, height), borderValue=white), np.uint8)


def level_words(words: Iterable[Word], slant: float, centre: Point) -> list[Word]:
    """The words on the page that is turned so."""
    turned = turning(-slant, centre)
    return [_level_word(word, turned) for word in words]


def level_lines(lines: Sequence[TextLine]) -> list[TextLine]:
    """Lines of a page as they stand when most of its text runs level to the right."""
    placed = [line.quad for line in lines if line.quad is not None]
    runs = [complex(b[0] - a[0], b[1] - a[1]) for a, b, _, _ in placed]
    along = sum(runs)
    if not abs(along):
        return list(lines)
    # The median of what is written: the mean alone would follow a stamp.
    offs = sorted((cmath.phase(run / along), abs(run)) for run in runs if run)
    reached = np.cumsum([length for _, length in offs])
    slant = cmath.phase(along) + offs[int(np.searchsorted(reached, reached[-1] / 2))][0]
    turned = turning(-slant, (0.0, 0.0))
    return [line if line.quad is None else replace(line, quad=_turned(line.quad, turned)) for line in lines]


def _level_word(word: Word, turned: Callable[[Point], Point]) -> Word:
    x, y = turned(((word.box.left + word.box.right) / 2, (word.box.top + word.box.bottom) / 2))
    quad = _turned(word.quad or word.box.quad, turned)
    (ax, _), (bx, _), (cx, _), (dx, _) = quad
    width, height = (bx + cx - ax - dx) / 2, word.box.height
    return replace(word, box=Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2), quad=quad)


def _turned(quad: Quad, turned: Callable[[Point], Point]) -> Quad:
    a, b, c, d = map(turned, quad)
    return a, b, c, d
