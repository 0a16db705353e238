"""Films: a decoder finds every frame, at its exact time, whether they came in one piece or in many."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace

from deployments.rendering.film import FilmWriter, join, rate
from serve.errors import InvalidMedia, InvalidRequest

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Stream:
    """What a player reads of a film's stream."""

    width: int
    height: int
    pixels: str | None
    rate: Fraction | None
    frames: int
    start: int | None
    duration_s: Fraction | int


def frames(count: int, width: int = 64, height: int = 48) -> list[Frame]:
    """Frames that are told apart by their grey; neighbours differ by 8."""
    return [np.full((height, width, 3), 8 * (number % 32), np.uint8) for number in range(count)]


def segment(some: list[Frame], fps: float = 30, quality: int = 80) -> bytes:
    height, width = some[0].shape[:2]
    writer = FilmWriter(width, height, fps, len(some), quality)
    for frame in some:
        writer.add(frame)
    return writer.finish()


def decoded(film: bytes) -> tuple[Stream, list[Any]]:
    with av.open(io.BytesIO(film), "r", format="mp4") as file:
        assert len(file.streams) == 1
        shown = list(file.decode(video=0))
        stream = file.streams.video[0]
        duration = (stream.duration or 0) * (stream.time_base or 0)
        facts = Stream(
            stream.width, stream.height, stream.pix_fmt, stream.average_rate, stream.frames, stream.start_time, duration
        )
    return facts, shown


def greys(shown: list[Any]) -> list[int]:
    return [round(float(frame.to_ndarray(format="rgb24").mean()) / 8) for frame in shown]


@pytest.mark.parametrize("fps", [0.5, 7.5, 23.976, 24, 30000 / 1001, 30, 60, 240])
def test_frames_of_joined_segments_stand_at_their_exact_times(fps: float) -> None:
    drawn = frames(13)
    film = join([segment(drawn[:5], fps), segment(drawn[5:6], fps), segment(drawn[6:], fps)])
    stream, shown = decoded(film)
    assert [frame.pts * frame.time_base for frame in shown] == [number / rate(fps) for number in range(13)]
    assert greys(shown) == list(range(13))
    assert (stream.rate, stream.frames, stream.start, stream.duration_s) == (rate(fps), 13, 0, 13 / rate(fps))


def test_rates_of_television_are_exact() -> None:
    assert rate(30000 / 1001) == Fraction(30000, 1001)
    assert rate(24000 / 1001) == Fraction(24000, 1001)
    assert rate(12.5) == Fraction(25, 2)


@pytest.mark.parametrize("fps", [0, -1, 241, float("nan"), float("inf")])
def test_a_rate_that_no_film_has_is_refused(fps: float) -> None:
    with pytest.raises(InvalidRequest) as refused:
        rate(fps)
    assert (refused.value.code, refused.value.param) == ("invalid_field", "fps")


@pytest.mark.parametrize(("size", "made"), [((64, 48), (64, 48)), ((63, 47), (64, 48)), ((1, 1), (2, 2))])
def test_odd_sides_are_made_even(size: tuple[int, int], made: tuple[int, int]) -> None:
    stream, shown = decoded(segment(frames(3, *size)))
    assert (stream.width, stream.height) == made
    assert stream.pixels == "yuv420p" and len(shown) == 3


def test_colours_come_back_as_drawn_and_say_what_they_are() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 30, 90), (255, 255, 255), (0, 0, 0)]
    _, shown = decoded(segment([np.full((48, 64, 3), colour, np.uint8) for colour in colours], quality=95))
    for frame, colour in zip(shown, colours, strict=True):
        assert np.abs(frame.to_ndarray(format="rgb24").mean((0, 1)) - colour).max() < 3
        assert (frame.colorspace, frame.color_range) == (Colorspace.ITU709, ColorRange.MPEG)
        assert frame.color_primaries == ColorPrimaries.BT709


def test_the_index_stands_before_the_pictures() -> None:
    """So that a browser shows the first frame before it has the last."""
    film = join([segment(frames(40)), segment(frames(40))])
    assert film.index(b"moov") < film.index(b"mdat")


def test_a_long_film_has_room_for_its_index() -> None:
    piece = segment(frames(1500, 16, 16))
    _, shown = decoded(join([piece] * 4))
    assert len(shown) == 6000


def test_quality_is_paid_in_bytes() -> None:
    rng = np.random.default_rng(1)
    noise = [rng.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(6)]
    sizes = [len(segment(noise, quality=quality)) for quality in (1, 50, 100)]
    assert sizes == sorted(set(sizes))


def test_a_segment_alone_is_a_film() -> None:
    _, shown = decoded(join([segment(frames(4))]))
    assert greys(shown) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "other",
    [segment(frames(3, 32, 48)), segment(frames(3), fps=25)],
    ids=["another size", "another rate"],
)
def test_segments_of_different_films_do_not_join(other: bytes) -> None:
    with pytest.raises(InvalidMedia) as refused:
        join([segment(frames(3)), other])
    assert refused.value.code == "invalid_video"


@pytest.mark.parametrize("damaged", [b"", b"no film", segment(frames(3))[:200]], ids=["empty", "text", "cut short"])
def test_a_damaged_segment_is_refused(damaged: bytes) -> None:
    with pytest.raises(InvalidMedia) as refused:
        join([segment(frames(3)), damaged])
    assert refused.value.code == "invalid_video"
