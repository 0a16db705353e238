"""A video as numbered frames: exact times, turned pictures, parts, and what is said of a file."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.video.decode import open_video
from deployments.video.facts import inspect
from deployments.video.messages import VideoInfo
from serve.errors import InvalidMedia, InvalidRequest
from serve.media.video import VideoLimits
from tests.unit.video_files import encode, greys, number_of, shots, webp

MILLISECOND = Fraction(1, 1000)
UNEVEN = [0, 33, 67, 500, 501, 1900, 2000, 7777]
EVEN = encode(greys(20))
VARIABLE = {
    container: encode(greys(8), ticks=UNEVEN, base=MILLISECOND, container=container, codec=codec)
    for container, codec in {"mp4": "libx264", "matroska": "libx264", "webm": "libvpx"}.items()
}


@pytest.mark.parametrize("container", sorted(VARIABLE))
def test_times_are_exact_at_a_variable_rate(container: str) -> None:
    with open_video(VARIABLE[container]) as video:
        assert [video.at_s(number) for number in range(8)] == [tick / 1000 for tick in UNEVEN]
        shown = list(video.frames(range(8), 64))
    assert [number for number, _ in shown] == list(range(8))
    assert [number_of(pixels) for _, pixels in shown] == list(range(8))


@pytest.mark.parametrize("first", [1, 250, 3000])
def test_the_first_frame_shown_is_at_zero(first: int) -> None:
    ticks = [first + tick for tick in UNEVEN]
    with open_video(encode(greys(8), ticks=ticks, base=MILLISECOND)) as video:
        assert [video.at_s(number) for number in range(8)] == [tick / 1000 for tick in UNEVEN]


def test_frames_come_in_the_order_in_which_they_are_shown() -> None:
    data = encode(greys(20), bf="3", x264opts="b-adapt=0")
    assert b"elst" in data  # B-frames delay the first picture, which an edit list takes back
    with open_video(data) as video:
        assert [video.at_s(number) for number in range(20)] == [pytest.approx(number / 10) for number in range(20)]
        assert [number_of(pixels) for _, pixels in video.frames(range(20), 64)] == list(range(20))


def test_the_times_of_an_animation_are_its_durations() -> None:
    with open_video(webp(greys(4), [100, 50, 1000, 20])) as video:
        assert [video.at_s(number) for number in range(4)] == [0.0, 0.1, 0.15, 1.15]
        assert video.duration_s == 1.17
        assert [number_of(pixels) for _, pixels in video.frames([1, 3], 64)] == [1, 3]


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [
        (0.0, None, list(range(8))),
        (0.0, 0.5, [0, 1, 2]),
        (0.033, 0.067, [1]),
        (0.4, 0.502, [2, 3, 4]),  # what stands at 0.4 s is seen from there on
        (1.0, 1.5, [4]),
        (7.777, None, [7]),
        (99.0, None, [7]),
    ],
)
def test_a_part_holds_what_is_seen_in_it(start_s: float, end_s: float | None, expected: list[int]) -> None:
    with open_video(VARIABLE["mp4"]) as video:
        assert video.between(start_s, end_s) == expected


def test_a_lower_rate_takes_what_stands_at_its_moments() -> None:
    with open_video(EVEN) as video:
        assert video.between(0.0, None, 5.0) == list(range(0, 20, 2))
        assert video.between(0.0, None, 10.0) == video.between(0.0, None, 25.0) == list(range(20))
        assert video.between(0.5, 1.5, 2.0) == [5, 10]
    with open_video(VARIABLE["mp4"]) as video:  # at 0, 1, 2, .. 7 s
        assert video.between(0.0, None, 1.0) == [0, 4, 6]


@given(start=st.floats(0, 2), length=st.floats(0.01, 2), fps=st.floats(0.1, 60))
def test_a_part_is_some_frames_of_the_video_in_order(start: float, length: float, fps: float) -> None:
    with open_video(EVEN) as video:
        all_, some = video.between(start, start + length), video.between(start, start + length, fps)
    assert all_ == list(range(all_[0], all_[-1] + 1))
    assert some and some[0] == all_[0] and some == sorted(set(some)) and set(some) <= set(all_)


def test_what_is_said_of_a_video() -> None:
    info = inspect_bytes(encode(shots([30]), rotation=90))
    assert (info.container, info.codec, info.width, info.height, info.rotation) == ("MP4", "h264", 48, 64, 90)
    assert (info.frames, info.variable_rate) == (30, False)
    assert (info.duration_s, info.fps) == (pytest.approx(3.0), pytest.approx(10.0))
    info = inspect_bytes(VARIABLE["mp4"])
    assert info.variable_rate and info.fps == pytest.approx(7 / 7.777)
    rounded = encode(greys(30), ticks=[round(1000 * i / 30) for i in range(30)], base=MILLISECOND, container="matroska")
    assert not inspect_bytes(rounded).variable_rate  # 33 and 34 ms in turn
    one = inspect_bytes(encode(greys(1)))
    assert (one.frames, one.fps, one.variable_rate) == (1, 0.0, False)


def inspect_bytes(data: bytes) -> VideoInfo:
    with open_video(data) as video:
        return inspect(video)


def test_pictures_are_scaled_and_upright() -> None:
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:16, :16] = 255
    with open_video(encode([np.ascontiguousarray(np.rot90(upright, -1))], rotation=90)) as video:
        ((_, picture),) = video.frames([0], 32)
    assert picture.shape == (24, 32, 3)
    assert picture[2:6, 2:6].mean() > 200 > 50 > picture[10:].mean()


def test_damage_in_the_middle_gives_frames_or_a_clear_error() -> None:
    data = encode(shots([40], 320, 240), rate=10)
    refused = 0
    for at in range(5):
        broken = bytearray(data)
        place = data.index(b"mdat") + 400 + at * 300
        broken[place : place + 200] = bytes(200)
        try:
            with open_video(bytes(broken)) as video:
                shown = list(video.frames(range(len(video.ticks)), 64))
            assert [number for number, _ in shown] == list(range(len(shown)))
        except InvalidMedia as error:
            refused += 1
            assert error.code == "invalid_video"
    with pytest.raises(InvalidRequest), open_video(data[: len(data) // 2]):
        pass
    assert refused < 5  # what the decoder conceals is passed on


def test_the_time_limit_holds_for_everything_done_with_a_video() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1
        return now[0]

    limits = VideoLimits(decode_s=30)
    with open_video(EVEN, limits, clock=clock) as video, pytest.raises(InvalidMedia, match="longer than 30 s"):
        list(video.frames(range(20), 64))
