"""The clips that a classifier sees of a video: the whole of a part, or windows that slide over it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from deployments.video.decode import Frames, Video
from deployments.video_classifier.actions import check_window_count, windows
from serve.errors import InvalidRequest

Shaped = npt.NDArray[Any]
Opening = AbstractContextManager[Video]
"""What `deployments.video.decode.open_video` returns."""


@dataclass(frozen=True, slots=True)
class Shaping:
    """What a model makes of pictures.

    Attributes:
        frames: of a clip.
        shape: one picture (height, width, 3) uint8 RGB as the model takes it.
    """

    frames: int
    shape: Callable[[Frames], Shaped]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a video in seconds; to its end when `end_s` is None."""

    start_s: float
    end_s: float | None


@dataclass(frozen=True, slots=True)
class Sliding:
    """Windows over a part of a video; `most` of them at most."""

    part: Part
    window_s: float
    stride_s: float
    most: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Start and end of each window in seconds, and the seconds of the whole video."""

    spans: Sequence[tuple[float, float]]
    duration_s: float


def read_clip(opened: Opening, part: Part, shaping: Shaping, side: int) -> Shaped:
    """One clip of a part of a video, its frames spread evenly, the first and the last among them.

    Args:
        side: the longer side of a decoded picture at most, in pixels.

    Returns:
        (frames, ...): the shaped frames.

    Raises:
        InvalidRequest: `outside_video`: the part begins behind the video's end.
        ArgusError: see `open_video`.
    """
    with opened as video:
        numbers = video.even(shaping.frames, video.between(*_within(video, part)))
        shaped = {number: shaping.shape(pixels) for number, pixels in video.frames(numbers, side)}
    return np.stack([shaped[number] for number in numbers])


def read_windows(opened: Opening, sliding: Sliding, shaping: Shaping, side: int) -> tuple[Plan, Iterator[Shaped]]:
    """The windows over a video, and their clips, decoded as they are asked for.

    No more is held than the frames of one window. The video stays open until the iterator has ended or is gone.

    Raises:
        InvalidRequest: `outside_video`, `too_many_windows`.
        ArgusError: see `open_video`; the iterator raises it too.
    """
    clips = _clips(opened, sliding, shaping, side)
    plan = next(clips)
    assert isinstance(plan, Plan)
    return plan, cast("Iterator[Shaped]", clips)


def _clips(opened: Opening, sliding: Sliding, shaping: Shaping, side: int) -> Iterator[Plan | Shaped]:
    """The plan, then the clip of each of its windows."""
    with opened as video:
        start_s, end_s = _within(video, sliding.part)
        check_window_count(start_s, end_s, sliding.stride_s, sliding.most)
        spans = windows(start_s, end_s, sliding.window_s, sliding.stride_s)
        yield Plan(spans, video.duration_s)
        yield from _slide(video, spans, shaping, side)


def _slide(video: Video, spans: Sequence[tuple[float, float]], shaping: Shaping, side: int) -> Iterator[Shaped]:
    """The clip of each window; a frame that several of them see is decoded and shaped once."""
    plans = [_numbers(video, span, shaping.frames) for span in spans]
    frames = video.frames({number for plan in plans for number in plan}, side)
    held: dict[int, Shaped] = {}
    for plan, after in pairwise([*plans, plans[-1]]):
        while plan[-1] not in held:
            number, pixels = next(frames)
            held[number] = shaping.shape(pixels)
        yield np.stack([held[number] for number in plan])
        held = {number: shaped for number, shaped in held.items() if number >= after[0]}


def _numbers(video: Video, span: tuple[float, float], count: int) -> list[int]:
    """The frames seen in the middles of `count` equal parts of a span: they stand for the span without leaning to one
    side, and windows a whole number of parts apart share theirs."""
    start, length = span[0], span[1] - span[0]
    moments = (start + length * (part + 0.5) / count for part in range(count))
    return [max(0, bisect_right(video.ticks, moment / video.base) - 1) for moment in moments]


def _within(video: Video, part: Part) -> tuple[float, float]:
    """Start and end of a part in seconds, cut at the video's end.

    Raises:
        InvalidRequest: `outside_video`.
    """
    if part.start_s > 0.0 and part.start_s >= video.duration_s:
        raise InvalidRequest(
            f"The video lasts {video.duration_s:.3f} s; nothing begins at {part.start_s:g} s.",
            code="outside_video",
            param="start_s",
        )
    end_s = min(math.inf if part.end_s is None else part.end_s, video.duration_s)
    return part.start_s, max(end_s, part.start_s)
