"""What a worker process of the reader does: one page at a time, from a file. `deployments.worker_pool` says why."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from deployments.documents import pdf, summary
from deployments.documents.drawn import rules_in
from deployments.documents.layout import laid_out
from deployments.documents.messages import (
    Box,
    DocumentKind,
    Page,
    PageImage,
    Point,
    Summary,
    Table,
    TextLayer,
    TextLine,
)
from deployments.documents.ocr import OcrEngine
from deployments.documents.rules import Rule
from deployments.documents.segments import Word
from deployments.documents.skew import level_picture, level_words, slant_of, turning
from deployments.documents.upright import read_upright, turned_back
from deployments.worker_process import bound_memory, end_with_parent
from serve.errors import InvalidMedia
from serve.media import tiff
from serve.media.image import ImageLimits, decode_image

# A text layer that is to be used alone: enough of it can be read, and it is more than a stamp on a scan.
_READABLE = 0.9
_SCAN_SHARE, _SCAN_CHARS = 0.5, 200
_JPEG_QUALITY = 90
# Pixels this much higher than wide are taken for square: those of a fine fax, 204 by 196 an inch, among them.
_SQUARE = 0.05


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Bounds of one worker.

    Attributes:
        memory_bytes: of its address space beyond what it has when it is ready.
        max_pixels, max_side: of a page as it is drawn.
        images: what an image file may be.
    """

    threads: int
    memory_bytes: int
    max_pixels: int
    max_side: int
    images: ImageLimits


@dataclass(frozen=True, slots=True)
class _State:
    settings: WorkerSettings
    engine: OcrEngine


_state: _State


def start(settings: WorkerSettings) -> None:
    """Called once in each new process: loads the models, then bounds what documents may make it take."""
    global _state  # noqa: PLW0603 - a process has one engine
    end_with_parent()
    cv2.setNumThreads(settings.threads)
    _state = _State(settings, OcrEngine(settings.threads))
    _state.engine.words(np.full((64, 256, 3), 255, np.uint8))  # the models are loaded by their first use
    bound_memory(settings.memory_bytes)


def ready() -> int:
    """Shows that a worker answers; its process id."""
    return os.getpid()


def count_pages(path: Path, kind: DocumentKind) -> int:
    """Pages of a document; an image has one, unless it is a TIFF.

    Raises:
        InvalidMedia: see `pdf.page_count` and `serve.media.tiff.page_count`.
    """
    return pdf.page_count(path) if kind == "pdf" else tiff.page_count(path.read_bytes())


def read_page(path: Path, kind: DocumentKind, number: int, layer: TextLayer, dpi: int, *, tables: bool) -> Page:
    """Reads a page, counted from 1.

    Raises:
        InvalidMedia: it cannot be read; see `pdf.opened` and `serve.media.image.decode_image`.
    """
    if kind == "image":
        pixels = _picture(path, number)
        height, width = pixels.shape[:2]
        lines, found = _recognised(pixels, 1.0, tables=tables)
        return Page(number, width, height, "pixel", (width, height), "ocr", lines, found)
    with pdf.opened(path, number - 1) as page:
        settings = _state.settings
        width_pt, height_pt = page.size
        scale = page.scale(dpi, settings.max_pixels, settings.max_side)
        shown = (round(width_pt * scale), round(height_pt * scale))
        words = page.words() if layer != "never" else []
        if layer == "always" or (words and _trusted(page, words)):
            lines, found = _laid_out_upright(words, page.rules(), page.quarters(), page.size, tables=tables)
            return Page(number, width_pt, height_pt, "point", shown, "layer", lines, found)
        pixels = page.picture(scale)
    lines, found = _recognised(pixels, 1 / scale, tables=tables)
    return Page(number, width_pt, height_pt, "point", shown, "ocr", lines, found)


def render_page(
    path: Path, kind: DocumentKind, number: int, dpi: int, side: int, format: Literal["jpeg", "png"]
) -> PageImage:
    """A page as a picture file.

    Raises:
        InvalidMedia: see `read_page`.
    """
    if kind == "image":
        whole = Image.fromarray(_picture(path, number))
        picture = ImageOps.contain(whole, (side, side), Image.Resampling.LANCZOS) if max(whole.size) > side else whole
        return _file(number, picture, picture.width / whole.width, "pixel", format)
    settings = _state.settings
    with pdf.opened(path, number - 1) as page:
        scale = page.scale(dpi, settings.max_pixels, min(side, settings.max_side))
        return _file(number, Image.fromarray(page.picture(scale)), scale, "point", format)


def _file(
    number: int, picture: Image.Image, scale: float, unit: Literal["point", "pixel"], format: Literal["jpeg", "png"]
) -> PageImage:
    file = io.BytesIO()
    options = {"quality": _JPEG_QUALITY} if format == "jpeg" else {"compress_level": 1}
    picture.save(file, format.upper(), **options)
    return PageImage(number, file.getvalue(), picture.width, picture.height, scale, unit)


def summarise(pages: tuple[Page, ...]) -> Summary:
    """See `deployments.documents.summary.summarise`."""
    return summary.summarise(pages)


def _trusted(page: pdf.PdfPage, words: list[Word]) -> bool:
    if pdf.readable_share(words) < _READABLE:
        return False
    return sum(len(word.text) for word in words) >= _SCAN_CHARS or page.image_share() < _SCAN_SHARE


def _laid_out_upright(
    words: list[Word], rules: list[Rule], quarters: int, size: Point, *, tables: bool
) -> tuple[tuple[TextLine, ...], tuple[Table, ...]]:
    """Lines and tables of a page that is to be turned by so many quarters to be read, in places as it is shown."""
    if not quarters:
        return laid_out(words, rules, tables=tables)
    width, height = size
    turn = turned_back(4 - quarters, *(size if quarters == 2 else (height, width)))
    upright = [Word(word.text, _placed_box(word.box, turn), word.score) for word in words]
    lines, found = laid_out(upright, [rule.placed(turn) for rule in rules], tables=tables)
    back = turned_back(quarters, width, height)
    return tuple(_placed_line(line, back, 1.0) for line in lines), tuple(_placed_table(one, back) for one in found)


def _picture(path: Path, number: int) -> npt.NDArray[np.uint8]:
    """A page of an image file, with square pixels."""
    data, limits = tiff.one_page(path.read_bytes(), number), _state.settings.images
    return np.asarray(_squared(decode_image(data, limits), tiff.pixel_aspect(data), limits), np.uint8)


def _squared(image: Image.Image, aspect: float, limits: ImageLimits) -> Image.Image:
    """The picture with pixels as high as wide: stretched, or shrunk the other way where that would be too large."""
    if abs(aspect - 1) <= _SQUARE:
        return image
    width, height = image.size
    tall, narrow = (width, max(1, round(height * aspect))), (max(1, round(width / aspect)), height)
    large, small = (tall, narrow) if aspect > 1 else (narrow, tall)
    fits = max(large) <= limits.max_side and large[0] * large[1] <= limits.max_pixels
    return image.resize(large if fits else small, Image.Resampling.LANCZOS)


def _recognised(
    pixels: npt.NDArray[np.uint8], unit: float, *, tables: bool
) -> tuple[tuple[TextLine, ...], tuple[Table, ...]]:
    """Lines and tables of a picture, in units of which each of its pixels is `unit`."""
    height, width = pixels.shape[:2]
    try:
        words, turned, quarters = read_upright(_state.engine.words, pixels)
        centre = (turned.shape[1] / 2, turned.shape[0] / 2)
        if slant := slant_of(turned, words):
            words, turned = level_words(words, slant, centre), level_picture(turned, slant)
        lines, found = laid_out(words, rules_in(turned), tables=tables)
    except (MemoryError, cv2.error) as error:
        raise InvalidMedia("The page needs more memory than a page may take.", code="page_too_large") from error
    askew, back = turning(slant, centre), turned_back(quarters, width, height)

    def place(point: Point) -> Point:
        x, y = back(askew(point))
        return x * unit, y * unit

    return tuple(_placed_line(line, place, unit) for line in lines), tuple(_placed_table(one, place) for one in found)


def _placed_line(line: TextLine, place: Callable[[Point], Point], unit: float) -> TextLine:
    assert line.quad is not None, "what was recognised has a place"
    a, b, c, d = line.quad
    return replace(line, quad=(place(a), place(b), place(c), place(d)), height=line.height * unit)


def _placed_table(table: Table, place: Callable[[Point], Point]) -> Table:
    assert table.box is not None, "what was recognised has a place"
    cells = tuple(replace(cell, box=_placed_box(cell.box, place)) for cell in table.cells)
    return replace(table, box=_placed_box(table.box, place), cells=cells)


def _placed_box(box: Box, place: Callable[[Point], Point]) -> Box:
    xs, ys = zip(*map(place, box.quad), strict=True)
    return Box(min(xs), min(ys), max(xs), max(ys))
