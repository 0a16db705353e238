"""A video as numbered frames: exact times, turned pictures, parts, and what is said of a file."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
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


def test_a_film_cut_between_two_key_frames_begins_with_what_is_shown() -> None:
    """As phones cut: the key frame is in the file for the decoder, and an edit list leaves it out."""
    times = [100 * number - 300 for number in range(20)]
    for group in ("100", "10"):
        data = encode(
            greys(20), ticks=times, base=MILLISECOND, muxer={"avoid_negative_ts": "disabled"}, bf="0", g=group
        )
        with open_video(data) as video:
            assert [video.at_s(number) for number in range(17)] == [pytest.approx(number / 10) for number in range(17)]
            assert [number_of(pixels) for _, pixels in video.frames(range(17), 64)] == list(range(3, 20))
            ((_, alone),) = video.frames([9], 64)
            assert number_of(alone) == 12


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_recording_that_begins_between_two_key_frames_is_read_from_the_first(container: str) -> None:
    def but_the_first(number: int, packet: av.Packet) -> list[av.Packet]:
        return [packet] if number else []

    data = encode(greys(20), container=container, change=but_the_first, g="7")
    with open_video(data) as video:
        assert len(video.ticks) == 13
        assert [video.at_s(number) for number in range(13)] == [pytest.approx(number / 10) for number in range(13)]
        assert [number_of(pixels) for _, pixels in video.frames(range(13), 64)] == list(range(7, 20))


def test_frames_that_are_never_shown_are_none() -> None:
    """VP8 keeps pictures to predict from in packets of their own, with times between those of the others."""

    def with_hidden(number: int, packet: av.Packet) -> list[av.Packet]:
        if number % 4 != 1:
            return [packet]
        hidden = bytearray(memoryview(packet))
        hidden[0] &= ~0x10  # show_frame
        copy = av.Packet(bytes(hidden))
        copy.stream, copy.time_base, copy.pts, copy.dts = (
            packet.stream,
            packet.time_base,
            packet.pts + 1,
            packet.dts + 1,
        )
        return [packet, copy]

    still = np.repeat(greys(2)[1:], 12, axis=0)
    times = [100 * number for number in range(12)]
    data = encode(still, ticks=times, base=MILLISECOND, container="webm", codec="libvpx", change=with_hidden)
    with open_video(data) as video:
        assert [video.at_s(number) for number in range(len(video.ticks))] == [time / 1000 for time in times]
        assert [number for number, _ in video.frames(range(12), 64)] == list(range(12))


def test_no_other_frame_stands_for_one_that_cannot_be_decoded() -> None:
    def damaged(number: int, packet: av.Packet) -> list[av.Packet]:
        if number == 5:
            packet.update(bytes([0x00, 0x00, 0x00, 0x01]) + bytes(packet.size - 4))
        return [packet]

    data = encode(greys(20), codec="libx265", change=damaged, **{"x265-params": "bframes=0:log-level=none"})
    with open_video(data) as video, pytest.raises(InvalidMedia, match=r"0\.500 s"):
        list(video.frames([3, 5, 19], 64))


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


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize(("aspect", "size"), [(Fraction(4, 3), (85, 48)), (Fraction(1, 2), (64, 96))])
def test_pixels_become_square(container: str, aspect: Fraction, size: tuple[int, int]) -> None:
    data = encode(greys(3), container=container, aspect=aspect)
    info = inspect_bytes(data)
    assert (info.width, info.height) == size
    with open_video(data) as video:
        ((_, picture),) = video.frames([1], 32)
    assert max(picture.shape) == 32
    assert picture.shape[1] / picture.shape[0] == pytest.approx(size[0] / size[1], rel=0.05)


def test_a_cover_is_no_video() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        sound: Any = output.add_stream("aac", rate=16000)
        cover: Any = output.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt, cover.disposition = 48, 64, "yuvj420p", Disposition.attached_pic
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        silence.rate, silence.pts = 16000, 0
        output.mux([*sound.encode(silence), *sound.encode(None)])
        output.mux([*cover.encode(av.VideoFrame.from_ndarray(greys(1)[0], format="rgb24")), *cover.encode(None)])
    with pytest.raises(InvalidMedia, match="no video track"), open_video(buffer.getvalue()):
        pass


def test_a_stream_that_grows_beyond_the_limit_is_refused_unseen() -> None:
    small, large = (encode(greys(3, side, side), container="webm", codec="libvpx-vp9") for side in (64, 512))
    buffer = io.BytesIO()
    with av.open(io.BytesIO(small)) as one, av.open(io.BytesIO(large)) as other, av.open(buffer, "w", "webm") as output:
        stream = output.add_stream_from_template(one.streams.video[0])
        for source, after in ((one, 0), (other, 300)):
            for packet in source.demux(video=0):
                if packet.dts is not None and packet.pts is not None:
                    packet.stream, packet.pts, packet.dts = stream, packet.pts + after, packet.dts + after
                    output.mux(packet)
    data = buffer.getvalue()
    with open_video(data) as video:
        assert [number_of(pixels) for _, pixels in video.frames(range(6), 64)] == [0, 1, 2, 0, 1, 2]
    with open_video(data, VideoLimits(max_pixels=64 * 64)) as video, pytest.raises(InvalidMedia, match="4,096 pixels"):
        list(video.frames(range(6), 64))


@pytest.mark.parametrize(("container", "codec"), [("webm", "libvpx-vp9"), ("avi", "mpeg4"), ("mp4", "libx264")])
def test_a_picture_that_is_too_large_is_refused_with_what_is_allowed(container: str, codec: str) -> None:
    data = encode(greys(2, 128, 128), container=container, codec=codec)
    told = r"12,000 (in all are|pixels that are) decoded"
    with pytest.raises(InvalidMedia, match=told), open_video(data, VideoLimits(max_pixels=12_000)):
        pass


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
