"""Gemini through google-genai: inline media, the File API and its clean-up, boxes and times."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks.fake_providers import FakeGemini, Fault
from deployments.generation.messages import ChatRequest, Constraint, ImagePart, Message, Sampling, Text, VideoPart
from serve.errors import ContentRefused, InvalidMedia, InvalidOutput, RateLimited, Unavailable
from serve.providers.grounding import Box, Moment, boxes, seconds_of, to_pixels
from serve.providers.video import duration_s
from tests.support.provider_servers import asking, picture, pointed_at, showing, streamed

SMALL = {"gemini": {"files_above_bytes": 100, "file_poll_s": 0.01}}


def video(seconds: int = 12, size: int = 1000) -> VideoPart:
    """The headers of an MP4 that lasts `seconds`, and bytes that stand for its frames."""
    header = b"mvhd" + bytes(12) + struct.pack(">II", 1000, 1000 * seconds) + bytes(80)
    movie = b"moov" + struct.pack(">I", len(header) + 4) + header
    start = struct.pack(">I", 16) + b"ftypisom" + bytes(4)
    return VideoPart(
        start + struct.pack(">I", len(movie) + 4) + movie + struct.pack(">I", size + 8) + b"mdat" + bytes(size)
    )


@pytest.fixture
async def server() -> AsyncIterator[FakeGemini]:
    async with FakeGemini() as server:
        yield server


@pytest.fixture
async def gemini(server: FakeGemini, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    async with pointed_at(server, monkeypatch, "gemini") as provider:
        yield provider


def sent(server: FakeGemini) -> dict[str, Any]:
    body: dict[str, Any] = server.requests[-1].body
    return body


async def test_a_conversation_with_several_images(server: FakeGemini, gemini: Any) -> None:
    request = ChatRequest(
        (
            Message("system", (Text("Be brief."),)),
            Message("user", (ImagePart(picture()), ImagePart(picture(colour="blue")), Text("Differences?"))),
            Message("assistant", (Text("Colour."),)),
            Message("user", (Text("Sure?"),)),
        ),
        Sampling(max_tokens=20, temperature=0.0, seed=2**40 + 3, stop=("mat",)),
    )
    answer = await gemini.chat(request, 10)
    assert answer.result.answers[0].text == "A cat on a "
    body = sent(server)
    assert [content["role"] for content in body["contents"]] == ["user", "model", "user"]
    assert len(body["contents"][0]["parts"]) == 3
    assert body["systemInstruction"]["parts"][0]["text"] == "Be brief."
    assert body["generationConfig"]["temperature"] == 0
    assert 0 <= body["generationConfig"]["seed"] < 2**31


async def test_thoughts_are_charged_as_output(gemini: Any) -> None:
    answer = await gemini.chat(showing(), 10)
    assert answer.usage.completion_tokens == 4 + 3
    assert answer.usage.usd == pytest.approx((answer.usage.prompt_tokens * 0.3 + 7 * 2.5) / 1e6)


async def test_a_stream_is_the_whole_answer_in_pieces(gemini: Any) -> None:
    request = showing(sampling=Sampling(max_tokens=50, n=2))
    events, used = await streamed(gemini, request)
    whole = await gemini.chat(request, 10)
    for index, answer in enumerate(whole.result.answers):
        assert "".join(event.text for event in events if event.index == index) == answer.text
    assert [event.finish_reason for event in events if event.finish_reason] == ["stop", "stop"]
    assert used == whole.usage


async def test_json_that_fits_a_schema(server: FakeGemini, gemini: Any) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    server.answer = '{"n": 3}'
    sampling = Sampling(constraint=Constraint(json.dumps(schema)))
    assert (await gemini.chat(asking("?", sampling=sampling), 10)).result.answers[0].text == '{"n": 3}'
    assert sent(server)["generationConfig"]["responseJsonSchema"] == schema
    server.answer = '{"n": "three"}'
    with pytest.raises(InvalidOutput):
        await gemini.chat(asking("?", sampling=sampling), 10)


async def test_low_detail_is_asked_for_when_all_want_it(server: FakeGemini, gemini: Any) -> None:
    await gemini.chat(asking(ImagePart(picture(), "low"), "?"), 10)
    assert sent(server)["generationConfig"]["mediaResolution"] == "MEDIA_RESOLUTION_LOW"
    await gemini.chat(asking(ImagePart(picture(), "low"), ImagePart(picture()), "?"), 10)
    assert "mediaResolution" not in sent(server)["generationConfig"]


async def test_a_small_video_goes_inline(server: FakeGemini, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pointed_at(server, monkeypatch, "gemini", gemini={"video_fps": 2}) as gemini:
        await gemini.chat(asking(video(), "What happens?"), 10)
        part = sent(server)["contents"][0]["parts"][0]
        assert part["inlineData"]["mime_type"] == "video/mp4"
        assert part["videoMetadata"] == {"fps": 2}
        assert not server.deleted
        # 12 seconds of two frames a second, 258 tokens each, and 5 tokens a second.
        assert gemini.estimate(asking(video())).prompt_tokens == 12 * (2 * 258 + 5) + 4


async def test_a_large_file_is_uploaded_awaited_used_and_deleted(
    server: FakeGemini, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = video(size=5000)
    async with pointed_at(server, monkeypatch, "gemini", **SMALL) as gemini:
        answer = await gemini.chat(asking(clip, ImagePart(picture((200, 200))), "?"), 30)
        assert answer.result.answers[0].text == "A cat on a mat."
        parts = sent_call(server)["contents"][0]["parts"]
        assert [sorted(part) for part in parts] == [["fileData"], ["fileData"], ["text"]]
    looks = [one for one in server.requests if one.method == "POST" and "upload" in one.path]
    assert len(looks) == 2
    assert server.files == {}
    assert len(server.deleted) == 2


async def test_files_are_deleted_after_every_end(server: FakeGemini, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pointed_at(server, monkeypatch, "gemini", **SMALL) as gemini:
        server.script = [Fault("503"), Fault("refuse"), Fault("hang"), None]
        request = asking(video(), "?")
        with pytest.raises(Unavailable):
            await gemini.chat(request, 30)
        with pytest.raises(ContentRefused):
            await streamed(gemini, request, 30)
        call = asyncio.create_task(gemini.chat(request, 60))
        while server.in_flight == 0:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await streamed(gemini, request, 30)
    assert server.files == {}
    assert len(server.deleted) == 4


async def test_a_file_that_cannot_be_processed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeGemini(processing_fails=True) as server:
        async with pointed_at(server, monkeypatch, "gemini", **SMALL) as gemini:
            with pytest.raises(InvalidMedia):
                await gemini.chat(asking(video(), "?"), 30)
        assert server.calls == 0
        assert server.files == {}


async def test_a_file_that_is_never_ready_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeGemini(polls=10**9) as server:
        async with pointed_at(server, monkeypatch, "gemini", **SMALL) as gemini:
            with pytest.raises(Exception, match="in time"):
                await gemini.chat(asking(video(), "?"), 1.0)
        assert server.files == {}


async def test_how_long_to_wait_is_in_the_body(server: FakeGemini, gemini: Any) -> None:
    server.retry_delay = "7.5s"
    server.script = [Fault("429")]
    with pytest.raises(RateLimited) as caught:
        await gemini.chat(asking("?"), 10)
    assert caught.value.retry_after_s == 7.5


async def test_boxes_are_in_pixels_of_the_image_as_it_was_given(
    server: FakeGemini, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = '[{"box_2d": [100, 200, 500, 400], "label": "cat"}]'
    async with pointed_at(server, monkeypatch, "gemini", images={"max_side": 100}) as gemini:
        found, used = await gemini.detect(ImagePart(picture((1000, 500), kind="JPEG")), "the cat", 10)
        assert found == (Box("cat", 200, 50, 400, 250),)
        assert used.usd > 0
        server.answer = '[{"box_2d": [100, 200, 500], "label": "cat"}]'
        with pytest.raises(InvalidOutput):
            await gemini.detect(ImagePart(picture()), "the cat", 10)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0, 0, 1000, 1000], Box("x", 0, 0, 640, 480)),
        ([-5, 0, 1200, 500], Box("x", 0, 0, 320, 480)),
        ([500, 900, 250, 100], Box("x", 64, 120, 576, 240)),
    ],
    ids=["whole", "beyond the edge", "corners exchanged"],
)
def test_a_box_in_pixels(given: list[float], expected: Box) -> None:
    assert to_pixels(given, "x", (640, 480)) == expected


@pytest.mark.parametrize("given", [None, [1, 2, 3], [1, 2, 3, "4"], [0, 0, 0, 1000], [True, 0, 10, 10]])
def test_what_is_no_box(given: Any) -> None:
    with pytest.raises(InvalidOutput):
        to_pixels(given, "x", (640, 480))
    with pytest.raises(InvalidOutput):
        boxes('{"box_2d": []}', (640, 480))


async def test_moments_of_a_video_are_in_seconds(server: FakeGemini, gemini: Any) -> None:
    server.answer = '[{"time": "01:05", "description": "it rains"}, {"time": "1:00:02.5", "description": "it stops"}]'
    found, _ = await gemini.moments(video(), "the weather changes", 10)
    assert found == (Moment(65, "it rains"), Moment(3602.5, "it stops"))


@pytest.mark.parametrize("given", ["", "soon", "1:2:3:4", "-0:05", "12"])
def test_what_is_no_time(given: str) -> None:
    with pytest.raises(InvalidOutput):
        seconds_of(given)


@pytest.mark.parametrize("seconds", [1, 12, 3600])
def test_the_length_of_a_video(seconds: int) -> None:
    assert duration_s(video(seconds).data) == seconds


@pytest.mark.parametrize(
    "data", [b"", b"\x00\x00\x00\x01ftyp", bytes(100), video().data[:40], b"\x1a\x45\xdf\xa3" * 50]
)
def test_a_video_that_does_not_say_is_judged_by_its_size(data: bytes) -> None:
    assert duration_s(data) == len(data) / 25_000


def sent_call(server: FakeGemini) -> dict[str, Any]:
    """The body of the last model call, which deletions may have followed."""
    body: dict[str, Any] = next(one.body for one in reversed(server.requests) if "generateContent" in one.path)
    return body
