"""The video reader and the videos service on a real Ray Serve: a reader of two replicas, asked as the router asks."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from ray import serve
from ray.serve.context import _RequestContext, _serve_request_context

from deployments.video.messages import CutClips, FindScenes, InspectVideo, SampleFrames
from serve.config.models import VideoReaderModel
from serve.context import RequestContext
from serve.errors import DeadlineExceeded, InvalidMedia, Unavailable
from serve.handles import ServeHandle
from tests.support.own_serve import served
from tests.support.traceable_reader import TraceableReader
from tests.unit.video_files import encode, shots

pytestmark = pytest.mark.asyncio(loop_scope="module")

VIDEO = encode(shots([12, 15, 9]))
LONG = encode(shots([40] * 30, 320, 240), rate=30)


@pytest.fixture(scope="module")
def application() -> Iterator[None]:
    config = VideoReaderModel(kind="video_reader")
    with served("reader", TraceableReader, config, 10_000_000, replicas=2, num_cpus=0.2):
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader(application: None) -> AsyncIterator[ServeHandle]:
    yield ServeHandle("reader", serve.get_app_handle("reader"))


def context(seconds: float = 60) -> RequestContext:
    return RequestContext("test", "tester", time.monotonic() + seconds)


async def ask(reader: ServeHandle, request: object, within: RequestContext | None = None) -> object:
    within = within or context()
    return await reader.call(request.method, within, request, within.call())  # type: ignore[attr-defined]


async def test_everything_a_reader_does_crosses_processes(reader: ServeHandle) -> None:
    info = await ask(reader, InspectVideo(VIDEO))
    assert (info.frames, info.codec, info.variable_rate) == (36, "h264", False)  # type: ignore[attr-defined]
    assert await ask(reader, FindScenes(VIDEO)) == (1.2, 2.7)
    frames = await ask(reader, SampleFrames(VIDEO, "scene", 8))
    assert [frame.jpeg[:2] for frame in frames] == [b"\xff\xd8"] * 3  # type: ignore[attr-defined]
    clips = await ask(reader, CutClips(VIDEO, ((0.0, 1.2), (1.2, 2.7)), fps=10.0))
    assert [clip.frames for clip in clips] == [12, 15]  # type: ignore[attr-defined]


async def test_errors_arrive_as_they_were_raised(reader: ServeHandle) -> None:
    with pytest.raises(InvalidMedia) as caught:
        await ask(reader, InspectVideo(VIDEO[:-300]))
    assert caught.value.code == "invalid_video"
    with pytest.raises(DeadlineExceeded):
        await ask(reader, FindScenes(LONG), context(0.05))


async def test_callers_side_by_side_get_their_own(reader: ServeHandle) -> None:
    spans = [((i / 10, (i + 5) / 10),) for i in range(24)]
    found = await asyncio.gather(*(ask(reader, CutClips(VIDEO, span, fps=10.0)) for span in spans))
    assert [clips[0].start_s for clips in found] == [i / 10 for i in range(24)]  # type: ignore[index]


async def test_calls_of_one_request_do_not_wait_for_each_other(reader: ServeHandle) -> None:
    """As the router makes them: within the context of one HTTP request."""
    token = _serve_request_context.set(_RequestContext(request_id="one", _internal_request_id="one"))
    try:
        for _ in range(5):
            async with asyncio.timeout(30):
                found = await asyncio.gather(*(ask(reader, InspectVideo(VIDEO)) for _ in range(12)))
            assert [info.frames for info in found] == [36] * 12  # type: ignore[attr-defined]
    finally:
        _serve_request_context.reset(token)


async def test_a_killed_replica_is_replaced(reader: ServeHandle) -> None:
    os.kill(int(await reader.call("pid", context())), signal.SIGKILL)
    for _ in range(1200):
        try:
            info = await ask(reader, InspectVideo(VIDEO))
            break
        except Unavailable:
            await asyncio.sleep(0.1)
    assert info.frames == 36  # type: ignore[attr-defined]
