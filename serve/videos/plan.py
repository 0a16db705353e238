"""Which chunks a longer video is watched in: a pure function of its length and its cuts."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.video_classifier.actions import window_count

# A border moves to a cut that is at most this share of a chunk away, so that no two borders can pass each other.
_REACH = 0.25


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a video, in seconds; `start_s` may lie before the end of the chunk before."""

    index: int
    start_s: float
    end_s: float

    @property
    def key(self) -> str:
        """Names it among the chunks of its request, in their order."""
        return f"{self.index:04d}:{self.start_s:.3f}-{self.end_s:.3f}"


def chunk_count(seconds: float, chunk_s: float) -> int:
    """How many chunks there are of so many seconds, wherever the cuts are."""
    return max(1, math.ceil(round(seconds / chunk_s, 6)))


def plan(
    start_s: float, end_s: float, chunk_s: float, overlap_s: float, cuts: Sequence[float] = ()
) -> tuple[Chunk, ...]:
    """The chunks that cover a part of a video.

    There are as few of equal length as are no longer than `chunk_s`. Each border between two of them moves to the
    nearest cut within a quarter of that length. Where there is none, a shot goes on across the border, and the later
    chunk begins `overlap_s` earlier (at most half that length), so that what happens there is whole in one of them.

    Args:
        cuts: when shots begin, in seconds, ascending.
    """
    count = chunk_count(end_s - start_s, chunk_s)
    length = (end_s - start_s) / count
    overlap_s = min(overlap_s, length / 2)  # no chunk begins before the one before it
    borders = [(start_s, True)]
    borders += [_border(start_s + number * length, _REACH * length, cuts) for number in range(1, count)]
    ends = [at for at, _ in borders[1:]] + [end_s]
    return tuple(
        Chunk(index, at if is_cut else max(start_s, at - overlap_s), end)
        for index, ((at, is_cut), end) in enumerate(zip(borders, ends, strict=True))
    )


def window_chunks(start_s: float, end_s: float, chunk_s: float, window_s: float, stride_s: float) -> tuple[Chunk, ...]:
    """The chunks of a part whose sliding windows together are those of the whole part, none longer or shorter.

    Each begins with the last window of the one before it: there, what was seen in them is put together
    (`deployments.video_classifier.actions.put_together`), so that it makes no difference where the borders are.
    """
    steps = window_count(start_s, end_s, window_s, stride_s) - 1
    count = max(1, min(chunk_count(end_s - start_s, chunk_s), steps))
    firsts = [steps * number // count for number in range(count)]
    starts = [start_s + first * stride_s for first in firsts]
    ends = [*(start + window_s for start in starts[1:]), end_s]
    return tuple(Chunk(index, *span) for index, span in enumerate(zip(starts, ends, strict=True)))


def _border(at: float, reach: float, cuts: Sequence[float]) -> tuple[float, bool]:
    """Where a border is, and whether that is a cut."""
    place = bisect_left(cuts, at)
    near = [cut for cut in cuts[max(0, place - 1) : place + 1] if abs(cut - at) <= reach]
    return (min(near, key=lambda cut: abs(cut - at)), True) if near else (at, False)
