"""A font that can draw a text: the one that matplotlib carries, else an installed one that has what this one lacks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import matplotlib
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font

# It covers Latin, Greek and Cyrillic; its letters are of one width.
USUAL = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSansMono.ttf"
# Has a picture of a box for every character there is.
_LAST_RESORT = "LastResort"
# Stands for a character that no font here has.
_UNKNOWN = "�"
_LATIN = frozenset(map(ord, "azAZ09"))


def drawable(texts: Iterable[str]) -> tuple[str, list[str]]:
    """The path of one font for all texts, and the texts, in which the sign for an unknown character stands for what it
    lacks: nothing is drawn as an empty box.

    Chinese, Japanese and Korean need an installed font, such as Noto Sans CJK; none is downloaded.
    """
    given = list(texts)
    wanted = {ord(character) for text in given for character in text if not character.isspace()}
    path = _font(frozenset(wanted - _characters(USUAL)))
    known = _characters(path)
    return path, ["".join(c if c.isspace() or ord(c) in known else _UNKNOWN for c in text) for text in given]


@cache
def _installed() -> list[str]:
    """Fonts in the order of their names, so that the same text is always drawn alike."""
    return sorted({font.fname for font in fontManager.ttflist if _LAST_RESORT not in font.fname})


@cache
def _characters(path: str) -> frozenset[int]:
    return frozenset(FT2Font(path).get_charmap())


def _font(missing: frozenset[int]) -> str:
    """Of the installed fonts one that has what the usual one lacks, and Latin letters beside it."""
    if not missing:
        return USUAL
    needed = missing | _LATIN
    return next((path for path in _installed() if needed <= _characters(path)), USUAL)
