"""Who reads documents: the reader's own OCR, Florence-2, and chat models (ours or a provider's).

The others than the reader see pages as pictures that the reader draws.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from deployments.documents.layout import laid_out
from deployments.documents.messages import (
    Box,
    DocumentPages,
    Page,
    PageImage,
    Quad,
    ReadDocument,
    RenderPages,
    Table,
    TextLine,
)
from deployments.documents.segments import Word
from deployments.florence2.messages import Quad as SeenQuad
from deployments.florence2.messages import VisionRequest, VisionTask
from deployments.generation.messages import ImagePart, Part, Text
from deployments.messages import EncodedImage
from serve.calls import Calls, Usage
from serve.context import RequestContext
from serve.documents.schemas import PageLines, PageTables
from serve.documents.structured import answered, structured
from serve.documents.types import Asked, Wanted

PageReader = Callable[[PageImage], Awaitable[tuple[Page, Usage]]]

_LINES = (
    "Write down all text of this page, line by line, in the order in which a person reads it: heading first, column "
    "after column. Change nothing and leave nothing out. Answer with JSON: "
    '{"lines": ["first line", "second line"]}'
)
_TABLES = (
    "Write down every table of this page. Copy the cells exactly; a cell without text is an empty text. Answer with "
    'JSON: {"tables": [{"headers": ["column", "column"], "rows": [["cell", "cell"]]}]}. '
    "A page without tables has an empty list."
)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Draws pages for models that read pictures.

    Attributes:
        reader: model of kind ocr.
        side: longest side of a picture, in pixels.
        at_once: pages of one document that are read at the same time.
    """

    calls: Calls
    reader: str
    side: int
    at_once: int

    async def each(
        self, name: str, document: bytes, asked: Asked, context: RequestContext, read: PageReader
    ) -> tuple[DocumentPages, Usage]:
        """Reads page after page, some at the same time. What is wrong with a page alone stands in its place; a failure
        of the model ends the rest.

        Raises:
            ArgusError: see `RenderPages`, and what `read` raises.
        """
        request = RenderPages(document, asked.pages, asked.max_pages, asked.dpi, self.side)
        drawn = (await self.calls.task(self.reader, request, context)).value
        places = asyncio.Semaphore(self.at_once)

        async def one(picture: PageImage | Exception) -> tuple[Page | Exception, Usage]:
            if isinstance(picture, Exception):
                return picture, Usage()
            async with places:
                return await answered(name, read(picture))

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(picture)) for picture in drawn.pages]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        pages, usages = zip(*(task.result() for task in tasks), strict=True)
        return DocumentPages(drawn.kind, drawn.total, drawn.numbers, pages), sum(usages, Usage())


@dataclass(frozen=True, slots=True)
class OcrBackend:
    """A model of kind ocr: text layers where they are good, else RapidOCR."""

    calls: Calls
    name: str

    async def read(
        self, document: bytes, asked: Asked, context: RequestContext, *, wanted: Wanted, fallback: bool
    ) -> tuple[DocumentPages, Usage]:
        """See `Backend.read`."""
        request = ReadDocument(document, asked.pages, asked.max_pages, asked.text_layer, asked.dpi, wanted != "text")
        called = await self.calls.task(self.name, request, context, fallback=fallback)
        return called.value, called.usage


@dataclass(frozen=True, slots=True)
class FlorenceBackend:
    """Florence-2: lines of text with their places; tables by how these stand."""

    calls: Calls
    name: str
    pictures: Pictures

    async def read(
        self, document: bytes, asked: Asked, context: RequestContext, *, wanted: Wanted, fallback: bool
    ) -> tuple[DocumentPages, Usage]:
        """See `Backend.read`."""

        async def page(picture: PageImage) -> tuple[Page, Usage]:
            request = VisionRequest((EncodedImage(picture.data),), (VisionTask("ocr-with-region"),))
            seen = (await self.calls.task(self.name, request, context, fallback=fallback)).value.images[0]
            if isinstance(seen, Exception):
                raise seen
            answer = seen.answers[0]
            if isinstance(answer, Exception):
                raise answer
            words = [word for quad in answer.quads for word in _words(quad, 1 / picture.scale)]
            lines, found = await asyncio.to_thread(laid_out, words, (), tables=wanted != "text")
            unscored = tuple(replace(line, score=None) for line in lines)
            return _page(picture, "ocr", unscored, found), Usage(0, answer.tokens)

        return await self.pictures.each(self.name, document, asked, context, page)


@dataclass(frozen=True, slots=True)
class ChatBackend:
    """A chat model that is shown each page and answers with JSON."""

    calls: Calls
    name: str
    pictures: Pictures
    max_tokens: int

    async def read(
        self, document: bytes, asked: Asked, context: RequestContext, *, wanted: Wanted, fallback: bool
    ) -> tuple[DocumentPages, Usage]:
        """See `Backend.read`. It writes down lines or tables: both would be two answers about every page."""

        async def lines(picture: PageImage) -> tuple[Page, Usage]:
            found, usage = await structured(
                self.calls, self.name, _shown(picture, _LINES), PageLines, context,
                max_tokens=self.max_tokens, fallback=fallback,
            )  # fmt: skip
            return _page(picture, "model", tuple(map(TextLine, found.lines)), ()), usage

        async def grids(picture: PageImage) -> tuple[Page, Usage]:
            found, usage = await structured(
                self.calls, self.name, _shown(picture, _TABLES), PageTables, context,
                max_tokens=self.max_tokens, fallback=fallback,
            )  # fmt: skip
            tables = tuple(Table(tuple(one.headers), tuple(map(tuple, one.rows))) for one in found.tables)
            return _page(picture, "model", (), tables), usage

        return await self.pictures.each(self.name, document, asked, context, grids if wanted == "tables" else lines)


def _shown(picture: PageImage, question: str) -> tuple[Part, ...]:
    return ImagePart(EncodedImage(picture.data), "high"), Text(question)


def _page(
    picture: PageImage, source: Literal["ocr", "model"], lines: Sequence[TextLine], tables: Sequence[Table]
) -> Page:
    width, height = picture.width / picture.scale, picture.height / picture.scale
    pixels = (picture.width, picture.height)
    return Page(picture.number, width, height, picture.unit, pixels, source, tuple(lines), tuple(tables))


def _words(seen: SeenQuad, unit: float) -> list[Word]:
    """The words of a line that was placed as a whole, each as wide as its letters are many."""
    words = seen.text.split()
    letters = sum(map(len, words)) + len(words) - 1
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = ((x * unit, y * unit) for x, y in seen.points)
    placed: list[Word] = []
    before = 0
    for word in words:
        start, end = before / letters, (before + len(word)) / letters
        quad: Quad = (
            (ax + (bx - ax) * start, ay + (by - ay) * start),
            (ax + (bx - ax) * end, ay + (by - ay) * end),
            (dx + (cx - dx) * end, dy + (cy - dy) * end),
            (dx + (cx - dx) * start, dy + (cy - dy) * start),
        )
        xs, ys = [x for x, _ in quad], [y for _, y in quad]
        placed.append(Word(word, Box(min(xs), min(ys), max(xs), max(ys)), 1.0, quad))
        before += len(word) + 1
    return placed
