"""The deployment of VideoMAE and TimeSformer: classes and features of videos, and actions in long ones.

torch and the decoders are imported when a replica starts, not with this module: whoever only deploys the model needs
none.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from deployments import heap
from deployments.base import CpuPool, Pipeline
from deployments.gpu_memory import GpuMemory
from deployments.live import Rebatched, batch_limits
from deployments.messages import Call, Float32, ModelInfo
from deployments.replica import ReplicaMetrics
from deployments.video_classifier.actions import ActionRule, detect, window_and_stride, window_scores
from deployments.video_classifier.messages import (
    ClassifiedClip,
    ClassifiedClips,
    ClassifyClips,
    ClipFeatures,
    ClipLabel,
    ClipVectors,
    DetectActions,
    DetectedActions,
)
from serve.config.models import VideoClassifierModel
from serve.errors import ArgusError, ConfigError, ModelFailed
from serve.media.video import VideoLimits

if TYPE_CHECKING:
    from deployments.video_classifier.adapter import Clip, ClipOutput, ShapedClip
    from deployments.video_classifier.clips import Part

T = TypeVar("T")


class VideoClassifierReplica(Rebatched):
    """A replica of a video classifier.

    Args:
        max_bytes: of one video file.

    Raises:
        ConfigError: the checkpoint is no such classifier, or has no class that is named as background.
    """

    def __init__(self, name: str, config: VideoClassifierModel, max_bytes: int) -> None:
        from deployments.video.decode import open_video
        from deployments.video_classifier import clips
        from deployments.video_classifier.adapter import ShapedClip, VideoClassifierAdapter

        started = time.monotonic()
        self._config = config
        self._adapter = VideoClassifierAdapter(config)
        self._labels = self._adapter.labels
        if unknown := set(config.background) - set(self._labels):
            raise ConfigError(f"models.{name}.background: {config.checkpoint} has no class {min(unknown)!r}.")
        self._open, self._clips, self._clip = open_video, clips, ShapedClip
        self._shaping = clips.Shaping(self._adapter.frame_count, self._adapter.shape)
        self._limits = VideoLimits(
            max_bytes=max_bytes,
            max_duration_s=config.max_duration_s,
            max_frames=config.max_frames,
            # A video is decoded as fast as the model takes its clips; the request's deadline bounds both.
            decode_s=math.inf,
        )
        metrics = ReplicaMetrics(name)
        self._gpu = GpuMemory(name, config.gpu_memory_gb)
        batching, workers = config.batching, config.placement.preprocess_workers
        self._pipeline: Pipeline[Clip, ShapedClip, ClipOutput, ClipOutput] = Pipeline(
            self._adapter,
            batch_limits(batching),
            workers=workers,
            observer=metrics,
            preprocess_took=metrics.preprocess_took,
        )
        self._max_items = batching.max_items
        self._decoders = CpuPool(workers)
        self._info: ModelInfo | None = None
        self._started = started
        self._ready = asyncio.Lock()

    async def info(self) -> ModelInfo:
        """Features' length, input size, device, load time; warms the model up on the first call."""
        async with self._ready:
            if self._info is None:
                await self._pipeline.warm_up((1, self._max_items))
                heap.settle()
                adapter = self._adapter
                load_s = time.monotonic() - self._started
                self._info = ModelInfo(adapter.device, load_s, adapter.dimension, adapter.image_size)
        return self._info

    async def check_health(self) -> None:
        """Called by Ray Serve; raises when the replica must be replaced. The first check is the warm-up."""
        await self.info()
        await self._pipeline.check(timeout_s=10.0)
        await self._gpu.report()

    async def classify_clips(self, request: ClassifyClips, call: Call) -> ClassifiedClips:
        """See `ClassifyClips`; what is wrong with one video stands in its place."""
        outputs = await self._outputs(request, call)
        answers = tuple(
            output if isinstance(output, Exception) else self._top(output.probabilities, request.top_k)
            for output in outputs
        )
        return ClassifiedClips(answers, self._pipeline.standing_wait_s)

    async def clip_features(self, request: ClipFeatures, call: Call) -> ClipVectors:
        """See `ClipFeatures`; what is wrong with one video stands in its place."""
        outputs = await self._outputs(request, call)
        vectors = tuple(
            output if isinstance(output, Exception) else _scaled(output.features, request.normalize)
            for output in outputs
        )
        return ClipVectors(vectors, self._pipeline.standing_wait_s)

    async def detect_actions(self, request: DetectActions, call: Call) -> DetectedActions:
        """See `DetectActions`. The next clips are decoded while the model looks at these.

        Raises:
            InvalidRequest: `outside_video`, `too_many_windows`; see `window_and_stride`.
            ArgusError: see `deployments.video.decode.open_video` and `Pipeline.run`.
        """
        config, deadline = self._config, time.monotonic() + call.timeout_s
        sliding = self._clips.Sliding(
            self._clips.Part(request.start_s, request.end_s),
            *window_and_stride(config, request.window_s, request.stride_s),
            config.max_windows,
        )
        left = _Left()
        with left:
            opened = self._open(request.video, self._limits, deadline=deadline, clock=left.clock)
            plan, clips = await self._decoders.run(
                self._clips.read_windows, opened, sliding, self._shaping, self._limits.frame_side
            )
            rows: list[Float32] = []
            async with aclosing(self._ahead(clips)) as batches:
                async for batch in batches:
                    results = await self._pipeline.run_all([self._clip(frames) for frames in batch], deadline)
                    rows += [_sound(result).probabilities for result in results]
        rule = ActionRule(request.enter, request.leave, request.merge_gap_s, request.min_action_s)
        seen = window_scores(plan.spans, np.stack(rows), self._labels, request.leave, frozenset(config.background))
        return DetectedActions(tuple(detect(seen, rule)), plan.duration_s, seen, self._pipeline.standing_wait_s)

    async def _outputs(self, request: ClassifyClips | ClipFeatures, call: Call) -> Sequence[ClipOutput | Exception]:
        deadline = time.monotonic() + call.timeout_s
        part = self._clips.Part(request.start_s, request.end_s)
        left = _Left()
        with left:
            return await asyncio.gather(*(self._output(video, part, deadline, left) for video in request.videos))

    async def _output(self, video: bytes, part: Part, deadline: float, left: _Left) -> ClipOutput | Exception:
        opened = self._open(video, self._limits, deadline=deadline, clock=left.clock)
        try:
            frames = await self._decoders.run(
                self._clips.read_clip, opened, part, self._shaping, self._limits.frame_side
            )
            return await self._pipeline.run(self._clip(frames), deadline)
        except ArgusError as error:
            return error

    async def _ahead(self, items: Iterator[T]) -> AsyncGenerator[list[T], None]:
        """The items in batches of the model's size, the next one made in the pool while this one is used."""
        size = self._max_items

        def take() -> list[T]:
            return list(islice(items, size))

        coming = asyncio.ensure_future(self._decoders.run(take))
        try:
            while batch := await coming:
                coming = asyncio.ensure_future(self._decoders.run(take))
                yield batch
        finally:
            coming.cancel()

    def _top(self, probabilities: Float32, most: int) -> ClassifiedClip:
        best = np.argsort(-probabilities, kind="stable")[:most]
        return ClassifiedClip(tuple(ClipLabel(self._labels[place], float(probabilities[place])) for place in best))


class _Left:
    """Stops a decoder whose caller has left: a thread cannot be cancelled, but its clock can pass every deadline."""

    def __init__(self) -> None:
        self._left = threading.Event()

    def clock(self) -> float:
        """`time.monotonic`, infinity once the caller has left."""
        return math.inf if self._left.is_set() else time.monotonic()

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None:
        self._left.set()


def _sound(output: ClipOutput | Exception) -> ClipOutput:
    """The output; one window that fails leaves a hole that no answer could hide, so it fails the request.

    Raises:
        ArgusError: of the window.
    """
    if isinstance(output, ArgusError):
        raise output
    if isinstance(output, Exception):
        raise ModelFailed(str(output)) from output
    return output


def _scaled(vector: Float32, normalize: bool) -> Float32:
    if not normalize:
        return vector
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)
