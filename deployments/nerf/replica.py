"""The NeRF deployment: pictures and films of radiance fields; rays of several requests share a batch.

torch is imported when a replica starts, not with this module: whoever only deploys the model needs none.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from deployments import heap
from deployments.base import CpuPool, Pipeline
from deployments.batching import BatchLimits
from deployments.gpu_memory import GpuMemory
from deployments.messages import Call, ModelInfo
from deployments.rendering.camera import Camera
from deployments.rendering.checks import check_all, check_camera, check_count, check_options
from deployments.rendering.deadlines import within
from deployments.rendering.encode import check_outputs, check_size, encode_view
from deployments.rendering.messages import (
    FilmRequest,
    FilmSegment,
    Float32,
    Rendered,
    RenderRequest,
    RenderResult,
    SceneRef,
    ViewFiles,
)
from deployments.rendering.metrics import SceneMetrics
from deployments.rendering.scene_cache import SceneCache, scene_bytes
from deployments.rendering.turns import Turns
from deployments.replica import ReplicaMetrics
from deployments.scenes.blobs import blobs_of
from serve.config.scene_models import NerfModel, SceneStoreModel
from serve.errors import ArgusError, InvalidMedia, InvalidRequest, ModelFailed, Unavailable

if TYPE_CHECKING:
    from deployments.nerf.adapter import Arrival, Chunk, Prepared
    from deployments.nerf.field import RadianceField

# Parts of a batch that a view is cut into: rays of so many requests share one.
_PARTS: Final = 4
# Chunks of a view that wait or are drawn, and views of a request: enough that the next batch is there when one ends.
_AHEAD: Final = 2 * _PARTS
_VIEWS_AT_ONCE: Final = 2
_READERS: Final = 2


class NerfReplica:
    """A replica of a renderer of radiance fields."""

    def __init__(self, name: str, config: NerfModel, store: SceneStoreModel) -> None:
        from deployments.nerf import adapter, checkpoint, render

        self._started = time.monotonic()
        self._config = config
        self._made, self._checkpoint, self._render = adapter, checkpoint, render
        self._adapter = adapter.NerfAdapter(config)
        metrics, batching = ReplicaMetrics(name), config.batching
        # A view is several passes, and views take turns: that its chunks wait for more than one is no overload.
        self._turns = Turns(metrics, batching.max_items)
        self._pipeline: Pipeline[Chunk | Arrival, Prepared | Arrival, Any, Any] = Pipeline(
            self._adapter,
            # A request is many items; Ray Serve bounds the requests by the same figure.
            BatchLimits(
                batching.max_items,
                config.rays,
                batching.max_wait_ms / 1e3,
                batching.max_queue * _AHEAD * _VIEWS_AT_ONCE,
            ),
            workers=1,
            observer=self._turns,
            preprocess_took=metrics.preprocess_took,
        )
        self._pool = CpuPool(config.placement.preprocess_workers)
        self._films = asyncio.Semaphore(config.placement.preprocess_workers)
        self._blobs = blobs_of(store)
        self._readers = CpuPool(_READERS)
        self._metrics = SceneMetrics(name)
        self._gpu = GpuMemory(name, config.gpu_memory_gb)
        self._fields: SceneCache[RadianceField] = SceneCache(
            scene_bytes(config, self._adapter.device == "cuda"), self._load, self._metrics
        )
        self._info: ModelInfo | None = None
        self._ready = asyncio.Lock()

    async def info(self) -> ModelInfo:
        """Device and load time; draws a probe on the first call."""
        async with self._ready:
            if self._info is None:
                await self._pipeline.warm_up((1,))
                heap.settle()
                self._info = ModelInfo(self._adapter.device, time.monotonic() - self._started, engine="torch")
        return self._info

    async def check_health(self) -> None:
        """Called by Ray Serve; raises when the replica must be replaced. The first check is the warm-up."""
        await self.info()
        await self._pipeline.check(timeout_s=10.0)
        await self._gpu.report()

    async def render(self, request: RenderRequest, call: Call) -> RenderResult:
        """See `RenderRequest`; of its options the background counts, unless the field was trained before one. What is
        wrong with one view stands in its place.

        Raises:
            InvalidRequest: `too_many_inputs`, `invalid_field`, `wrong_scene_kind`.
            ArgusError: the field cannot be had: see `SceneCache.use`, `Blobs.read`.
        """
        arrived = time.monotonic()
        deadline = arrived + call.timeout_s
        check_count(request.cameras, self._config.max_views)
        _check(request)
        check_outputs(request.outputs, request.encoding)
        async with self._field(request.scene, deadline) as field:
            turns = asyncio.Semaphore(_VIEWS_AT_ONCE)
            views = await asyncio.gather(
                *(self._view(field, camera, request, turns, deadline) for camera in request.cameras)
            )
        return RenderResult(tuple(views), self._turns.standing_wait_s, time.monotonic() - arrived)

    async def film(self, request: FilmRequest, call: Call) -> FilmSegment:
        """See `FilmRequest`.

        Raises:
            InvalidRequest: see `render`, and `deployments.rendering.shoot.check_film`.
            ArgusError: the field cannot be had, a frame cannot be drawn, or the encoder failed.
        """
        from deployments.rendering.shoot import check_film, shoot

        deadline = time.monotonic() + call.timeout_s
        check_all(request.cameras, self._config.max_views, self._config.max_pixels)
        _check(request)
        check_film(request)
        async with self._field(request.scene, deadline) as field, self._films:

            async def draw(number: int) -> Float32:
                camera = request.cameras[number]
                rendered, _ = await self._drawn(field, camera, request, deadline)
                return rendered.rgb

            data = await shoot(request, draw, self._pool, _VIEWS_AT_ONCE)
        return FilmSegment(data, self._turns.standing_wait_s)

    async def _view(
        self,
        field: RadianceField,
        camera: Camera,
        request: RenderRequest,
        turns: asyncio.Semaphore,
        deadline: float,
    ) -> ViewFiles | ArgusError:
        try:
            check_camera(camera, self._config.max_pixels)
            check_size(camera.width, camera.height, request.encoding)
            async with turns:
                rendered, samples = await self._drawn(field, camera, request, deadline)
                async with within(deadline, "the picture was encoded"):
                    return await self._pool.run(self._encode, rendered, request, samples)
        except ArgusError as error:
            return error

    async def _drawn(
        self, field: RadianceField, camera: Camera, request: RenderRequest | FilmRequest, deadline: float
    ) -> tuple[Rendered, int]:
        """The view, and how many samples its longest ray has; a chunk that comes too late ends it."""
        from deployments.rendering.shoot import in_order

        quality = self._render.quality(field, request.effort)
        grid = self._render.reduced(camera, quality.stride)
        digest, background = request.scene.digest, request.options.background
        size = max(self._config.rays // _PARTS, 1)
        chunks = [
            self._made.Chunk(
                digest,
                field,
                grid,
                start,
                min(start + size, grid.width * grid.height),
                quality.samples,
                background,
            )
            for start in range(0, grid.width * grid.height, size)
        ]
        async with aclosing(in_order(chunks, lambda chunk: self._pipeline.run(chunk, deadline), _AHEAD)) as drawn:
            parts = [part async for part in drawn]
        return await self._pool.run(self._render.assembled, parts, grid, camera), quality.samples

    @asynccontextmanager
    async def _field(self, scene: SceneRef, deadline: float) -> AsyncIterator[RadianceField]:
        """The field, loaded, for the time of the block."""
        if scene.kind != "nerf":
            raise InvalidRequest(
                f"This model draws radiance fields; the scene is of kind {scene.kind}.",
                code="wrong_scene_kind",
                param="scene",
            )
        async with AsyncExitStack() as stack:
            async with within(deadline, "the scene was loaded"):
                loaded = await stack.enter_async_context(self._fields.use(scene))
            yield loaded

    def _encode(self, rendered: Rendered, request: RenderRequest, samples: int) -> ViewFiles:
        started = time.monotonic()
        try:
            view = encode_view(rendered, request.outputs, request.encoding, request.quality, samples)
        except Exception as error:
            raise ModelFailed(f"The picture cannot be encoded: {type(error).__name__}: {error}") from error
        self._metrics.encoded(time.monotonic() - started)
        return view

    async def _load(self, scene: SceneRef) -> RadianceField:
        field = await self._readers.run(self._read, scene.digest)
        loaded: RadianceField = await self._pipeline.run(self._made.Arrival(field), math.inf)
        return loaded

    def _read(self, digest: str) -> RadianceField:
        try:
            return self._checkpoint.read(self._blobs.read(digest))
        except InvalidMedia as error:
            # Not what the client sent is wrong, but what the store has.
            raise Unavailable(
                f"The stored scene cannot be read: {error.message}", code="scene_damaged", param="scene"
            ) from error


def _check(request: RenderRequest | FilmRequest) -> None:
    check_options(request.options)
    if not 0 <= request.effort <= 1:
        raise InvalidRequest("The effort is from 0 to 1.", code="invalid_field", param="effort")
