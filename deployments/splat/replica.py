"""The splat deployment: pictures, films and coverage of scenes of Gaussians, batched over callers.

The rasteriser is imported when a replica starts, not with this module: whoever only deploys the model needs none.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from deployments import heap
from deployments.base import CpuPool, Pipeline
from deployments.batching import BatchLimits
from deployments.gpu import cap_allocator
from deployments.gpu_memory import GpuMemory
from deployments.messages import Call, ModelInfo
from deployments.rendering.camera import Camera
from deployments.rendering.checks import check_all, check_count, check_options
from deployments.rendering.deadlines import within
from deployments.rendering.encode import check_outputs, check_size, encode_view
from deployments.rendering.messages import (
    CoverRequest,
    CoverResult,
    FilmRequest,
    FilmSegment,
    Float32,
    Mask,
    RasterOptions,
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
from deployments.splat import scene_file
from deployments.splat.gaussians import Gaussians
from serve.config.scene_models import SceneStoreModel, SplatModel
from serve.errors import ArgusError, InvalidMedia, InvalidRequest, ModelFailed, Unavailable

if TYPE_CHECKING:
    from deployments.splat.adapter import View, Work
    from deployments.splat.rasteriser import Loaded

# Of the largest views, how many make a batch, and how many may be drawn and wait for their encoder.
_LARGEST_AT_ONCE: Final = 4
# Scenes read from the store at once, or looked at through masks; apart from the encoders, which neither shall hold up.
_READERS: Final = 2


class SplatReplica:
    """A replica of a renderer of Gaussians.

    Raises:
        Unavailable: gsplat was asked for and there is no GPU.
    """

    def __init__(self, name: str, config: SplatModel, store: SceneStoreModel) -> None:
        from deployments.splat import adapter
        from deployments.splat.rasteriser import make_rasteriser

        self._started = time.monotonic()
        if config.gpu_memory_gb:
            cap_allocator(config.gpu_memory_gb)
        backend = "cpu" if config.rasteriser == "auto" and not config.gpu_memory_gb else config.rasteriser
        rasteriser = make_rasteriser(backend, config.placement.threads)
        self._device = rasteriser.device
        self._config = config
        self._view, self._arrival = adapter.View, adapter.Arrival
        batching = config.batching
        self._metrics = SceneMetrics(name)
        self._gpu = GpuMemory(name, config.gpu_memory_gb)
        # A CPU draws one view after the other: in a batch the first would only wait for the last.
        self._at_once = batching.max_items if self._device == "cuda" else 1
        max_cost = batching.max_cost or _LARGEST_AT_ONCE * config.max_pixels
        self._backlog = adapter.Backlog(_LARGEST_AT_ONCE * config.max_pixels)
        self._turns = Turns(ReplicaMetrics(name), batching.max_items)
        self._pipeline: Pipeline[Work, Work, Any, Any] = Pipeline(
            adapter.SplatAdapter(rasteriser, config.max_pixels, max_cost, self._backlog),
            BatchLimits(self._at_once, max_cost, batching.max_wait_ms / 1e3, batching.max_queue),
            workers=1,
            observer=self._turns,
        )
        self._encoders = CpuPool(config.placement.preprocess_workers)
        self._films = asyncio.Semaphore(config.placement.preprocess_workers)
        self._covering = asyncio.Semaphore(1)
        self._blobs = blobs_of(store)
        self._readers = CpuPool(_READERS)
        self._scenes: SceneCache[Loaded] = SceneCache(
            scene_bytes(config, self._device == "cuda"), self._load, self._metrics
        )
        self._info: ModelInfo | None = None
        self._ready = asyncio.Lock()

    async def info(self) -> ModelInfo:
        """Device, engine (`cpu` or `gsplat`), load time; compiles what there is to compile on the first call."""
        async with self._ready:
            if self._info is None:
                await self._pipeline.warm_up(sorted({1, self._at_once}))
                heap.settle()
                engine = "gsplat" if self._device == "cuda" else "cpu"
                self._info = ModelInfo(self._device, time.monotonic() - self._started, engine=engine)
        return self._info

    async def check_health(self) -> None:
        """Called by Ray Serve; raises when the replica must be replaced. The first check is the warm-up."""
        await self.info()
        await self._pipeline.check(timeout_s=10.0)
        await self._gpu.report()

    async def render(self, request: RenderRequest, call: Call) -> RenderResult:
        """See `RenderRequest`; what is wrong with one view stands in its place.

        Raises:
            InvalidRequest: `too_many_inputs`, `invalid_field`, `wrong_scene_kind`.
            PayloadTooLarge: `scene_too_large`.
            NotFound: `scene_gone`.
            Unavailable: `scene_damaged`, `store_io`, `out_of_memory`.
            DeadlineExceeded: it passed before the scene was loaded.
        """
        arrived = time.monotonic()
        deadline = arrived + call.timeout_s
        check_count(request.cameras, self._config.max_views)
        check_options(request.options)
        check_outputs(request.outputs, request.encoding)
        async with self._scene(request.scene, deadline) as scene:
            # As many as make two batches, so that one caller's many views do not keep all others waiting.
            turns = asyncio.Semaphore(2 * self._at_once)
            views = [
                self._placed(request.scene, scene, camera, request.options, request.time_s)
                for camera in request.cameras
            ]
            drawn = await asyncio.gather(*(self._kept(view, request, turns, deadline) for view in views))
        return RenderResult(tuple(drawn), self._wait_s, time.monotonic() - arrived)

    async def film(self, request: FilmRequest, call: Call) -> FilmSegment:
        """See `FilmRequest`.

        Raises:
            InvalidRequest: see `render`, and `deployments.rendering.shoot.check_film`.
            ArgusError: the scene cannot be had, a frame cannot be drawn, or the encoder failed.
        """
        from deployments.rendering.shoot import check_film, shoot

        deadline = time.monotonic() + call.timeout_s
        check_all(request.cameras, self._config.max_views, self._config.max_pixels)
        check_options(request.options)
        check_film(request)
        times_s = request.times_s or (0.0,) * len(request.cameras)

        async def draw(scene: Loaded, number: int) -> Float32:
            camera, time_s = request.cameras[number], times_s[number]
            view = self._placed(request.scene, scene, camera, request.options, time_s)
            rendered: Rendered = await self._pipeline.run(view, deadline)
            return rendered.rgb

        async with (
            within(deadline, "the film was made"),
            self._films,
            self._scene(request.scene, deadline) as scene,
        ):
            data = await shoot(request, partial(draw, scene), self._encoders, 2 * self._at_once)
        return FilmSegment(data, self._wait_s)

    async def cover(self, request: CoverRequest, call: Call) -> CoverResult:
        """See `CoverRequest`. Worked out on the CPU, one request at a time, beside what is drawn.

        Raises:
            InvalidRequest: see `render`; `invalid_field`: the masks do not fit the cameras.
            ArgusError: the scene cannot be had.
        """
        deadline = time.monotonic() + call.timeout_s
        check_all(request.cameras, self._config.max_views, self._config.max_pixels)
        if [mask.shape for mask in request.masks] != [(camera.height, camera.width) for camera in request.cameras]:
            raise InvalidRequest("There is one mask a camera, of its size.", code="invalid_field", param="masks")
        async with (
            within(deadline, "all masks were looked at"),
            self._covering,
            self._scene(request.scene, deadline) as scene,
        ):
            # Coverage is worked out on the CPU, where a scene of the GPU's memory is not.
            known = scene if self._device == "cpu" else await self._readers.run(self._read, request.scene.digest)
            sums: tuple[Float32, Float32] | None = None
            for camera, mask in zip(request.cameras, request.masks, strict=True):
                sums = await self._readers.run(_add_weights, sums, known, camera, mask, request)
        assert sums is not None, "there is at least one camera"
        return CoverResult(*sums, self._wait_s)

    @property
    def _wait_s(self) -> float:
        return self._pipeline.standing_wait_s if self._at_once > 1 else self._turns.standing_wait_s

    def _placed(self, ref: SceneRef, scene: Loaded, camera: Camera, options: RasterOptions, time_s: float) -> View:
        # Of what does not move, all moments are one.
        return self._view(ref.digest, scene, camera, options, time_s if ref.motion_s else 0.0)

    async def _kept(
        self, view: View, request: RenderRequest, turns: asyncio.Semaphore, deadline: float
    ) -> ViewFiles | ArgusError:
        pixels = view.camera.width * view.camera.height
        try:
            check_size(view.camera.width, view.camera.height, request.encoding)
            async with turns:
                rendered: Rendered = await self._pipeline.run(view, deadline)
            with self._backlog.holding(pixels):
                async with within(deadline, "the picture was encoded"):
                    return await self._encoders.run(self._encode, rendered, request)
        except ArgusError as error:
            return error

    @asynccontextmanager
    async def _scene(self, scene: SceneRef, deadline: float) -> AsyncIterator[Loaded]:
        """The scene, loaded, for the time of the block."""
        if scene.kind != "gaussians":
            raise InvalidRequest(
                f"This model draws Gaussians; the scene is of kind {scene.kind}.",
                code="wrong_scene_kind",
                param="scene",
            )
        async with AsyncExitStack() as stack:
            async with within(deadline, "the scene was loaded"):
                loaded = await stack.enter_async_context(self._scenes.use(scene))
            yield loaded

    def _encode(self, rendered: Rendered, request: RenderRequest) -> ViewFiles:
        started = time.monotonic()
        try:
            view = encode_view(rendered, request.outputs, request.encoding, request.quality)
        except Exception as error:
            raise ModelFailed(f"The picture cannot be encoded: {type(error).__name__}: {error}") from error
        self._metrics.encoded(time.monotonic() - started)
        return view

    async def _load(self, scene: SceneRef) -> Loaded:
        gaussians = await self._readers.run(self._read, scene.digest)
        loaded: Loaded = await self._pipeline.run(self._arrival(gaussians), math.inf)
        return loaded

    def _read(self, digest: str) -> Gaussians:
        try:
            return scene_file.read(self._blobs.read(digest))
        except InvalidMedia as error:
            # Not what the client sent is wrong, but what the store has.
            raise Unavailable(
                f"The stored scene cannot be read: {error.message}", code="scene_damaged", param="scene"
            ) from error


def _add_weights(
    sums: tuple[Float32, Float32] | None, scene: Any, camera: Camera, mask: Mask, request: CoverRequest
) -> tuple[Float32, Float32]:
    from deployments.splat.coverage import weights

    inside, total = weights(scene, [camera], mask[None], time_s=request.time_s, near=request.near)
    return (inside, total) if sums is None else (sums[0] + inside, sums[1] + total)
