"""Pages that do not stand upright."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from deployments.documents.messages import Box
from deployments.documents.segments import Word
from deployments.documents.upright import read_upright, turned_back

Pixels = npt.NDArray[np.uint8]


def page() -> Pixels:
    """White, with a dark word near the upper left: rows 10 to 20, columns 10 to 70."""
    pixels = np.full((120, 200, 3), 255, np.uint8)
    pixels[10:20, 10:70] = 0
    return pixels


def read(pixels: Pixels) -> list[Word]:
    """A recogniser that finds the dark word, and is sure of it when it stands as in `page`."""
    rows, columns = np.nonzero(pixels[:, :, 0] == 0)
    if not len(rows):
        return []
    box = Box(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    upright = box.width > box.height and box.left < pixels.shape[1] / 2 and box.top < pixels.shape[0] / 2
    return [Word("upright" if upright else "1461.dn", box, 0.99 if upright else 0.6)]


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_turned_page_is_read_upright_and_placed_as_it_lies(quarters: int) -> None:
    lying = np.ascontiguousarray(np.rot90(page(), quarters))
    words, turned, back = read_upright(read, lying)
    assert [word.text for word in words] == ["upright"]
    assert np.array_equal(turned, page())
    assert (quarters + back) % 4 == 0
    height, width = lying.shape[:2]
    place = turned_back(back, width, height)
    box = words[0].box
    (x0, y0), (x1, y1) = place((box.left, box.top)), place((box.right, box.bottom))
    assert (lying[int(min(y0, y1)) : int(max(y0, y1)), int(min(x0, x1)) : int(max(x0, x1))] == 0).all()


def test_an_upright_page_is_read_once() -> None:
    asked: list[tuple[int, ...]] = []

    def counted(pixels: Pixels) -> list[Word]:
        asked.append(pixels.shape)
        return read(pixels)

    read_upright(counted, page())
    read_upright(counted, np.full((50, 50, 3), 255, np.uint8))
    assert len(asked) == 2


def test_a_page_that_is_hard_to_read_either_way_is_left_as_it_is() -> None:
    def unsure(pixels: Pixels) -> list[Word]:
        return [Word("murky", word.box, 0.5) for word in read(pixels)]

    words, turned, quarters = read_upright(unsure, page())
    assert quarters == 0
    assert np.array_equal(turned, page())
    assert words[0].score == 0.5
