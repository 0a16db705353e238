"""What a video is, without decoding more than one frame."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from deployments.video.decode import Video
from deployments.video.messages import VideoInfo

# Containers round times (Matroska to milliseconds), so frames count as even when their gaps differ by no more than this
# share, or by two ticks.
_EVEN_SHARE, _EVEN_TICKS = 0.1, 2
# No frame that the limits let in is larger.
_FULL = 1 << 20


def inspect(video: Video) -> VideoInfo:
    """See `VideoInfo`."""
    ((_, first),) = video.frames([0], _FULL)
    seconds = video.at_s(len(video.ticks) - 1)
    return VideoInfo(
        video.container,
        video.codec,
        first.shape[1],
        first.shape[0],
        video.rotation(),
        video.duration_s,
        len(video.ticks),
        (len(video.ticks) - 1) / seconds if seconds else 0.0,
        _is_uneven(video.ticks),
    )


def _is_uneven(ticks: Sequence[int]) -> bool:
    gaps = [after - before for before, after in pairwise(ticks)]
    if not gaps:
        return False
    return max(gaps) - min(gaps) > max(_EVEN_TICKS, _EVEN_SHARE * sorted(gaps)[len(gaps) // 2])
