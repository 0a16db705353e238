"""Photos from a video: of each stretch its sharpest frame, and none where the camera stood still."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from deployments.reconstruction.capture import SIDE
from deployments.video.decode import open_video
from serve.media.video import VideoLimits

UInt8 = npt.NDArray[np.uint8]

# Frames looked at for each one chosen; and of a second, at most.
_LOOKS: Final = 4
_LOOKS_PER_S: Final = 12.0
# Movement of the picture, in parts of its width, below which a frame tells nothing new.
_STILL: Final = 0.01


def video_frames(data: bytes, count: int, side: int, limits: VideoLimits) -> Iterator[tuple[str, UInt8]]:
    """At most `count` frames in order, with names that say when they were filmed.

    Args:
        side: their longest side, in pixels.

    Raises:
        ArgusError: see `deployments.video.decode.open_video`.
    """
    with open_video(data, limits) as video:
        looks = min(count * _LOOKS, len(video.ticks), max(count, int(video.duration_s * _LOOKS_PER_S)))
        numbers = video.even(looks)
        sharpness, greys = [], []
        for _, pixels in video.frames(numbers, SIDE):
            grey: UInt8 = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
            sharpness.append(float(cv2.Laplacian(grey, cv2.CV_64F).var()))
            greys.append(np.asarray(cv2.resize(grey, (128, 96), interpolation=cv2.INTER_AREA), np.float32))
        chosen = choose(sharpness, greys, count)
        for number, pixels in video.frames([numbers[position] for position in chosen], side):
            yield f"{video.at_s(number):.2f} s", pixels


def choose(sharpness: list[float], greys: list[npt.NDArray[np.float32]], count: int) -> list[int]:
    """Positions of the frames to use.

    Args:
        sharpness: of each frame looked at.
        greys: (height, width) float32 of each, small.
    """
    chosen: list[int] = []
    for stretch in np.array_split(np.arange(len(sharpness)), min(count, len(sharpness))):
        best = int(stretch[int(np.argmax([sharpness[i] for i in stretch]))])
        if not chosen or _moved(greys[chosen[-1]], greys[best]) > _STILL:
            chosen.append(best)
    return chosen


def _moved(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    """How far the picture's points went, as a part of its width: median of dense flow (Farnebäck 2003)."""
    no_guess: Any = None
    flow = cv2.calcOpticalFlowFarneback(
        np.asarray(first, np.uint8), np.asarray(second, np.uint8), no_guess, 0.5, 3, 15, 2, 5, 1.1, 0
    )
    return float(np.median(np.linalg.norm(flow, axis=2)) / first.shape[1])
