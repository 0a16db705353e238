"""`/v1/documents` through the whole HTTP side, over a reader that answers from the request alone."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from deployments.generation.messages import ImagePart, Text
from deployments.messages import EncodedImage
from serve.errors import ConfigError, InvalidMedia, ModelFailed, Unavailable
from tests.unit.document_site import MODELS, PDF, TOTAL, URI, FakeChat, World
from tests.unit.fakes import Site, cluster, png


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


async def test_a_summary_knows_the_tables_that_are_read_with_the_lines() -> None:
    world = World(ocr=["florence", "reader"])
    world.florence.raises = Unavailable("Florence-2 is gone.")
    assert (await world.post("summary", pages="1-2")).json()["summary"] == "page 1 page 2"
    pages = world.reader.requests[-1].pages
    assert [table.rows for page in pages for table in page.tables] == [(("1", ""),), (("2", ""),)]
    world.florence.raises = None
    world.florence.grid = True
    assert (await world.post("summary", pages="1")).status_code == 200
    (page,) = world.reader.requests[-1].pages
    assert [(table.headers, table.rows) for table in page.tables] == [(("name", "sum"), (("mug", "12"), ("lamp", "3")))]


async def test_a_chat_model_writes_down_lines_for_a_summary() -> None:
    world = World(ocr=["llava"])
    world.chat = FakeChat('{"lines": ["one", "two"]}')
    body = (await world.post("summary", pages="1")).json()
    assert body["summary"] == "one\ntwo"
    assert len(world.chat.requests) == 1


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
