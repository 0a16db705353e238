"""The splat deployment's class in this process, with the rasteriser and the store's files: what it answers equals the
rasteriser alone, whoever else asks at the same time."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from deployments.messages import Call
from deployments.rendering.camera import Camera, look_at, orbit
from deployments.rendering.encode import encode_view
from deployments.rendering.film import join
from deployments.rendering.messages import (
    CoverRequest,
    FilmRequest,
    RasterOptions,
    Rendered,
    RenderRequest,
    RenderResult,
    SceneRef,
    ViewFiles,
)
from deployments.rendering.scene_cache import scene_bytes
from deployments.scenes.blobs import Blobs, blobs_of
from deployments.splat import formats, scene_file
from deployments.splat.coverage import weights
from deployments.splat.cpu import CpuRasteriser, CpuScene
from deployments.splat.gaussians import Gaussians
from deployments.splat.replica import SplatReplica
from serve.config.scene_models import SceneStoreModel, SplatModel
from serve.errors import (
    ArgusError,
    DeadlineExceeded,
    InvalidRequest,
    ModelFailed,
    NotFound,
    PayloadTooLarge,
    Unavailable,
)
from tests.support.gaussians import moving_scene, random_scene, real_file, sphere

CALL = Call("test", 60.0)
UP = (0.0, -1.0, 0.0)


class Site:
    """A store's files, and a renderer of them."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.store = SceneStoreModel(kind="scene_store", path=str(folder))
        self.blobs: Blobs = blobs_of(self.store)
        self.config = SplatModel(kind="splat", scenes="scenes", **options)
        self.replica = SplatReplica("splat", self.config, self.store)

    def put(self, gaussians: Gaussians) -> SceneRef:
        data = scene_file.write(gaussians)
        motion_s = gaussians.motion.period_s if gaussians.motion else 0.0
        return SceneRef("gaussians", self.blobs.write(data), len(data), motion_s)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


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


async def test_a_view_is_what_the_rasteriser_draws(site: Site) -> None:
    gaussians = random_scene(300)
    options = RasterOptions(background=(0.1, 0.5, 0.9), antialiased=True, sh_degree=1)
    result = await site.replica.render(raw(site.put(gaussians), camera(), options=options), CALL)
    assert_same(result.views[0], alone(gaussians, camera(), options))


async def test_views_of_many_scenes_sizes_and_moments_at_once_are_those_of_each_alone(site: Site) -> None:
    """Callers share the queue, the cache and the encoders; nobody gets another's picture."""
    scenes = [random_scene(150, seed=1), random_scene(200, 0, seed=2), moving_scene(100, seed=3)]
    refs = [site.put(gaussians) for gaussians in scenes]
    asked = [
        (which, camera(40.0 * number, 64 + 16 * (number % 3), 48), 0.3 * number)
        for number in range(8)
        for which in range(len(scenes))
    ]
    results = await asyncio.gather(
        *(site.replica.render(raw(refs[which], view, time_s=time_s), CALL) for which, view, time_s in asked)
    )
    for result, (which, view, time_s) in zip(results, asked, strict=True):
        assert_same(result.views[0], alone(scenes[which], view, time_s=time_s))


async def test_views_of_one_request_come_in_its_order(site: Site) -> None:
    gaussians = random_scene(100)
    cameras = [camera(30.0 * number, 32 + number, 40) for number in range(12)]
    result = await site.replica.render(raw(site.put(gaussians), *cameras), CALL)
    for view, own in zip(result.views, cameras, strict=True):
        assert_same(view, alone(gaussians, own))


async def test_files_are_pictures(site: Site) -> None:
    ref = site.put(sphere(rgb=(0.9, 0.1, 0.1)))
    for encoding in ("png", "jpeg", "webp"):
        result = await site.replica.render(RenderRequest(ref, (camera(),), encoding=encoding), CALL)
        image = Image.open(io.BytesIO(files_of(result.views[0])["rgb"]))
        assert (image.format, image.size) == (encoding.upper(), (96, 64))
        red, green, blue = image.convert("RGB").getpixel((48, 32))  # type: ignore[misc]
        assert red > 180 and green < 80 and blue < 80


def bad_cameras() -> dict[str, tuple[Camera, str]]:
    good = camera()
    mirrored, scaled, lost = (good.world_to_camera.copy() for _ in range(3))
    mirrored[0] *= -1
    scaled[:3, :3] *= 2
    lost[0, 3] = np.nan
    return {
        "not a number": (replace(good, world_to_camera=lost), "invalid_camera"),
        "mirrored": (replace(good, world_to_camera=mirrored), "invalid_camera"),
        "scaled": (replace(good, world_to_camera=scaled), "invalid_camera"),
        "infinite focal length": (replace(good, fx=float("inf")), "invalid_camera"),
        "no focal length": (replace(good, fy=0.0), "invalid_camera"),
        "principal point": (replace(good, cx=float("nan")), "invalid_camera"),
        "no pixels": (replace(good, width=0), "invalid_camera"),
        "too large": (replace(good, width=5000, height=5000), "too_many_pixels"),
    }


@pytest.mark.parametrize("name", bad_cameras())
async def test_one_bad_view_leaves_the_others_alone(site: Site, name: str) -> None:
    bad, code = bad_cameras()[name]
    gaussians = random_scene(100)
    result = await site.replica.render(raw(site.put(gaussians), camera(0), bad, camera(90)), CALL)
    assert isinstance(result.views[1], InvalidRequest) and result.views[1].code == code
    assert_same(result.views[0], alone(gaussians, camera(0)))
    assert_same(result.views[2], alone(gaussians, camera(90)))


async def test_a_side_that_a_format_cannot_hold_is_told_before_drawing(site: Site) -> None:
    ref = site.put(random_scene(10))
    cameras = (camera(width=16_384, height=2), camera())
    result = await site.replica.render(RenderRequest(ref, cameras, encoding="webp"), CALL)
    assert isinstance(result.views[0], InvalidRequest) and result.views[0].code == "invalid_field"
    assert isinstance(result.views[1], ViewFiles)


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"cameras": ()}, "invalid_field", "cameras"),
        ({"cameras": (camera(),) * 65}, "too_many_inputs", "cameras"),
        ({"outputs": ()}, "invalid_field", "outputs"),
        ({"encoding": "jpeg"}, "invalid_field", "encoding"),
        ({"options": RasterOptions(near=2.0, far=1.0)}, "invalid_field", "near"),
        ({"options": RasterOptions(near=float("nan"))}, "invalid_field", "near"),
        ({"options": RasterOptions(background=(0.0, float("inf"), 0.0))}, "invalid_field", "background"),
        ({"options": RasterOptions(radius_clip=float("nan"))}, "invalid_field", "radius_clip"),
        ({"scene": SceneRef("nerf", "0" * 64, 10)}, "wrong_scene_kind", "scene"),
    ],
)
async def test_requests_that_cannot_be_answered_are_refused_whole(
    site: Site, changes: dict[str, Any], code: str, param: str
) -> None:
    good = raw(site.put(random_scene(10)), camera())
    with pytest.raises(InvalidRequest) as refused:
        await site.replica.render(replace(good, **changes), CALL)
    assert (refused.value.code, refused.value.param) == (code, param)


async def test_a_scene_that_is_gone_damaged_or_no_scene_fails_alone(site: Site) -> None:
    good = random_scene(50)
    ref, damaged = site.put(good), site.put(random_scene(60))
    path = site.blobs.path(damaged.digest)
    assert path is not None
    path.write_bytes(path.read_bytes()[:-8] + b"overcast")
    wrong = SceneRef("gaussians", site.blobs.write(b"a shopping list"), 15)
    gone = SceneRef("gaussians", "0" * 64, 10)
    results = await asyncio.gather(
        *(site.replica.render(raw(one, camera()), CALL) for one in (ref, damaged, wrong, gone, ref)),
        return_exceptions=True,
    )
    for result in (results[0], results[4]):
        assert isinstance(result, RenderResult)
        assert_same(result.views[0], alone(good, camera()))
    errors = [result for result in results if isinstance(result, ArgusError)]
    assert [(type(error), error.code) for error in errors] == [
        (Unavailable, "scene_damaged"),
        (Unavailable, "scene_damaged"),
        (NotFound, "scene_gone"),
    ]
    # Healed: a failure is not remembered.
    path.write_bytes(scene_file.write(random_scene(60)))
    healed = await site.replica.render(raw(damaged, camera()), CALL)
    assert_same(healed.views[0], alone(random_scene(60), camera()))


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


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    rasteriser = Slow()
    monkeypatch.setattr("deployments.splat.rasteriser.make_rasteriser", lambda backend, threads: rasteriser)
    return rasteriser


class OnGpu(Slow):
    """Says that it is a GPU, which draws views together."""

    def __init__(self) -> None:
        super().__init__()
        self.device = "cuda"


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> OnGpu:
    rasteriser = OnGpu()
    monkeypatch.setattr("deployments.splat.rasteriser.make_rasteriser", lambda backend, threads: rasteriser)
    return rasteriser


async def until(true: Any) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 (what is waited for happens in a thread)
            await asyncio.sleep(0.005)


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
    late = await site.replica.render(raw(ref, camera()), Call("late", 0.3))
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


def shown(film: bytes) -> list[Any]:
    with av.open(io.BytesIO(film)) as file:
        return [
            (frame.pts * frame.time_base, frame.to_ndarray(format="rgb24").astype(int))
            for frame in file.decode(video=0)
        ]


async def test_a_film_shows_the_views_of_its_cameras_in_order(site: Site) -> None:
    gaussians = sphere(rgb=(0.9, 0.2, 0.1), count=800)
    ref = site.put(gaussians)
    eyes = [(-0.9 + 0.15 * number, 0.0, -5.0) for number in range(13)]
    cameras = tuple(look_at(eye, (eye[0], 0, 0), UP, 60, 96, 64) for eye in eyes)
    pieces = [
        await site.replica.film(FilmRequest(ref, cameras[first : first + 5], 25.0, quality=95), CALL)
        for first in range(0, 13, 5)
    ]
    film = shown(join([piece.data for piece in pieces]))
    assert [float(at) for at, _ in film] == [number / 25 for number in range(13)]
    for (_, pixels), view in zip(film, cameras, strict=True):
        drawn = np.clip(alone(gaussians, view).rgb, 0, 1) * 255
        assert np.abs(pixels - drawn).mean() < 4


async def test_a_film_of_a_moving_scene_shows_its_moments(site: Site) -> None:
    gaussians = moving_scene(60, period_s=2.0)
    times_s = (0.0, 0.5, 1.0, 1.5, 2.0)
    request = FilmRequest(site.put(gaussians), (camera(),) * 5, 10.0, times_s, quality=95)
    film = shown((await site.replica.film(request, CALL)).data)
    for (_, pixels), time_s in zip(film, times_s, strict=True):
        drawn = np.clip(alone(gaussians, camera(), time_s=time_s).rgb, 0, 1) * 255
        others = [np.clip(alone(gaussians, camera(), time_s=other).rgb, 0, 1) * 255 for other in times_s[:4]]
        errors = [np.abs(pixels - other).mean() for other in others]
        assert np.abs(pixels - drawn).mean() == min(errors)


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"cameras": ()}, "invalid_field", "cameras"),
        ({"cameras": (camera(),) * 65}, "too_many_inputs", "cameras"),
        ({"cameras": (camera(), camera(width=50))}, "invalid_field", "cameras"),
        ({"cameras": (camera(), replace(camera(), fx=0.0))}, "invalid_camera", "cameras[1]"),
        ({"cameras": (camera(width=5000, height=5000),)}, "too_many_pixels", "cameras[0]"),
        ({"times_s": (1.0,)}, "invalid_field", "times_s"),
        ({"fps": 0.0}, "invalid_field", "fps"),
        ({"options": RasterOptions(near=2.0, far=1.0)}, "invalid_field", "near"),
    ],
)
async def test_films_that_cannot_be_made_are_refused(
    site: Site, changes: dict[str, Any], code: str, param: str
) -> None:
    good = FilmRequest(site.put(random_scene(10)), (camera(),) * 2, 25.0)
    with pytest.raises(InvalidRequest) as refused:
        await site.replica.film(replace(good, **changes), CALL)
    assert (refused.value.code, refused.value.param) == (code, param)


async def test_a_film_ends_at_its_deadline_and_pictures_go_on(slow: Slow, site: Site) -> None:
    ref = site.put(random_scene(20))
    slow.go.set()
    await site.replica.render(raw(ref, camera()), CALL)
    slow.go.clear()
    slow.batches.clear()
    with pytest.raises(DeadlineExceeded):
        await site.replica.film(FilmRequest(ref, (camera(),) * 20, 25.0), Call("film", 0.1))
    slow.go.set()
    assert isinstance((await site.replica.render(raw(ref, camera(width=40)), CALL)).views[0], ViewFiles)
    assert len(slow.batches) <= 2


async def test_a_film_that_waits_for_another_ends_at_its_deadline(slow: Slow, tmp_path: Path) -> None:
    site = Site(tmp_path, placement={"preprocess_workers": 1})
    request = FilmRequest(site.put(random_scene(20)), (camera(),) * 3, 25.0)
    first = asyncio.create_task(site.replica.film(request, CALL))
    await until(lambda: slow.batches)
    # Drawing alone would refuse it, but it has not come to drawing.
    with pytest.raises(DeadlineExceeded, match="film"):
        await site.replica.film(request, Call("late", 0.2))
    slow.go.set()
    assert len(shown((await first).data)) == 3


async def test_coverage_is_that_of_the_masks(site: Site) -> None:
    gaussians = random_scene(200)
    cameras = (camera(0), camera(120, 80, 60))
    masks = tuple(np.zeros((view.height, view.width), np.bool_) for view in cameras)
    for mask in masks:
        mask[:, : mask.shape[1] // 2] = True
    result = await site.replica.cover(CoverRequest(site.put(gaussians), cameras, masks), CALL)
    expected = [weights(gaussians, [view], mask[None]) for view, mask in zip(cameras, masks, strict=True)]
    assert np.allclose(result.inside, sum(inside for inside, _ in expected), atol=1e-4)
    assert np.allclose(result.total, sum(total for _, total in expected), atol=1e-4)
    assert result.total.sum() > result.inside.sum() > 0


@pytest.mark.parametrize("shapes", [(), ((64, 96), (64, 96)), ((96, 64),)])
async def test_masks_that_do_not_fit_the_cameras_are_refused(site: Site, shapes: tuple[tuple[int, int], ...]) -> None:
    masks = tuple(np.ones(shape, np.bool_) for shape in shapes)
    with pytest.raises(InvalidRequest) as refused:
        await site.replica.cover(CoverRequest(site.put(random_scene(10)), (camera(),), masks), CALL)
    assert (refused.value.code, refused.value.param) == ("invalid_field", "masks")


async def test_a_real_scene_looks_the_same_from_the_replica(site: Site) -> None:
    gaussians = formats.read(real_file("spot_10k.splat"), "splat", max_gaussians=100_000)
    x, y, z = (float(value) for value in gaussians.means.mean(0))
    view = look_at((x, y, z - 3), (x, y, z), UP, 50, 160, 120)
    result = await site.replica.render(raw(site.put(gaussians), view), CALL)
    assert_same(result.views[0], alone(gaussians, view))
    assert files_of(result.views[0])["alpha"].max() > 200
