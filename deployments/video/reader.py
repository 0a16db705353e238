"""The video reader's deployment: each request opens its video, reads what it asks for, and forgets it.

The decoders are imported when a replica starts, not with this module.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from deployments.base import STALL_S, CpuPool
from deployments.messages import Call, ModelInfo
from deployments.video.messages import (
    Clip,
    CutClips,
    FindScenes,
    InspectVideo,
    SampledFrame,
    SampleFrames,
    VideoInfo,
)
from serve.config.models import VideoReaderModel
from serve.errors import InvalidRequest, Unavailable
from serve.media.video import VideoLimits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deployments.video.decode import Video

T = TypeVar("T")


class _Asked(Protocol):
    @property
    def video(self) -> bytes: ...


class VideoReader:
    """Reads videos in a bounded pool of threads.

    Args:
        max_bytes: of one file, and of the clips of one answer.
    """

    def __init__(self, config: VideoReaderModel, max_bytes: int) -> None:
        started = time.monotonic()
        from deployments.video import clips, decode, facts, sampling, scenes

        self._open, self._inspect, self._sample = decode.open_video, facts.inspect, sampling.sample
        self._cuts, self._clips = scenes.find_cuts, clips.cut_clips
        self._pool = CpuPool(config.placement.preprocess_workers)
        self._limits = VideoLimits(
            max_bytes=max_bytes,
            max_duration_s=config.max_duration_s,
            max_frames=config.max_frames,
            decode_s=config.decode_s,
        )
        self._running = _Running()
        self._load_s = time.monotonic() - started

    async def info(self) -> ModelInfo:
        """Load time and device."""
        return ModelInfo("cpu", self._load_s)

    async def check_health(self) -> None:
        """Called by Ray Serve. A busy reader is healthy; one with a decoder that never returns is not.

        Raises:
            Unavailable: a decoder has hung.
        """
        if (longest := self._running.longest_s()) > self._limits.decode_s + STALL_S:
            raise Unavailable(f"A video has been decoded for {longest:.0f} s.")

    async def inspect(self, request: InspectVideo, call: Call) -> VideoInfo:
        """See `InspectVideo`; raises as `deployments.video.decode.open_video`, as all of these do."""
        return await self._read(request, call, self._inspect)

    async def sample(self, request: SampleFrames, call: Call) -> tuple[SampledFrame, ...]:
        """See `SampleFrames`.

        Raises:
            InvalidRequest: `outside_video`: the part begins after the video's end.
        """

        def read(video: Video) -> tuple[SampledFrame, ...]:
            _check_start(video, request.start_s)
            return self._sample(video, request)

        return await self._read(request, call, read)

    async def scenes(self, request: FindScenes, call: Call) -> tuple[float, ...]:
        """See `FindScenes`, and `sample` for errors."""

        def read(video: Video) -> tuple[float, ...]:
            _check_start(video, request.start_s)
            return self._cuts(video, request)

        return await self._read(request, call, read)

    async def clips(self, request: CutClips, call: Call) -> tuple[Clip, ...]:
        """See `CutClips`, and `sample` for errors."""

        def read(video: Video) -> tuple[Clip, ...]:
            for start, _ in request.spans:
                _check_start(video, start)
            return self._clips(video, request, self._limits.max_bytes)

        return await self._read(request, call, read)

    async def _read(self, request: _Asked, call: Call, what: Callable[[Video], T]) -> T:
        """Runs `what` over the open video in the pool, until its caller has left or its time is over."""
        deadline = time.monotonic() + call.timeout_s
        left = threading.Event()

        def clock() -> float:  # a thread cannot be cancelled, but its clock can be put past every deadline
            return math.inf if left.is_set() else time.monotonic()

        def job() -> T:
            with self._running.counted(), self._open(request.video, self._limits, deadline=deadline, clock=clock) as it:
                return what(it)

        try:
            return await self._pool.run(job)
        finally:
            left.set()


class _Running:
    """When each video that is being read was begun."""

    def __init__(self) -> None:
        self._begun: dict[object, float] = {}

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Around the reading of a video."""
        key = object()
        self._begun[key] = time.monotonic()
        try:
            yield
        finally:
            del self._begun[key]

    def longest_s(self) -> float:
        """Seconds that the oldest one has taken; 0 when there is none."""
        return max((time.monotonic() - begun for begun in list(self._begun.values())), default=0.0)


def _check_start(video: Video, start_s: float) -> None:
    if start_s >= max(video.duration_s, math.ulp(0.0)):
        raise InvalidRequest(
            f"The video lasts {video.duration_s:.3f} s; nothing begins at {start_s:g} s.",
            code="outside_video",
            param="start_s",
        )
