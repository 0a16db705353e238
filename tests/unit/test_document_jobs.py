"""Jobs about documents: the answer of the route, a few pages at a time, and what is left when some cannot be read."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from deployments.jobs.types import Progress
from serve.context import RequestContext
from serve.errors import InvalidRequest, PayloadTooLarge, Unavailable
from serve.media.source import MediaBytes
from serve.protocol.document_bodies import OPERATIONS, What
from serve.protocol.document_jobs import ReadDocument
from tests.unit.document_site import PDF, URI, World


class Reported:
    """A `Report` that keeps what it is told."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.parts: dict[str, Any] = {}

    async def __call__(self, progress: Progress, key: str | None = None, value: Any = None) -> None:
        self.progress.append(progress)
        if key is not None:
            self.parts[key] = orjson.loads(orjson.dumps(value))


async def ran(world: World, what: What, done: dict[str, Any] | None = None) -> dict[str, Any]:
    """A job about all six pages."""
    job = ReadDocument(world.site.services.documents, what)
    context = RequestContext("r", "anonymous", time.monotonic() + 20)
    return await job.run(await job.admit({"document": URI}, (), context), context, Reported(), done or {})


@pytest.fixture
def world() -> World:
    return World()


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


async def test_a_job_none_of_whose_pages_can_be_read_fails_as_its_route_would_have(world: World) -> None:
    world.reader.broken = set(range(1, 7))
    world.reader.error = PayloadTooLarge("The page is too large.", code="page_too_large")
    routed = await world.post("text", pages="1-4")
    assert (routed.status_code, routed.json()["error"]["param"]) == (413, "document")
    for what in OPERATIONS:
        with pytest.raises(PayloadTooLarge) as failed:
            await ran(world, what)
        assert (failed.value.code, failed.value.param) == ("page_too_large", "document")


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
