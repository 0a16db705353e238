"""Fonts for drawn texts: what can be drawn is, the rest is marked."""

from __future__ import annotations

import matplotlib
import pytest
from PIL import ImageFont

from deployments.florence2 import fonts
from deployments.florence2.fonts import USUAL, drawable


@pytest.fixture
def carried_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other fonts than those that matplotlib carries."""
    own = matplotlib.get_data_path()
    found = [path for path in fonts._installed() if path.startswith(own)]
    monkeypatch.setattr(fonts, "_installed", lambda: found)


def ink(path: str, character: str) -> bytes:
    return bytes(ImageFont.truetype(path, 40).getmask(character))


def test_usual_texts_are_drawn_in_the_usual_font() -> None:
    texts = ["a star", "ένα", "звезда", "two\nlines", ""]
    assert drawable(texts) == (USUAL, texts)


def test_another_font_is_taken_where_it_has_what_the_usual_one_lacks(carried_only: None) -> None:
    path, texts = drawable(["a star", "כוכב"])
    assert path != USUAL
    assert texts == ["a star", "כוכב"]
    # A font draws what it lacks as the box that it has for U+FFFF too.
    assert all(ink(path, character) != ink(path, "\uffff") for character in "כוb")


def test_what_no_font_has_is_marked(carried_only: None) -> None:
    path, texts = drawable(["a 星", "🧿"])
    assert path == USUAL
    assert texts == ["a �", "�"]
    assert ink(path, "�") != ink(path, "\uffff")
