"""Frames sampled evenly from a video file, in bounded memory and time, for models that read a video."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from deployments.video.decode import Frames, open_video
from serve.media.video import VideoLimits


def sample_frames(
    data: bytes,
    count: int,
    limits: VideoLimits | None = None,
    *,
    deadline: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
) -> Frames:
    """`count` frames, the first and the last of the video among them, evenly spaced in time.

    At a constant frame rate these are the frames `linspace(0, total - 1, count)`, rounded down, as Video-LLaVA samples
    them (Lin et al. 2023). A video with fewer frames gives some of them twice.

    Args:
        data: an MP4, MOV, WebM, MKV, AVI, GIF or WebP file.
        count: at least 1.
        limits: see `VideoLimits`.
        deadline: on `clock`.

    Returns:
        (count, height, width, 3) uint8 RGB, upright, the longer side at most `limits.frame_side`.

    Raises:
        ArgusError: as `deployments.video.decode.open_video`, and `Video.frames`.
    """
    limits = limits or VideoLimits()
    with open_video(data, limits, deadline=deadline, clock=clock) as video:
        wanted = video.even(count)
        found = dict(video.frames(wanted, limits.frame_side))
    return np.stack([found[number] for number in wanted])
