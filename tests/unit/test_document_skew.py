"""Pages that were scanned askew."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from deployments.documents.layout import laid_out
from deployments.documents.messages import Box, Quad, TextLine
from deployments.documents.segments import Word
from deployments.documents.skew import level_lines, level_picture, level_words, slant_of, turning

CENTRE = (400.0, 300.0)
ROWS = [[f"row{r}{'abc'[c]}" for c in range(3)] for r in range(12)]


def page(slant: float) -> tuple[npt.NDArray[np.uint8], list[Word]]:
    """Rows of three words far from each other on 800 by 600 pixels, turned about the middle, and where they stand."""
    pixels = np.full((600, 800, 3), 255, np.uint8)
    turned = turning(slant, CENTRE)
    words: list[Word] = []
    for r, row in enumerate(ROWS):
        for c, text in enumerate(row):
            left, bottom = 80 + 280 * c, 90 + 38 * r
            cv2.putText(pixels, text, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 2)
            corners = ((left, bottom - 18), (left + 86, bottom - 18), (left + 86, bottom), (left, bottom))
            a, b, c_, d = (turned(corner) for corner in corners)
            box = Box(min(a[0], d[0]), (a[1] + b[1]) / 2, max(b[0], c_[0]), (c_[1] + d[1]) / 2)
            words.append(Word(text, box, 1.0, (a, b, c_, d)))
    return level_picture(pixels, -slant), words


@pytest.mark.parametrize("degrees", [-3.0, -0.7, 0.0, 0.4, 1.5, 5.0])
def test_the_slant_of_a_page_is_found(degrees: float) -> None:
    pixels, words = page(math.radians(degrees))
    assert math.degrees(slant_of(pixels, words)) == pytest.approx(degrees, abs=0.1)


def test_a_page_without_text_has_no_slant() -> None:
    assert slant_of(np.full((100, 100, 3), 255, np.uint8), []) == 0.0


@pytest.mark.parametrize("degrees", [-3.0, 1.5])
def test_rows_of_a_page_that_was_levelled_stay_rows(degrees: float) -> None:
    pixels, words = page(math.radians(degrees))
    slant = slant_of(pixels, words)
    (found,) = laid_out(level_words(words, slant, CENTRE), [])[1]
    assert [list(found.headers), *map(list, found.rows)] == ROWS
    # Where they stand on the page as it was: turned back, they are in their old places.
    askew = turning(slant, CENTRE)
    for word, level in zip(words, level_words(words, slant, CENTRE), strict=True):
        assert word.quad is not None
        assert level.quad is not None
        for corner, old in zip(level.quad, word.quad, strict=True):
            assert askew(corner) == pytest.approx(old)


def line(text: str, left: float, top: float, degrees: float) -> TextLine:
    turned = turning(math.radians(degrees), (0.0, 0.0))
    a, b, c, d = map(turned, Box(left, top, left + 9 * len(text), top + 10).quad)
    quad: Quad = (a, b, c, d)
    return TextLine(text, quad, 1.0, 10.0)


@pytest.mark.parametrize("degrees", [-90, -2, 0, 3, 90, 180])
def test_lines_of_a_turned_page_stand_level(degrees: float) -> None:
    lines = [line("some words", 10, 10, degrees), line("far from them", 400, 10, degrees), line("x", 10, 40, -45)]
    first, second, _ = level_lines(lines)
    assert first.quad is not None
    assert second.quad is not None
    assert [y for _, y in first.quad] == pytest.approx([10, 10, 20, 20])
    assert second.quad[0][1] == pytest.approx(first.quad[0][1])
    assert second.quad[0][0] - first.quad[0][0] == pytest.approx(390)


def test_lines_without_a_place_are_left_as_they_are() -> None:
    lines = [TextLine("one"), TextLine("two")]
    assert level_lines(lines) == lines
