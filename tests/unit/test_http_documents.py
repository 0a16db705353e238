"""`/v1/documents` through the whole HTTP side, over a reader that answers from the request alone."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

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
from deployments.generation.messages import Answer, ChatRequest, ChatResult, ImagePart, Text
from deployments.jobs.types import Progress
from deployments.messages import EncodedImage
from serve.context import RequestContext
from serve.errors import ConfigError, InvalidMedia, InvalidRequest, ModelFailed, Unavailable
from serve.media.source import MediaBytes
from serve.protocol.document_bodies import OPERATIONS, What
from serve.protocol.document_jobs import ReadDocument
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
        raises: what every call raises.
    """

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.broken: set[int] = set()
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
        return DocumentPages("pdf", TOTAL, numbers, tuple(self._page(n) for n in numbers))

    def _page(self, number: int) -> Page | Exception:
        if number in self.broken:
            return InvalidMedia("This page cannot be read.", code="invalid_page")
        line = TextLine(f"page {number}", Box(1, 2, 3.0004, 4).quad, 0.875, 2)
        cell = Cell(0, 0, "a", Box(1, 2, 3, 4))
        found = Table(("a", "b"), ((str(number), ""),), (cell,), Box(0, 0, 9, 9), True)
        return Page(number, 595, 842, "point", (1240, 1754), "layer", (line,), (found,))


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
    """A `ModelHandle` of kind florence2 that reads two lines on every page."""

    raises: Exception | None = None

    async def call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        request: VisionRequest = args[0]
        assert [task.name for task in request.tasks] == ["ocr-with-region"]
        if self.raises is not None:
            raise self.raises
        upper = Quad(((10, 10), (90, 10), (90, 30), (10, 30)), "the upper line")
        lower = Quad(((10, 50), (90, 50), (90, 70), (10, 70)), "the lower line")
        seen = SeenImage(100, 200, (Seen(quads=(lower, upper), tokens=9),))
        return VisionResult(tuple(seen for _ in request.images))


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


@pytest.fixture(scope="module")
def shared() -> World:
    return World()


@pytest.fixture
async def world(shared: World) -> AsyncIterator[World]:
    yield shared
    shared.reader.__init__()  # type: ignore[misc]
    shared.florence.raises = None


async def test_text_in_order_with_places(world: World) -> None:
    answered = await world.post("text", pages="3,1-2")
    assert answered.status_code == 200, answered.text
    body = answered.json()
    assert body["object"] == "document.text"
    assert body["backend"] == "reader"
    assert body["document"] == {"kind": "pdf", "pages": TOTAL}
    assert body["text"] == "page 1\n\npage 2\n\npage 3"
    assert [page["page"] for page in body["pages"]] == [1, 2, 3]
    first = body["pages"][0]
    assert first["lines"] == [{"text": "page 1", "quad": [[1, 2], [3, 2], [3, 4], [1, 4]], "score": 0.875}]
    assert (first["width"], first["unit"], first["pixels"], first["source"]) == (595, "point", [1240, 1754], "layer")
    assert body["usage"]["total_tokens"] == 0
    assert body["request_id"]


async def test_tables_with_cells(world: World) -> None:
    body = (await world.post("table", pages="2")).json()
    assert body["object"] == "document.tables"
    assert body["tables"] == [
        {
            "page": 2,
            "box": [0, 0, 9, 9],
            "headers": ["a", "b"],
            "rows": [["2", ""]],
            "cells": [{"row": 0, "column": 0, "text": "a", "box": [1, 2, 3, 4]}],
        }
    ]
    assert [page["page"] for page in body["pages"]] == [2]


async def test_a_summary_without_a_language_model(world: World) -> None:
    body = (await world.post("summary", max_pages=2)).json()
    assert body["object"] == "document.summary"
    assert body["backend"] == "extractive"
    assert (body["type"], body["title"], body["date"]) == ("invoice", "A title", "2024-03-12")
    assert body["summary"] == "page 1 page 2"
    assert body["key_facts"] == [{"name": "Total", "value": "3"}]
    assert body["pages"] == [1, 2]


@pytest.mark.parametrize("how", ["pdf", "image", "multipart", "file", "octets"])
async def test_every_way_of_sending_a_document(world: World, how: str) -> None:
    async with world.site.client() as http:
        path = "/v1/documents/text"
        if how in ("multipart", "file"):
            name = "document" if how == "multipart" else "file"
            answered = await http.post(path, data={"pages": "2"}, files={name: ("x.pdf", PDF, "application/pdf")})
        else:
            kind = {"pdf": "application/pdf", "image": "image/png", "octets": "application/octet-stream"}[how]
            content = png() if how == "image" else PDF
            answered = await http.post(f"{path}?pages=2", content=content, headers={"content-type": kind})
    assert answered.status_code == 200, answered.text
    assert [page["page"] for page in answered.json()["pages"]] == [2]
    assert world.reader.requests[-1].data == (png() if how == "image" else PDF)


async def test_what_is_asked_reaches_the_reader(world: World) -> None:
    await world.post("text", pages="2-", max_pages=3, text_layer="never", dpi=200)
    request = world.reader.requests[-1]
    assert (request.pages, request.max_pages, request.text_layer, request.dpi) == (((2, None),), 3, "never", 200)
    assert not request.tables


async def test_a_page_that_cannot_be_read_leaves_the_others(world: World) -> None:
    world.reader.broken = {2}
    body = (await world.post("text", pages="1-3")).json()
    assert [page.get("text") for page in body["pages"]] == ["page 1", None, "page 3"]
    assert body["pages"][1]["error"]["code"] == "invalid_page"
    assert body["text"] == "page 1\n\npage 3"
    tables = (await world.post("table", pages="1-3")).json()
    assert [table["page"] for table in tables["tables"]] == [1, 3]
    assert (await world.post("summary", pages="1-3")).json()["pages"] == [1, 3]


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"pages": "3-1"}, 400, "invalid_pages", "pages"),
        ({"pages": "7"}, 400, "invalid_pages", "pages"),
        ({"pages": "1-5"}, 400, "too_many_pages", "pages"),
        ({}, 400, "too_many_pages", "pages"),
        ({"max_pages": 0}, 400, "invalid_field", "max_pages"),
        ({"dpi": 10_000}, 400, "invalid_field", "dpi"),
        ({"text_layer": "perhaps"}, 400, "invalid_field", "text_layer"),
        ({"backend": "nobody"}, 404, "backend_not_found", "backend"),
        ({"backend": "text-only"}, 404, "backend_not_found", "backend"),
        ({"unknown": 1}, 400, "unknown_field", "unknown"),
        ({"document": None}, 400, "missing_field", "document"),
        ({"document": "data:application/pdf;base64,"}, 400, "empty_document", "document"),
        ({"document": base64.b64encode(b"words").decode()}, 400, "not_a_document", "document"),
        ({"document": "http://10.0.0.1/x.pdf"}, 403, "url_not_allowed", "document"),
        ({"document": URI.replace("application/pdf", "image/png")}, 400, "document_type_mismatch", "document"),
        ({"document": "data:image/png;base64," + base64.b64encode(png()[:40]).decode()}, 400, None, "document"),
    ],
)
async def test_what_is_wrong_is_named(
    world: World, fields: dict[str, Any], status: int, code: str | None, param: str
) -> None:
    answered = await world.post("text", **fields)
    assert answered.status_code == status, answered.text
    error = answered.json()["error"]
    assert error["param"] == param
    assert code is None or error["code"] == code


async def test_two_documents_are_refused(world: World) -> None:
    files = [("document", ("a.pdf", PDF, "application/pdf")), ("document", ("b.pdf", PDF, "application/pdf"))]
    async with world.site.client() as http:
        answered = await http.post("/v1/documents/text", files=files)
        other = await http.post("/v1/documents/text", files={"image": ("a.pdf", PDF, "application/pdf")})
        text = await http.post("/v1/documents/text", content=b"words", headers={"content-type": "text/plain"})
    assert answered.json()["error"]["code"] == "too_many_documents"
    assert other.json()["error"]["code"] == "unknown_field"
    assert text.status_code == 415


async def test_a_cluster_without_a_reader_says_so() -> None:
    async with Site(cluster()).client() as http:
        answered = await http.post("/v1/documents/text", json={"document": URI})
    assert answered.status_code == 404
    assert answered.json()["error"]["code"] == "not_configured"


async def test_florence_reads_what_the_reader_draws(world: World) -> None:
    body = (await world.post("text", backend="florence", pages="1-2")).json()
    assert body["backend"] == "florence"
    assert [page["text"] for page in body["pages"]] == ["the upper line\nthe lower line"] * 2
    # Pixels of the drawn page, at half a pixel a point, in points.
    line = body["pages"][0]["lines"][0]
    assert (line["text"], line["score"]) == ("the upper line", None)
    assert line["quad"] == [[20, 20], [180, 20], [180, 60], [20, 60]]
    assert (body["pages"][0]["width"], body["pages"][0]["height"], body["pages"][0]["source"]) == (200, 400, "ocr")
    assert body["usage"]["completion_tokens"] == 18


async def test_a_chat_model_writes_down_each_page(world: World) -> None:
    world.chat = FakeChat('{"lines": ["one", "two"]}')
    body = (await world.post("text", backend="llava", pages="1-3")).json()
    assert [page["text"] for page in body["pages"]] == ["one\ntwo"] * 3
    assert body["pages"][0]["lines"][0] == {"text": "one", "quad": None, "score": None}
    assert body["pages"][0]["source"] == "model"
    assert body["usage"] == {"prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30, "usd": 0}
    shown = [request.messages[0].parts[0] for request in world.chat.requests]
    pictures = {
        part.image.data for part in shown if isinstance(part, ImagePart) and isinstance(part.image, EncodedImage)
    }
    assert pictures == {png(size=(n, 8)) for n in (1, 2, 3)}


async def test_answers_are_constrained_to_their_schema(world: World) -> None:
    world.chat = FakeChat('{"tables": [{"headers": ["a"], "rows": [["1"], [""]]}]}')
    body = (await world.post("table", backend="llava", pages="1")).json()
    assert body["tables"] == [{"page": 1, "box": None, "headers": ["a"], "rows": [["1"], [""]], "cells": []}]
    constraint = world.chat.requests[0].sampling.constraint
    assert constraint is not None
    assert constraint.json_schema is not None
    schema = orjson.loads(constraint.json_schema)
    assert schema["required"] == ["tables"]
    assert schema["additionalProperties"] is False


UNEVEN = '{"tables": [{"headers": ["a", "b"], "rows": [["1"]]}]}'
EVEN = '{"tables": [{"headers": ["a", "b"], "rows": [["1", "2"]]}]}'


async def test_an_answer_that_does_not_fit_is_repaired_once(world: World) -> None:
    world.chat = FakeChat(UNEVEN, EVEN)
    body = (await world.post("table", backend="llava", pages="1")).json()
    assert body["tables"][0]["rows"] == [["1", "2"]]
    assert body["usage"]["prompt_tokens"] == 14
    first, second = world.chat.requests
    assert second.messages[:1] == first.messages
    said, told = second.messages[1], second.messages[2]
    assert (said.role, said.parts) == ("assistant", (Text(UNEVEN),))
    assert isinstance(told.parts[0], Text)
    assert "as many cells as there are headers" in told.parts[0].text


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ((UNEVEN, UNEVEN), 2),
        (("words", "words"), 2),
        (("{}", '{"tables": 1}'), 2),
        ((EVEN[:20] + "…",), 1),  # cut: asking again would cut it again
        ((Unavailable("The engine is gone."),), None),
    ],
)
async def test_when_it_cannot_be_repaired_the_next_back_end_is_asked(
    answers: tuple[str | Exception, ...], asked: int | None
) -> None:
    world = World(ocr=["llava", "reader"])
    world.chat = FakeChat(*answers)
    answered = await world.post("table", pages="1")
    assert answered.status_code == 200, answered.text
    assert answered.json()["backend"] == "reader"
    assert asked is None or len(world.chat.requests) == asked
    assert world.chat.requests
    alone = World(ocr=["llava"])
    alone.chat = FakeChat(*answers)
    failed = await alone.post("table", pages="1")
    assert failed.status_code >= 500


async def test_a_back_end_that_refuses_a_page_is_passed_over() -> None:
    world = World(ocr=["florence", "reader"])
    world.florence.raises = InvalidMedia("This picture is too large for me.", code="image_too_large")
    assert (await world.post("text", pages="1")).json()["backend"] == "reader"
    assert (await world.post("text", pages="1", backend="florence")).status_code == 502


async def test_what_is_wrong_with_the_document_is_not_tried_elsewhere() -> None:
    world = World(ocr=["reader", "llava"])
    world.reader.raises = InvalidMedia("The PDF is encrypted.", code="encrypted_document")
    answered = await world.post("text")
    assert answered.json()["error"]["code"] == "encrypted_document"
    assert not world.chat.requests
    world.reader.raises = ModelFailed("The reader failed.")
    assert (await world.post("text")).status_code >= 500


GOOD = {"type": "letter", "title": None, "date": "2024-01-31", "summary": "A letter.",
        "key_facts": [{"name": "To", "value": "Ann"}]}  # fmt: skip


async def test_a_chat_model_sums_up_the_pages_it_is_shown() -> None:
    world = World(summary=["llava", "extractive"])
    world.chat = FakeChat(orjson.dumps(GOOD).decode())
    body = (await world.post("summary", pages="2-5")).json()
    assert {key: body[key] for key in GOOD} == GOOD
    assert body["backend"] == "llava"
    assert body["pages"] == [2, 3]  # as many as it takes
    assert body["document"]["pages"] == TOTAL
    assert sum(isinstance(part, ImagePart) for part in world.chat.requests[0].messages[0].parts) == 2


@pytest.mark.parametrize("wrong", [{"date": "31.1.2024"}, {"type": "novel"}, {"summary": ""}, {"more": 1}])
async def test_a_summary_that_does_not_validate_falls_back(wrong: dict[str, Any]) -> None:
    world = World(summary=["llava", "extractive"])
    world.chat = FakeChat(orjson.dumps(GOOD | wrong).decode())
    body = (await world.post("summary", pages="1")).json()
    assert body["backend"] == "extractive"
    assert len(world.chat.requests) == 2


async def test_pages_are_read_side_by_side_but_not_all_at_once() -> None:
    world = World(ocr=["llava"], concurrency=2)
    world.chat = FakeChat('{"lines": []}')
    assert (await world.post("text", pages="1-4")).status_code == 200
    assert world.chat.most_at_once == 2


@pytest.mark.parametrize(
    ("documents", "problem"),
    [
        ({"ocr": ["nobody"]}, "documents.ocr.0"),
        ({"ocr": ["text-only"]}, "documents.ocr.0"),
        ({"ocr": ["reader", "reader"]}, "documents.ocr.1"),
        ({"summary": ["florence"]}, "documents.summary.0"),
        ({"summary": []}, "documents.summary"),
        ({"sumary": ["extractive"]}, "documents.sumary"),
    ],
)
def test_names_in_the_cluster_file_are_checked(documents: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        cluster(models=MODELS, documents=documents)


def test_a_documents_section_needs_a_reader() -> None:
    with pytest.raises(ConfigError, match="kind ocr"):
        cluster(documents={})


@pytest.mark.parametrize("what", ["text", "table", "summary"])
async def test_a_job_answers_like_its_route(world: World, what: What) -> None:
    job = ReadDocument(world.site.services.documents, what)
    context = RequestContext("r", "anonymous", time.monotonic() + 20)
    given = await job.admit({"document": URI, "pages": "2-4"}, (), context)
    assert given.media == (PDF,)
    reported = Reported()
    answer = await job.run(given, context, reported, {})
    expected = (await world.post(what, pages="2-4")).json()
    del expected["request_id"]
    assert orjson.loads(orjson.dumps(answer)) == expected


async def test_a_job_reads_long_documents_a_few_pages_at_a_time_and_goes_on_where_it_was(world: World) -> None:
    job = ReadDocument(world.site.services.documents, "text")
    context = RequestContext("r", "anonymous", time.monotonic() + 20)
    given = await job.admit({"document": URI}, (), context)
    reported = Reported()
    whole = await job.run(given, context, reported, {})  # six pages, where a request may have four
    assert [page["page"] for page in whole["pages"]] == [1, 2, 3, 4, 5, 6]
    assert whole["text"].startswith("page 1") and whole["text"].endswith("page 6")
    assert [(one.done, one.total) for one in reported.progress] == [(4, 6), (6, 6)]
    asked = len(world.reader.requests)
    again = await job.run(given, context, Reported(), {"0": reported.parts["0"]})
    assert again == whole
    assert [request.pages for request in world.reader.requests[asked:]] == [((5, 5), (6, 6))]
    await job.run(given, context, Reported(), reported.parts)
    assert len(world.reader.requests) == asked + 1


async def test_a_job_keeps_to_the_back_end_that_read_the_first_pages() -> None:
    world = World(ocr=["florence", "reader"])
    world.florence.raises = Unavailable("florence is away")
    job = ReadDocument(world.site.services.documents, "text")
    context = RequestContext("r", "anonymous", time.monotonic() + 20)
    reported = Reported()
    given = await job.admit({"document": URI}, (), context)
    whole = await job.run(given, context, reported, {})
    assert whole["backend"] == "reader"
    # Florence-2 is back, and comes first; but the first pages are the reader's.
    world.florence.raises = None
    again = await job.run(given, context, Reported(), {"0": reported.parts["0"]})
    assert again == whole
    # Without those pages it is asked first again.
    assert (await job.run(given, context, Reported(), {}))["backend"] == "florence"


async def ran(world: World, what: What, done: dict[str, Any] | None = None) -> dict[str, Any]:
    """A job about all six pages."""
    job = ReadDocument(world.site.services.documents, what)
    context = RequestContext("r", "anonymous", time.monotonic() + 20)
    return await job.run(await job.admit({"document": URI}, (), context), context, Reported(), done or {})


async def test_pages_that_fail_together_do_not_end_a_job(world: World) -> None:
    world.reader.broken = {5, 6}  # all of the second group
    whole = await ran(world, "text")
    assert [page.get("text") for page in whole["pages"]] == ["page 1", "page 2", "page 3", "page 4", None, None]
    assert [page["error"]["code"] for page in whole["pages"][4:]] == ["invalid_page"] * 2
    world.reader.broken = {1, 2, 3, 4}
    assert (await ran(world, "table"))["tables"][0]["page"] == 5
    world.reader.broken = set(range(1, 7))
    for what in OPERATIONS:
        with pytest.raises(InvalidRequest) as failed:
            await ran(world, what)
        assert failed.value.code == "invalid_page"


async def test_pages_of_a_back_end_that_fails_on_the_way_are_read_by_the_next() -> None:
    world = World(ocr=["florence", "reader"])
    reported = Reported()
    job = ReadDocument(world.site.services.documents, "text")
    context = RequestContext("r", "anonymous", time.monotonic() + 20)
    given = await job.admit({"document": URI}, (), context)
    await job.run(given, context, reported, {})
    world.florence.raises = Unavailable("florence is away")
    whole = await ran(world, "text", {"0": reported.parts["0"]})
    assert whole["backend"] == "florence"
    assert [page.get("backend") for page in whole["pages"]] == [None] * 4 + ["reader"] * 2
    assert whole["pages"][5]["text"] == "page 6"


async def test_a_job_sums_up_more_pages_than_a_request_may_have(world: World) -> None:
    summary = await ran(world, "summary")
    assert summary["pages"] == [1, 2, 3, 4, 5, 6]
    assert summary["summary"] == " ".join(f"page {number}" for number in range(1, 7))


@pytest.mark.parametrize(
    ("fields", "files", "code", "param"),
    [
        ({}, (), "missing_field", "document"),
        ({"document": URI}, (("file", MediaBytes(PDF, None)),), "too_many_documents", "document"),
        ({}, (("photo", MediaBytes(PDF, None)),), "unknown_field", "photo"),
        ({"document": URI, "pages": "3-1"}, (), "invalid_pages", "pages"),
        ({"document": URI, "colour": "red"}, (), "unknown_field", "colour"),
    ],
)
async def test_what_can_be_no_job(world: World, fields: Any, files: Any, code: str, param: str) -> None:
    job = ReadDocument(world.site.services.documents, "text")
    context = RequestContext("r", "anonymous", time.monotonic() + 20)
    with pytest.raises(InvalidRequest) as refused:
        await job.admit(fields, files, context)
    assert (refused.value.code, refused.value.param) == (code, param)


class Reported:
    """A `Report` that keeps what it is told."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.parts: dict[str, Any] = {}

    async def __call__(self, progress: Progress, key: str | None = None, value: Any = None) -> None:
        self.progress.append(progress)
        if key is not None:
            self.parts[key] = orjson.loads(orjson.dumps(value))
