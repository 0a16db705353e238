"""Pages that were scanned upside down or on their side: read again as they should stand, and placed as they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from deployments.documents.messages import Point
from deployments.documents.segments import Word

Pixels = npt.NDArray[np.uint8]

# The recogniser is this sure of text that stands upright; of upside-down text its mean confidence is 0.6 to 0.75.
_SURE = 0.85
# Words of this many letters are wider than high.
_LONG = 4


def read_upright(read: Callable[[Pixels], list[Word]], pixels: Pixels) -> tuple[list[Word], Pixels, int]:
    """The words of a page, the page as it was read, and by how many quarters it was turned for that.

    Args:
        read: finds words in a picture.
        pixels: (height, width, 3) uint8 RGB.

    Returns:
        Words with their places in the turned page; quarters counter-clockwise, for `turned_back`.
    """
    words = read(pixels)
    if not words or (_sureness(words) >= _SURE and not _on_its_side(words)):
        return words, pixels, 0
    best = (words, pixels, 0)
    for quarters in (1, 3) if _on_its_side(words) else (2,):
        turned = np.ascontiguousarray(np.rot90(pixels, quarters))
        found = read(turned)
        if found and not _on_its_side(found) and (best[2] == 0 or _sureness(found) > _sureness(best[0])):
            best = (found, turned, quarters)
        if _sureness(found) >= _SURE:
            break
    return best if best[2] % 2 or _sureness(best[0]) > _sureness(words) else (words, pixels, 0)


def turned_back(quarters: int, width: float, height: float) -> Callable[[Point], Point]:
    """From places on a turned page to places on the page as it was.

    Args:
        quarters: see `read_upright`.
        width, height: of the page as it was.
    """
    return {
        0: lambda point: point,
        1: lambda point: (width - point[1], point[0]),
        2: lambda point: (width - point[0], height - point[1]),
        3: lambda point: (point[1], height - point[0]),
    }[quarters]


def _sureness(words: Sequence[Word]) -> float:
    letters = sum(len(word.text) for word in words)
    return sum(word.score * len(word.text) for word in words) / letters if letters else 0.0


def _on_its_side(words: Sequence[Word]) -> bool:
    long = [word for word in words if len(word.text) >= _LONG]
    return 2 * sum(word.box.height > word.box.width for word in long) > len(long)
