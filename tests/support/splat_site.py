"""A store's files and a splat replica of them in this process, and rasterisers that wait for a test's word."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deployments.messages import Call
from deployments.rendering.camera import Camera, orbit
from deployments.rendering.messages import (
    RasterOptions,
    Rendered,
    RenderRequest,
    SceneRef,
    ViewFiles,
)
from deployments.scenes.blobs import Blobs, blobs_of
from deployments.splat import scene_file
from deployments.splat.cpu import CpuRasteriser, CpuScene
from deployments.splat.gaussians import Gaussians
from deployments.splat.replica import SplatReplica
from serve.config.scene_models import SceneStoreModel, SplatModel

CALL = Call("test", 60.0)
UP = (0.0, -1.0, 0.0)


class Site:
    """A store's files, and a renderer of them.

    Args:
        blobs: where the files lie, when not in the folder.
    """

    def __init__(self, folder: Path, blobs: str | None = None, **options: Any) -> None:
        self.store = SceneStoreModel(kind="scene_store", path=str(folder), blobs=blobs)
        self.blobs: Blobs = blobs_of(self.store)
        self.config = SplatModel(kind="splat", scenes="scenes", **options)
        self.replica = SplatReplica("splat", self.config, self.store)

    def put(self, gaussians: Gaussians) -> SceneRef:
        data = scene_file.write(gaussians)
        motion_s = gaussians.motion.period_s if gaussians.motion else 0.0
        return SceneRef("gaussians", self.blobs.write(data), len(data), motion_s)


def camera(azimuth_deg: float = 20.0, width: int = 96, height: int = 64) -> Camera:
    return orbit((0, 0, 0), 4.0, azimuth_deg, 15.0, UP, 50.0, width, height)


def raw(scene: SceneRef, *cameras: Camera, **options: Any) -> RenderRequest:
    return RenderRequest(scene, cameras, ("rgb", "depth", "alpha"), "raw", **options)


def alone(gaussians: Gaussians, view: Camera, options: RasterOptions | None = None, time_s: float = 0.0) -> Rendered:
    rasteriser = CpuRasteriser()
    return rasteriser.render(rasteriser.load(gaussians), [view], options or RasterOptions(), time_s)[0]


def files_of(view: ViewFiles | Exception) -> dict[Any, Any]:
    assert isinstance(view, ViewFiles), view
    return dict(view.files)


def assert_same(view: ViewFiles | Exception, rendered: Rendered) -> None:
    files = files_of(view)
    assert files["rgb"].shape == rendered.rgb.shape
    assert np.abs(files["rgb"] - np.clip(rendered.rgb, 0, 1) * 255).max() <= 0.501
    assert np.abs(files["alpha"] - rendered.alpha * 255).max() <= 0.501
    assert np.array_equal(files["depth"], rendered.depth)


class Slow(CpuRasteriser):
    """Waits before it draws and counts what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.loads = 0
        self.batches: list[list[Camera]] = []

    def load(self, gaussians: Gaussians) -> CpuScene:
        self.loads += 1
        return super().load(gaussians)

    def render(
        self, scene: CpuScene, cameras: Sequence[Camera], options: RasterOptions, time_s: float = 0.0
    ) -> list[Rendered]:
        self.batches.append(list(cameras))
        assert self.go.wait(30)
        return super().render(scene, cameras, options, time_s)


class OnGpu(Slow):
    """Says that it is a GPU, which draws views together."""

    def __init__(self) -> None:
        super().__init__()
        self.device = "cuda"


async def until(true: Any) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 (what is waited for happens in a thread)
            await asyncio.sleep(0.005)
