"""A router that reads documents: a reader, a Florence-2 and a chat model that answer from the request alone."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx

from deployments.documents.messages import (
    Box,
    Cell,
    DocumentImages,
    DocumentPages,
    KeyFact,
    Page,
    PageImage,
    RenderPages,
    SummarisePages,
    Summary,
    Table,
    TextLine,
)
from deployments.documents.messages import ReadDocument as ReadPages
from deployments.documents.pages import chosen
from deployments.florence2.messages import Answer as Seen
from deployments.florence2.messages import Quad, SeenImage, VisionRequest, VisionResult
from deployments.generation.messages import Answer, ChatRequest, ChatResult
from serve.context import RequestContext
from serve.errors import InvalidMedia
from tests.unit.fakes import Site, cluster, png

PDF = b"%PDF-1.7 not opened by anyone here"
URI = "data:application/pdf;base64," + base64.b64encode(PDF).decode()
TOTAL = 6
MODELS = {
    "reader": {"kind": "ocr", "max_pages": 4},
    "florence": {"kind": "florence2", "checkpoint": "some/florence"},
    "llava": {"kind": "llava", "checkpoint": "some/llava", "max_images": 2},
    "text-only": {"kind": "llava", "checkpoint": "some/llm", "max_images": 0},
}


class FakeReader:
    """A `ModelHandle` of kind ocr over a document of six pages, each with a line and a table.

    Attributes:
        broken: pages that cannot be read.
        error: why.
        raises: what every call raises.
    """

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.broken: set[int] = set()
        self.error: Exception = InvalidMedia("This page cannot be read.", code="invalid_page")
        self.raises: Exception | None = None

    async def call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        context.remaining_s()
        request = args[0]
        assert request.method == method
        self.requests.append(request)
        if self.raises is not None:
            raise self.raises
        if isinstance(request, SummarisePages):
            said = " ".join(page.text for page in request.pages)
            return Summary("invoice", "A title", "2024-03-12", said, (KeyFact("Total", "3"),))
        numbers = chosen(request.pages, TOTAL, request.max_pages, 4)
        if isinstance(request, RenderPages):
            pictures = tuple(PageImage(n, png(size=(n, 8)), 100, 200, 0.5, "point") for n in numbers)
            return DocumentImages("pdf", TOTAL, numbers, pictures)
        assert isinstance(request, ReadPages)
        return DocumentPages("pdf", TOTAL, numbers, tuple(self._page(n, request.tables) for n in numbers))

    def _page(self, number: int, with_tables: bool) -> Page | Exception:
        if number in self.broken:
            return self.error
        line = TextLine(f"page {number}", Box(1, 2, 3.0004, 4).quad, 0.875, 2)
        cell = Cell(0, 0, "a", Box(1, 2, 3, 4))
        found = Table(("a", "b"), ((str(number), ""),), (cell,), Box(0, 0, 9, 9), True)
        return Page(number, 595, 842, "point", (1240, 1754), "layer", (line,), (found,) if with_tables else ())


class FakeChat:
    """A `ModelHandle` of a chat model that answers with what it was given, in turn; the last answer repeats."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[ChatRequest] = []
        self.most_at_once = self.at_once = 0

    async def call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        assert method == "chat"
        self.requests.append(args[0])
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        cut = answer.endswith("…")
        return ChatResult((Answer(answer.rstrip("…"), (1, 2, 3), (), "length" if cut else "stop"),), 7, 0)


class FakeFlorence:
    """A `ModelHandle` of kind florence2 that reads two lines on every page.

    Attributes:
        grid: they are a table of three rows and two columns instead.
    """

    raises: Exception | None = None
    grid = False

    async def call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        request: VisionRequest = args[0]
        assert [task.name for task in request.tasks] == ["ocr-with-region"]
        if self.raises is not None:
            raise self.raises
        upper = Quad(((10, 10), (90, 10), (90, 30), (10, 30)), "the upper line")
        lower = Quad(((10, 50), (90, 50), (90, 70), (10, 70)), "the lower line")
        texts = ["name", "sum", "mug", "12", "lamp", "3"]
        grid = tuple(Quad(_cell(i // 2, i % 2).quad, text) for i, text in enumerate(texts))
        seen = SeenImage(100, 200, (Seen(quads=grid if self.grid else (lower, upper), tokens=9),))
        return VisionResult(tuple(seen for _ in request.images))


def _cell(row: int, column: int) -> Box:
    left, top = 10 + 50 * column, 10 + 25 * row
    return Box(left, top, left + 20, top + 20)


class World:
    """A site with a reader, a Florence-2 and a chat model."""

    def __init__(self, **documents: Any) -> None:
        self.reader, self.florence = FakeReader(), FakeFlorence()
        self.chat = FakeChat("{}")
        more = {"reader": self.reader, "florence": self.florence, "text-only": FakeChat("{}")}
        self.site = Site(cluster(models=MODELS, **({"documents": documents} if documents else {})), more=more)
        self.site.llava.call = self._chat  # type: ignore[method-assign]

    async def _chat(self, *args: Any, **kwargs: Any) -> Any:
        return await self.chat.call(*args, **kwargs)

    async def post(self, path: str, **fields: Any) -> httpx.Response:
        async with self.site.client() as http:
            return await http.post(f"/v1/documents/{path}", json={"document": URI, **fields})
