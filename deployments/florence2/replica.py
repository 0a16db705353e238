"""The Florence-2 deployment: every task about every image, batched over tasks, callers and sizes.

torch is imported when a replica starts, not with this module: whoever only deploys the model needs none.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from deployments import heap
from deployments.base import UNREADABLE, CpuPool, Pipeline
from deployments.florence2.items import Picture, Prepared, Question, Watch, Written
from deployments.florence2.messages import Answer, SeenImage, VisionRequest, VisionResult, VisionTask
from deployments.florence2.tasks import TASKS
from deployments.gpu_memory import GpuMemory
from deployments.live import Rebatched, batch_limits
from deployments.messages import Call, EncodedImage, ModelInfo, RawImage
from deployments.replica import ReplicaMetrics
from serve import tracing
from serve.config.models import Florence2Model
from serve.errors import ArgusError, DeadlineExceeded, InvalidMedia, ModelFailed
from serve.media.image import ImageLimits

# A model that wrote a token within this time, in seconds, is well; a long answer is no hang.
_WRITING_S = 5.0


class Florence2Replica(Rebatched):
    """A replica of Florence-2."""

    def __init__(self, name: str, config: Florence2Model, limits: ImageLimits) -> None:
        from deployments.florence2.adapter import Florence2Adapter
        from deployments.florence2.answers import AnswerReader
        from deployments.florence2.render import annotate

        self._started = time.monotonic()
        self._adapter = Florence2Adapter(config, limits)
        self._reader = AnswerReader(self._adapter.processor)
        self._annotate = annotate
        self._metrics = ReplicaMetrics(name)
        self._gpu = GpuMemory(name, config.gpu_memory_gb)
        batching = config.batching
        self._pipeline: Pipeline[Question, Prepared, Written, Written] = Pipeline(
            self._adapter,
            batch_limits(batching),
            workers=1,
            observer=self._metrics,
        )
        # Beside the pipeline's own, which only writes prompts: an image is decoded once for all its tasks.
        self._pool = CpuPool(config.placement.preprocess_workers)
        self._max_items = batching.max_items
        self._info: ModelInfo | None = None
        self._ready = asyncio.Lock()

    async def info(self) -> ModelInfo:
        """Device, input size, positions, weights, load time; warms the model up on the first call."""
        async with self._ready:
            if self._info is None:
                await self._pipeline.warm_up((1, self._max_items))
                heap.settle()
                self._info = ModelInfo(
                    self._adapter.device,
                    time.monotonic() - self._started,
                    image_size=self._adapter.image_size,
                    engine="transformers",
                    context_tokens=self._adapter.positions,
                    weights_bytes=self._adapter.weights_bytes,
                )
        return self._info

    async def check_health(self) -> None:
        """Called by Ray Serve; raises when the replica must be replaced. The first check is the warm-up."""
        await self.info()
        if time.monotonic() - self._adapter.last_step > _WRITING_S:
            await self._pipeline.check(timeout_s=10.0)
        await self._gpu.report()

    async def vision(self, request: VisionRequest, call: Call) -> VisionResult:
        """See `VisionRequest`. An error stands in the place of the image, or of the task about it, that met it."""
        watch = Watch(time.monotonic() + call.timeout_s)
        try:
            images = await asyncio.gather(*(self._image(image, request, watch) for image in request.images))
        finally:
            watch.given_up = True
        return VisionResult(tuple(images), self._pipeline.standing_wait_s)

    async def _image(
        self, image: EncodedImage | RawImage, request: VisionRequest, watch: Watch
    ) -> SeenImage | ArgusError:
        try:
            with tracing.span("preprocess"):
                picture = await self._pool.run(self._open, image, watch, request.render)
            answers = await asyncio.gather(*(self._kept(picture, task, request, watch) for task in request.tasks))
        except ArgusError as error:
            return error
        return SeenImage(*picture.size, tuple(answers))

    def _open(self, image: EncodedImage | RawImage, watch: Watch, keep: bool) -> Picture:
        started = time.monotonic()
        if started >= watch.deadline:
            raise DeadlineExceeded("The deadline passed before preprocessing began.")
        try:
            picture = self._adapter.open(image, keep=keep)
        except ArgusError:
            raise
        except UNREADABLE as error:
            # It passed validation and still broke the decoder or the resize: it is the image that is bad.
            raise InvalidMedia(f"This image cannot be processed: {type(error).__name__}: {error}") from error
        except Exception as error:
            raise ModelFailed(f"The image could not be prepared: {type(error).__name__}: {error}") from error
        self._metrics.preprocess_took(time.monotonic() - started)
        return picture

    async def _kept(
        self, picture: Picture, task: VisionTask, request: VisionRequest, watch: Watch
    ) -> Answer | ArgusError:
        try:
            return await self._answer(picture, task, request, watch)
        except ArgusError as error:
            return error

    async def _answer(self, picture: Picture, task: VisionTask, request: VisionRequest, watch: Watch) -> Answer:
        kind = TASKS[task.name]
        question = Question(picture, kind, task.text, task.region, request.beams, request.max_new_tokens, watch)
        written = await self._pipeline.run(question, watch.deadline)
        try:
            answer = await self._pool.run(self._reader.read, kind, task.text, written, picture.size)
            if picture.image is not None:
                drawn = await self._pool.run(self._annotate, picture.image, picture.size, answer, task.region)
                answer = replace(answer, annotated=drawn)
        except ArgusError:
            raise
        except Exception as error:
            raise ModelFailed(f"The model's answer cannot be read: {type(error).__name__}: {error}") from error
        return answer
