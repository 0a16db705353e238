"""The splat deployment's class under load: who draws together, who waits, who is refused, and what stays loaded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deployments.messages import Call
from deployments.rendering.camera import Camera
from deployments.rendering.encode import encode_view
from deployments.rendering.messages import (
    RasterOptions,
    Rendered,
    ViewFiles,
)
from deployments.rendering.scene_cache import scene_bytes
from deployments.scenes.blobs import Blobs
from deployments.splat.cpu import CpuRasteriser, CpuScene
from serve.config.scene_models import SplatModel
from serve.errors import (
    DeadlineExceeded,
    ModelFailed,
    PayloadTooLarge,
    Unavailable,
)
from tests.support.gaussians import moving_scene, random_scene
from tests.support.splat_site import (
    CALL,
    OnGpu,
    Site,
    Slow,
    alone,
    assert_same,
    camera,
    raw,
    until,
)


async def test_callers_of_one_new_scene_load_it_once(slow: Slow, site: Site) -> None:
    slow.go.set()
    gaussians = random_scene(100)
    ref = site.put(gaussians)
    results = await asyncio.gather(*(site.replica.render(raw(ref, camera()), CALL) for _ in range(10)))
    assert slow.loads == 1
    for result in results:
        assert_same(result.views[0], alone(gaussians, camera()))


async def test_a_gpu_draws_views_of_one_scene_and_size_together(on_gpu: OnGpu, tmp_path: Path) -> None:
    site = Site(tmp_path, gpu_memory_gb=4, batching={"max_items": 4})
    scenes = [random_scene(100, seed=1), random_scene(100, seed=2)]
    refs = [site.put(gaussians) for gaussians in scenes]
    on_gpu.go.set()
    for ref in refs:
        await site.replica.render(raw(ref, camera()), CALL)
    on_gpu.go.clear()
    on_gpu.batches.clear()
    first = asyncio.create_task(site.replica.render(raw(refs[0], camera(width=8, height=8)), CALL))
    await until(lambda: on_gpu.batches)
    asked = [(number % 2, camera(30.0 * number, 32 + 8 * (number // 6), 32)) for number in range(12)]
    rest = [asyncio.create_task(site.replica.render(raw(refs[which], view), CALL)) for which, view in asked]
    await until(lambda: site.replica._pipeline.waiting == len(asked))
    on_gpu.go.set()
    await first
    for task, (which, view) in zip(rest, asked, strict=True):
        assert_same((await task).views[0], alone(scenes[which], view))
    # Two scenes, two sizes, three views of each.
    assert [len(batch) for batch in on_gpu.batches] == [1, 3, 3, 3, 3]
    assert all(len({view.width for view in batch}) == 1 for batch in on_gpu.batches)


async def test_a_gpu_draws_different_moments_and_options_apart(on_gpu: OnGpu, tmp_path: Path) -> None:
    site = Site(tmp_path, gpu_memory_gb=4)
    moving, still = moving_scene(60), random_scene(60)
    refs = site.put(moving), site.put(still)
    on_gpu.go.set()
    for ref in refs:
        await site.replica.render(raw(ref, camera()), CALL)
    on_gpu.go.clear()
    on_gpu.batches.clear()
    first = asyncio.create_task(site.replica.render(raw(refs[1], camera(width=8, height=8)), CALL))
    await until(lambda: on_gpu.batches)
    plain, thin = RasterOptions(), RasterOptions(antialiased=True)
    asked = [(0, 0.2, plain), (0, 0.9, plain), (0, 0.2, plain), (1, 0.2, plain), (1, 0.9, plain), (1, 0.2, thin)]
    rest = [
        asyncio.create_task(site.replica.render(raw(refs[which], camera(), time_s=time_s, options=options), CALL))
        for which, time_s, options in asked
    ]
    await until(lambda: site.replica._pipeline.waiting == len(asked))
    on_gpu.go.set()
    await first
    for task, (which, time_s, options) in zip(rest, asked, strict=True):
        assert_same((await task).views[0], alone((moving, still)[which], camera(), options, time_s))
    # What does not move is the same at all moments.
    assert sorted(len(batch) for batch in on_gpu.batches[1:]) == [1, 1, 2, 2]


async def test_one_request_does_not_fill_the_queue(slow: Slow, site: Site) -> None:
    """Another caller's view is drawn before the many of one request are through."""
    many, one = site.put(random_scene(50, seed=1)), site.put(random_scene(50, seed=2))
    slow.go.set()
    await site.replica.render(raw(one, camera()), CALL)
    slow.go.clear()
    slow.batches.clear()
    large = asyncio.create_task(site.replica.render(raw(many, *[camera()] * 30), CALL))
    await until(lambda: slow.batches)
    single = asyncio.create_task(site.replica.render(raw(one, camera(width=40)), CALL))
    await until(lambda: site.replica._pipeline.waiting == 2)
    slow.go.set()
    await asyncio.gather(single, large)
    assert 40 in [batch[0].width for batch in slow.batches[:4]]
    assert len(slow.batches) == 31


async def test_a_view_whose_deadline_passed_is_not_drawn(slow: Slow, site: Site) -> None:
    ref = site.put(random_scene(50))
    slow.go.set()
    await site.replica.render(raw(ref, camera()), CALL)
    slow.go.clear()
    slow.batches.clear()
    first = asyncio.create_task(site.replica.render(raw(ref, camera()), CALL))
    await until(lambda: slow.batches)
    late = await site.replica.render(raw(ref, camera(width=40)), Call("late", 0.05))
    assert isinstance(late.views[0], DeadlineExceeded)
    slow.go.set()
    await first
    await site.replica.render(raw(ref, camera(width=48)), CALL)
    assert [batch[0].width for batch in slow.batches] == [96, 48]


class Blocked:
    """An encoder that waits until it is let through."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, *given: Any) -> ViewFiles:
        assert self.go.wait(30)
        return encode_view(*given)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Blocked:
    blocked = Blocked()
    monkeypatch.setattr("deployments.splat.replica.encode_view", blocked)
    return blocked


async def test_drawing_waits_for_encoders_that_are_slower(slow: Slow, encoder: Blocked, tmp_path: Path) -> None:
    """What is drawn and not yet encoded is bounded, or a GPU would fill the memory while PNGs are written."""
    site = Site(tmp_path, max_pixels=96 * 64)
    ref = site.put(random_scene(20))
    slow.go.set()
    tasks = [asyncio.create_task(site.replica.render(raw(ref, camera()), CALL)) for _ in range(30)]
    await until(lambda: len(slow.batches) >= 5)
    await asyncio.sleep(0.2)
    assert len(slow.batches) <= 7
    encoder.go.set()
    assert all([isinstance((await task).views[0], ViewFiles) for task in tasks])
    assert len(slow.batches) == 30


async def test_a_deadline_that_passes_while_a_picture_waits_to_be_encoded(site: Site, encoder: Blocked) -> None:
    ref = site.put(random_scene(20))
    late = await site.replica.render(raw(ref, camera()), Call("late", 3.0))
    assert isinstance(late.views[0], DeadlineExceeded)
    encoder.go.set()
    assert isinstance((await site.replica.render(raw(ref, camera()), CALL)).views[0], ViewFiles)


async def test_a_picture_that_cannot_be_encoded_fails_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(rendered: Rendered, *given: Any) -> ViewFiles:
        if rendered.alpha.shape[1] == 40:
            raise OSError("broken data stream")
        return encode_view(rendered, *given)

    monkeypatch.setattr("deployments.splat.replica.encode_view", broken)
    cameras = (camera(), camera(width=40))
    good, bad = (await site.replica.render(raw(site.put(random_scene(20)), *cameras), CALL)).views
    assert isinstance(good, ViewFiles) and isinstance(bad, ModelFailed)


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


async def test_a_gpu_without_memory_says_so_and_goes_on(on_gpu: OnGpu, tmp_path: Path, monkeypatch: Any) -> None:
    site = Site(tmp_path, gpu_memory_gb=4)
    on_gpu.go.set()
    ref = site.put(random_scene(20))
    draw = on_gpu.render

    def short(scene: CpuScene, cameras: Sequence[Camera], *given: Any) -> list[Rendered]:
        if any(view.width == 40 for view in cameras):
            raise OutOfMemoryError("CUDA out of memory")
        return draw(scene, cameras, *given)

    monkeypatch.setattr(on_gpu, "render", short)
    small, large = (await site.replica.render(raw(ref, camera(), camera(width=40)), CALL)).views
    assert isinstance(small, ViewFiles)
    assert isinstance(large, Unavailable) and large.code == "out_of_memory"


async def test_a_deadline_that_passes_while_the_scene_is_loaded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ref, gate = site.put(random_scene(50)), threading.Event()
    read = Blobs.read

    def held(self: Blobs, digest: str) -> bytes:
        assert gate.wait(30)
        return read(self, digest)

    monkeypatch.setattr(Blobs, "read", held)
    with pytest.raises(DeadlineExceeded):
        await site.replica.render(raw(ref, camera()), Call("late", 0.05))
    gate.set()
    assert (await site.replica.render(raw(ref, camera()), CALL)).views


async def test_views_of_a_caller_that_left_are_not_drawn(slow: Slow, site: Site) -> None:
    ref = site.put(random_scene(50))
    leaving = asyncio.create_task(site.replica.render(raw(ref, *[camera()] * 10), CALL))
    await until(lambda: slow.batches)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    slow.go.set()
    await site.replica.render(raw(ref, camera(width=48)), CALL)
    assert [batch[0].width for batch in slow.batches] == [96, 48]


async def test_a_scene_that_is_drawn_stays_while_others_come_and_go(slow: Slow, tmp_path: Path) -> None:
    scenes = [random_scene(100, seed=seed) for seed in range(4)]
    most = sum(CpuRasteriser().load(gaussians).nbytes for gaussians in scenes[:2])
    site = Site(tmp_path, scene_memory_gb=most / 1e9)
    refs = [site.put(gaussians) for gaussians in scenes]
    tasks = [asyncio.create_task(site.replica.render(raw(ref, camera()), CALL)) for ref in refs]
    await until(lambda: slow.batches)
    assert site.replica._scenes.used <= most
    slow.go.set()
    for task, gaussians in zip(tasks, scenes, strict=True):
        assert_same((await task).views[0], alone(gaussians, camera()))
        assert site.replica._scenes.used <= most
    assert slow.loads == 4


async def test_a_scene_larger_than_the_memory_for_scenes_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path, scene_memory_gb=20_000 / 1e9)
    with pytest.raises(PayloadTooLarge) as refused:
        await site.replica.render(raw(site.put(random_scene(200)), camera()), CALL)
    assert (refused.value.code, refused.value.param) == ("scene_too_large", "scene")
    assert (await site.replica.render(raw(site.put(random_scene(10)), camera()), CALL)).views


def test_scenes_on_a_gpu_leave_room_to_draw() -> None:
    config = SplatModel(kind="splat", scenes="scenes", scene_memory_gb=8, gpu_memory_gb=4)
    assert scene_bytes(config, on_gpu=False) == 8_000_000_000
    assert scene_bytes(config, on_gpu=True) < 3_000_000_000


async def test_it_says_what_it_runs_on_and_is_healthy(site: Site) -> None:
    await site.replica.check_health()
    info = await site.replica.info()
    assert (info.device, info.engine) == ("cpu", "cpu")


async def test_the_smallest_limits_leave_it_healthy(tmp_path: Path) -> None:
    site = Site(tmp_path, max_pixels=64, batching={"max_cost": 64, "max_items": 1})
    await site.replica.check_health()
    gaussians = random_scene(500)
    view = camera(width=8, height=8)
    result = await site.replica.render(raw(site.put(gaussians), view), CALL)
    assert_same(result.views[0], alone(gaussians, view))


async def test_a_rasteriser_that_fails_makes_it_unhealthy(slow: Slow, site: Site, monkeypatch: Any) -> None:
    slow.go.set()
    await site.replica.check_health()

    def broken(*given: Any) -> list[Rendered]:
        raise RuntimeError("no device")

    monkeypatch.setattr(slow, "render", broken)
    with pytest.raises(Unavailable):
        await site.replica.check_health()
