"""Printed words to learn reading from: words kept for measurements, random ones, and pages of several lines."""

from __future__ import annotations

import random
import string
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from demo.scenes import Box, Scene, printed_text, render

GLYPHS = string.ascii_uppercase + string.digits


@dataclass(frozen=True, slots=True)
class Line:
    """A printed line: its text, the tight box in pixels and the font size in pixels."""

    text: str
    box: Box
    height: float


def is_seen(word: str) -> bool:
    """Whether a word may be trained on: one word in eight, the same on every machine, is for measurements only."""
    return zlib.crc32(word.encode()) % 8 != 0


def random_word(rng: random.Random, length: int, *, seen: bool = True, alphabet: str = string.ascii_uppercase) -> str:
    """Random letters that are, or are not, for training."""
    while True:
        word = "".join(rng.choices(alphabet, k=length))
        if is_seen(word) == seen:
            return word


def reworded(scene: Scene, text: str) -> Scene:
    """The scene with other letters printed; as many as before, since they have to fit where the word is."""
    if scene.word is None or len(text) != len(scene.word.text):
        raise ValueError("the scene has no word of this length")
    return replace(scene, word=replace(scene.word, text=text))


def scene_lines(scene: Scene, size: int) -> tuple[Line, ...]:
    """The scene's printed word, if it has one."""
    printed = printed_text(scene, size)
    if printed is None or scene.word is None:
        return ()
    return (Line(printed.text, printed.box, max(scene.word.height * size, 4.0)),)


def draw_page(scene: Scene, size: int, rng: random.Random) -> tuple[NDArray[np.uint8], tuple[Line, ...]]:
    """The scene's background with one to four lines of one or two words: (size, size, 3) uint8, and the lines."""
    picture = Image.fromarray(render(replace(scene, objects=(), word=None), size))
    canvas = ImageDraw.Draw(picture)
    bright = sum(scene.background.start) > 3 * 125
    ink = tuple(rng.randrange(40) + (0 if bright else 215) for _ in range(3))
    count = rng.randint(1, 4)
    lines = []
    for number in range(count):
        height = size * rng.uniform(0.09, min(0.2, 0.8 / count))
        font = _font(round(height))
        words = [_page_word(rng) for _ in range(rng.randint(1, 2))]
        while len(words) > 1 and font.getlength(" ".join(words)) > 0.94 * size:
            words.pop()
        text = " ".join(words)
        left, top, right, bottom = font.getbbox(text)
        x = rng.uniform(0.02 * size, max(0.97 * size - (right - left), 0.03 * size))
        y = size * (number + rng.uniform(0.08, 0.2)) / count
        canvas.text((x - left, y - top), text, fill=ink, font=font)
        box = Box(x, y, min(x + right - left, float(size)), min(y + bottom - top, float(size)))
        lines.append(Line(text, box, float(round(height))))
    return np.asarray(picture), tuple(lines)


def glyph_boxes(line: Line) -> list[tuple[str, Box]]:
    """Each letter of a line with the box between its neighbours, in pixels."""
    font = _font(round(line.height))
    start = font.getbbox(line.text)[0]
    edges = [line.box.left + font.getlength(line.text[:end]) - start for end in range(len(line.text) + 1)]
    return [
        (letter, Box(edges[place], line.box.top, edges[place + 1], line.box.bottom))
        for place, letter in enumerate(line.text)
        if letter in GLYPHS
    ]


def _page_word(rng: random.Random) -> str:
    alphabet = GLYPHS if rng.random() < 0.3 else string.ascii_uppercase
    return random_word(rng, rng.randint(2, 6), alphabet=alphabet)


@lru_cache(maxsize=256)
def _font(height: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(height)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, which printed words need")
    return font
