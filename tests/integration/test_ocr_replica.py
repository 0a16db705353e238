"""The document reader with its real workers, in this process. Over HTTP: tests/e2e/test_documents.py."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image
from skimage import data as pictures

from benchmarks.documents import PHOTOGRAPHED, cell_f1, character_error_rate, grid_of
from deployments.documents.messages import Page, PageImage, ReadDocument, RenderPages, SummarisePages
from deployments.documents.replica import DocumentReader
from deployments.messages import Call
from serve.config.models import OcrModel
from serve.errors import ArgusError, DeadlineExceeded, InvalidMedia, InvalidRequest, Overloaded, PayloadTooLarge
from serve.media.image import ImageLimits
from tests.e2e.conftest import encode
from tests.support.documents import (
    Made,
    article,
    blank,
    encrypted,
    invoice,
    lines_pdf,
    picture,
    scanned,
    table,
    tiff,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALL = Call("test", 240.0)


def config(**options: Any) -> OcrModel:
    return OcrModel(kind="ocr", **options)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader() -> AsyncIterator[DocumentReader]:
    made = DocumentReader(config(max_pages=8), ImageLimits(max_bytes=5_000_000))
    await made.info()
    yield made
    await made.close()


def pages(read: Any) -> list[Page]:
    assert all(isinstance(page, Page) for page in read.pages), read.pages
    return list(read.pages)


async def test_it_says_what_it_is(reader: DocumentReader) -> None:
    info = await reader.info()
    assert (info.device, info.engine) == ("cpu", "rapidocr")
    assert info.load_s > 0
    await reader.check_health()


async def test_the_text_layer_is_used_where_there_is_one(reader: DocumentReader) -> None:
    made = article(7, pages=3)
    read = await reader.read(ReadDocument(made.pdf, pages=((3, 3), (1, 2))), CALL)
    assert (read.kind, read.total, read.numbers) == ("pdf", 3, (1, 2, 3))
    assert [[line.text for line in page.lines] for page in pages(read)] == made.pages
    assert {(page.source, page.unit) for page in pages(read)} == {("layer", "point")}


async def test_a_scan_is_recognised_and_placed_in_points(reader: DocumentReader) -> None:
    made = lines_pdf(["The quick brown fox", "jumps over the lazy dog"])
    (layer,) = pages(await reader.read(ReadDocument(made), CALL))
    (scan,) = pages(await reader.read(ReadDocument(scanned(made)), CALL))
    (forced,) = pages(await reader.read(ReadDocument(made, text_layer="never"), CALL))
    for page in (scan, forced):
        assert (page.source, page.unit) == ("ocr", "point")
        assert page.text == layer.text
        assert (page.width, page.height) == pytest.approx((595, 842), abs=1)
        for line, expected in zip(page.lines, layer.lines, strict=True):
            assert line.quad is not None
            assert expected.quad is not None
            for corner, place in zip(line.quad, expected.quad, strict=True):
                assert corner == pytest.approx(place, abs=7)  # about half a line
            assert line.score is not None
            assert 0.8 < line.score <= 1


async def test_a_stamp_on_a_scan_is_not_its_text(reader: DocumentReader) -> None:
    stamped = scanned(lines_pdf(["", "The quick brown fox jumps"]), stamp="RECEIVED 17")
    (page,) = pages(await reader.read(ReadDocument(stamped), CALL))
    assert page.source == "ocr"
    assert "quick brown fox" in page.text
    (trusted,) = pages(await reader.read(ReadDocument(stamped, text_layer="always"), CALL))
    assert (trusted.source, trusted.text) == ("layer", "RECEIVED 17")


@pytest.mark.parametrize("made", [invoice(201, style="grid"), table(202, style="bare")], ids=["grid", "bare"])
async def test_tables_in_pictures(reader: DocumentReader, made: Made) -> None:
    read = await reader.read(ReadDocument(picture(made.pdf)), CALL)
    (page,) = pages(read)
    assert read.kind == "image"
    assert page.unit == "pixel"
    (found,) = page.tables
    assert cell_f1(made.tables, [grid_of(found)]) >= 0.9
    assert character_error_rate(" ".join(made.pages[0]), " ".join(line.text for line in page.lines)) < 0.05


async def test_a_table_that_was_scanned_askew(reader: DocumentReader) -> None:
    made = table(203, style="lines")
    scan = Image.open(io.BytesIO(picture(made.pdf))).convert("RGB")
    askew = scan.rotate(-2, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))
    (page,) = pages(await reader.read(ReadDocument(encode(np.asarray(askew), "PNG")), CALL))
    (found,) = page.tables
    assert cell_f1(made.tables, [grid_of(found)]) >= 0.9
    # It is placed on the picture as it was sent: its first line falls to the right.
    heading = next(line.quad for line in page.lines if line.text == made.pages[0][1])
    assert heading is not None
    (left, start), (right, end), *_ = heading
    assert (end - start) / (right - left) == pytest.approx(math.tan(math.radians(2)), abs=0.01)


@pytest.mark.parametrize("turn", [90, 180, 270])
async def test_a_text_layer_that_is_shown_turned_is_read_as_it_stands(reader: DocumentReader, turn: int) -> None:
    lines = ["The quick brown fox", "jumps over the lazy dog"]
    (page,) = pages(await reader.read(ReadDocument(lines_pdf(lines, rotation=turn)), CALL))
    assert (page.source, page.text) == ("layer", "\n".join(lines))
    (ax, ay), (bx, by), *_ = page.lines[0].quad or ()
    assert (bx - ax, by - ay) == pytest.approx({90: (0, by - ay), 180: (bx - ax, 0), 270: (0, by - ay)}[turn])
    assert {90: by > ay, 180: bx < ax, 270: by < ay}[turn]


async def test_a_photographed_page(reader: DocumentReader) -> None:
    (page,) = pages(await reader.read(ReadDocument(encode(pictures.page(), "PNG")), CALL))
    assert (page.width, page.height, page.unit) == (384, 191, "pixel")
    assert character_error_rate(PHOTOGRAPHED, page.text) < 0.05


async def test_the_pages_of_a_tiff(reader: DocumentReader) -> None:
    lines = ["the first page", "and the second", "closing words"]
    data = tiff(*(lines_pdf([line], size=(400, 120)) for line in lines))
    read = await reader.read(ReadDocument(data), CALL)
    assert (read.kind, read.total, read.numbers) == ("image", 3, (1, 2, 3))
    assert [(page.number, page.text, page.unit) for page in pages(read)] == [
        (number, line, "pixel") for number, line in enumerate(lines, start=1)
    ]
    some = await reader.read(ReadDocument(data, pages=((3, 3), (1, 1))), CALL)
    assert (some.total, [page.text for page in pages(some)]) == (3, [lines[0], lines[2]])
    drawn = await reader.render(RenderPages(data, pages=((2, None),), side=200), CALL)
    assert [(page.number, page.width) for page in drawn.pages if isinstance(page, PageImage)] == [(2, 200), (3, 200)]


async def test_a_fax_with_pixels_that_are_not_square_is_stretched(reader: DocumentReader) -> None:
    lines = ["Northern Water Board", "Subject: Repair of the main pipe", "I am writing about the pipe in Mill Road"]
    scan = Image.open(io.BytesIO(picture(lines_pdf(lines, size=(400, 200)), dpi=204))).convert("L")
    squashed = scan.resize((scan.width, scan.height * 98 // 204), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    squashed.point(lambda value: 255 * (value > 150)).convert("1").save(
        file, "TIFF", compression="group4", dpi=(204, 98)
    )
    (page,) = pages(await reader.read(ReadDocument(file.getvalue()), CALL))
    assert (page.width, page.height) == pytest.approx(scan.size, abs=2)
    assert character_error_rate(" ".join(lines), " ".join(page.text.split())) < 0.05
    (drawn,) = (await reader.render(RenderPages(file.getvalue()), CALL)).pages
    assert isinstance(drawn, PageImage)
    assert (drawn.width, drawn.height) == (page.width, page.height)


async def test_a_page_of_a_tiff_that_was_cut_off_hurts_no_other(reader: DocumentReader) -> None:
    data = tiff(*(lines_pdf([line], size=(400, 120)) for line in ("the first page", "and the second")))
    first, second = (await reader.read(ReadDocument(data[:-200]), CALL)).pages
    assert isinstance(first, Page)
    assert first.text == "the first page"
    assert isinstance(second, InvalidMedia)
    assert second.code == "truncated_image"


async def test_pages_are_drawn(reader: DocumentReader) -> None:
    drawn = await reader.render(RenderPages(blank(2), side=500, format="png"), CALL)
    first, second = drawn.pages
    assert isinstance(first, PageImage)
    assert isinstance(second, PageImage)
    assert (first.number, second.number) == (1, 2)
    assert first.data.startswith(b"\x89PNG")
    assert first.height == pytest.approx(500, abs=1)
    assert first.scale * 842 == pytest.approx(500, rel=0.01)
    (photo,) = (await reader.render(RenderPages(encode(pictures.page(), "PNG"), side=192), CALL)).pages
    assert isinstance(photo, PageImage)
    assert photo.data.startswith(b"\xff\xd8")
    assert (photo.width, photo.scale, photo.unit) == (192, 0.5, "pixel")


async def test_an_invoice_is_summed_up(reader: DocumentReader) -> None:
    made = invoice(11, style="grid")
    read = pages(await reader.read(ReadDocument(made.pdf), CALL))
    found = await reader.summarise(SummarisePages(tuple(read)), CALL)
    assert found.type == "invoice"
    assert found.title == "INVOICE"
    facts = {fact.name: fact.value for fact in found.key_facts}
    assert made.facts.items() <= facts.items()
    assert found.date is not None
    assert found.date[:4] in made.facts["Invoice date"]


async def test_a_blank_page_has_no_text(reader: DocumentReader) -> None:
    (page,) = pages(await reader.read(ReadDocument(blank()), CALL))
    assert (page.lines, page.tables) == ((), ())


@pytest.mark.parametrize(
    ("request_", "kind", "code"),
    [
        (ReadDocument(b""), InvalidMedia, "empty_document"),
        (ReadDocument(b"some words"), InvalidMedia, "not_a_document"),
        (ReadDocument(b"%PDF-1.7 and nothing"), InvalidMedia, "invalid_document"),
        (ReadDocument(lines_pdf(["a"])[:300]), InvalidMedia, "invalid_document"),
        (ReadDocument(encrypted()), InvalidMedia, "encrypted_document"),
        (ReadDocument(blank(9)), InvalidRequest, "too_many_pages"),
        (ReadDocument(tiff(*[lines_pdf([], size=(90, 90))] * 9)), InvalidRequest, "too_many_pages"),
        (ReadDocument(tiff(*[lines_pdf([], size=(90, 90))] * 2), pages=((3, 3),)), InvalidRequest, "invalid_pages"),
        (ReadDocument(blank(2), pages=((3, 3),)), InvalidRequest, "invalid_pages"),
        (ReadDocument(b"%PDF-" + bytes(5_000_000)), PayloadTooLarge, "payload_too_large"),
    ],
)
async def test_what_cannot_be_read_is_refused(
    reader: DocumentReader, request_: ReadDocument, kind: type[ArgusError], code: str
) -> None:
    with pytest.raises(kind) as caught:
        await reader.read(request_, CALL)
    assert caught.value.code == code


@pytest.mark.parametrize("size", [(8000, 10), (12, 8000)])
async def test_a_strip_is_a_page_without_text(reader: DocumentReader, size: tuple[int, int]) -> None:
    (page,) = pages(await reader.read(ReadDocument(encode(np.full((size[1], size[0], 3), 255, np.uint8), "PNG")), CALL))
    assert (page.width, page.height, page.text) == (*size, "")


async def test_a_page_that_cannot_be_read_has_its_error_in_its_place(reader: DocumentReader) -> None:
    read = await reader.read(ReadDocument(encode(pictures.page(), "PNG")[:500]), CALL)
    assert [page.code for page in read.pages if isinstance(page, InvalidMedia)] == ["truncated_image"]


@pytest.mark.parametrize("gigabytes", [0.05, 0.3])  # before the engine's first forward pass, and in the middle of one
async def test_a_page_cannot_take_all_memory(gigabytes: float) -> None:
    small = DocumentReader(config(worker_memory_gb=gigabytes, placement={"preprocess_workers": 1}), ImageLimits())
    try:
        (page,) = (await small.read(ReadDocument(article(5).pdf, text_layer="never", dpi=600), CALL)).pages
        assert isinstance(page, InvalidMedia)
        assert page.code in ("page_too_large", "document_crashed")
    finally:
        await small.close()


async def test_a_deadline_ends_the_reading_and_a_full_queue_refuses(reader: DocumentReader) -> None:
    long = ReadDocument(article(2, pages=6).pdf, text_layer="never")
    with pytest.raises(DeadlineExceeded):
        await reader.read(long, Call("test", 0.3))
    narrow = DocumentReader(config(batching={"max_queue": 1}, placement={"preprocess_workers": 1}), ImageLimits())
    try:
        await narrow.info()
        short = ReadDocument(lines_pdf(["a line"]))
        results = await asyncio.gather(*(narrow.read(short, CALL) for _ in range(6)), return_exceptions=True)
        assert any(isinstance(result, Overloaded) for result in results)
        assert any(not isinstance(result, Exception) for result in results)
        assert pages(await narrow.read(short, CALL))[0].text == "a line"
    finally:
        await narrow.close()
