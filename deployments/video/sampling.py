"""Which frames of a video stand for it: evenly spaced ones, those where it changes most, or one of each shot."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from itertools import pairwise

import cv2
from PIL import Image

from deployments.video.decode import Frames, Video
from deployments.video.messages import SampledFrame, SampleFrames
from deployments.video.scenes import cut_numbers

# Differences are taken between pictures of this longer side, so that grain and compression do not count, at most this
# many a second.
_LOOK_SIDE, _LOOK_FPS = 64, 8.0
_JPEG_QUALITY = 90


def sample(video: Video, request: SampleFrames) -> tuple[SampledFrame, ...]:
    """See `SampleFrames`; the video's bytes have been opened already."""
    numbers = video.between(request.start_s, request.end_s)
    changes: dict[int, float] = {}
    match request.strategy:
        case "uniform":
            chosen = sorted(set(video.even(request.count, numbers)))
        case "keyframe":
            changes = _key_frames(video, request)
            chosen = sorted(changes)
        case "scene":
            chosen = _shot_middles(video, numbers, request.count)
    found = []
    for number, pixels in video.frames(chosen, request.side):
        height, width = pixels.shape[:2]
        found.append(SampledFrame(video.at_s(number), encode_jpeg(pixels), width, height, changes.get(number)))
    return tuple(found)


def encode_jpeg(pixels: Frames) -> bytes:
    """A JPEG file of (height, width, 3) uint8 RGB."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _key_frames(video: Video, request: SampleFrames) -> dict[int, float]:
    """Chosen frames and their changes."""
    numbers = video.between(request.start_s, request.end_s, _LOOK_FPS)
    changes = _changes(video, numbers)
    times = [video.at_s(number) for number in numbers]
    chosen = most_changed(times, changes, request.count, request.threshold, request.min_gap_s)
    return {numbers[place]: changes[place] for place in chosen}


def most_changed(
    times: Sequence[float], changes: Sequence[float], count: int, threshold: float, min_gap_s: float
) -> list[int]:
    """Places of the first moment and of those with the largest changes, in order.

    Taken greedily from the largest down: a place is left out when its change is below `threshold`, or when one that was
    taken is less than `min_gap_s` away.
    """
    chosen = [0]
    for place in sorted(range(1, len(changes)), key=lambda place: -changes[place]):
        if len(chosen) >= count or changes[place] < threshold:
            break
        if all(abs(times[place] - times[other]) >= min_gap_s for other in chosen):
            chosen.append(place)
    return sorted(chosen)


def _changes(video: Video, numbers: Sequence[int]) -> list[float]:
    """Mean absolute difference of red, green and blue to the picture before, from 0 to 1; 0 of the first. Of brightness
    alone, a cut between two pictures as bright as each other would be none."""
    changes: list[float] = []
    before: Frames | None = None
    for _, pixels in video.frames(numbers, _LOOK_SIDE):
        alike = before is not None and before.shape == pixels.shape
        changes.append(float(cv2.absdiff(pixels, before).mean()) / 255 if alike and before is not None else 0.0)
        before = pixels
    return changes


def _shot_middles(video: Video, numbers: Sequence[int], count: int) -> list[int]:
    """The frame in the middle of each shot; of more shots than `count`, those of the longest."""
    cuts = cut_numbers(video, numbers)
    borders = [numbers[0], *cuts, numbers[-1] + 1]
    shots = sorted(pairwise(borders), key=lambda shot: _seconds(video, shot), reverse=True)[:count]
    return sorted(video.even(3, range(first, end))[1] for first, end in shots)


def _seconds(video: Video, shot: tuple[int, int]) -> float:
    """How long a shot, its first frame and the one after its last, is shown."""
    end = video.at_s(shot[1]) if shot[1] < len(video.ticks) else video.duration_s
    return end - video.at_s(shot[0]) if math.isfinite(end) else 0.0
