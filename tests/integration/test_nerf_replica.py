"""The NeRF deployment's class in this process: what it answers equals drawing alone, whoever else asks meanwhile."""

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
import torch
from PIL import Image

from deployments.messages import Call
from deployments.nerf.adapter import Chunk, NerfAdapter, Prepared
from deployments.nerf.checkpoint import write
from deployments.nerf.field import RadianceField
from deployments.nerf.render import render
from deployments.nerf.replica import NerfReplica
from deployments.nerf.settings import FieldSettings
from deployments.rendering.camera import Camera, orbit
from deployments.rendering.messages import FilmRequest, RasterOptions, RenderRequest, RenderResult, SceneRef, ViewFiles
from deployments.scenes.blobs import Blobs, blobs_of
from serve.config.scene_models import NerfModel, SceneStoreModel
from serve.errors import (
    ArgusError,
    DeadlineExceeded,
    InvalidRequest,
    ModelFailed,
    NotFound,
    PayloadTooLarge,
    Unavailable,
)

CALL = Call("test", 60.0)
SKY = RasterOptions(background=(0.2, 0.5, 0.9))


class Site:
    """A store's files, and a renderer of them."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.store = SceneStoreModel(kind="scene_store", path=str(folder))
        self.blobs: Blobs = blobs_of(self.store)
        self.config = NerfModel(kind="nerf", scenes="scenes", rays=256, **options)
        self.replica = NerfReplica("nerf", self.config, self.store)

    def put(self, field: RadianceField) -> SceneRef:
        data = write(field)
        return SceneRef("nerf", self.blobs.write(data), len(data))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def field_of(seed: int, variant: str = "hash", **options: Any) -> RadianceField:
    """Coloured fog with a structure; the seed decides which."""
    torch.manual_seed(seed)
    settings = {"levels": 3, "log2_table": 8, "finest": 24, "hidden": 8, "occupancy": 8, "width": 8, **options}
    field = RadianceField(
        FieldSettings.model_validate({"variant": variant, "least": (-1, -1, -1), "most": (1, 1, 1), **settings})
    )
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.normal_(std=0.6)
    if field.grid is not None:
        field.grid.bits = torch.rand(field.grid.cells**3) > 0.4
    return field.eval().requires_grad_(False)


def camera(azimuth_deg: float = 20.0, width: int = 40, height: int = 28) -> Camera:
    return orbit((0, 0, 0), 4.0, azimuth_deg, 15.0, (0, -1, 0), 45.0, width, height)


def raw(scene: SceneRef, *cameras: Camera, **options: Any) -> RenderRequest:
    return RenderRequest(scene, cameras, ("rgb", "depth", "alpha"), "raw", **{"options": SKY, **options})


def assert_same(view: ViewFiles | Exception, field: RadianceField, own: Camera, effort: float = 1.0) -> None:
    assert isinstance(view, ViewFiles), view
    alone = render(field, own, effort=effort, background=SKY.background)
    assert np.abs(np.asarray(view.files["rgb"], float) - np.clip(alone.rgb, 0, 1) * 255).max() <= 0.52
    assert np.abs(np.asarray(view.files["alpha"], float) - alone.alpha * 255).max() <= 0.52
    assert np.allclose(view.files["depth"], alone.depth, atol=2e-3)


@pytest.mark.parametrize("variant", ["hash", "mlp"])
async def test_a_view_is_what_drawing_alone_gives(site: Site, variant: str) -> None:
    field = field_of(1, variant)
    result = await site.replica.render(raw(site.put(field), camera()), CALL)
    assert_same(result.views[0], field, camera())


async def test_views_of_many_fields_sizes_and_efforts_at_once_are_those_of_each_alone(site: Site) -> None:
    fields = [field_of(seed) for seed in range(3)]
    refs = [site.put(field) for field in fields]
    asked = [
        (which, camera(40.0 * number, 24 + 8 * (number % 3), 20), (0.1, 0.4, 1.0)[number % 3])
        for number in range(6)
        for which in range(3)
    ]
    results = await asyncio.gather(
        *(site.replica.render(raw(refs[which], own, effort=effort), CALL) for which, own, effort in asked)
    )
    for result, (which, own, effort) in zip(results, asked, strict=True):
        assert_same(result.views[0], fields[which], own, effort)


async def test_views_of_one_request_come_in_its_order(site: Site) -> None:
    field = field_of(2)
    cameras = [camera(30.0 * number, 16 + number, 20) for number in range(7)]
    result = await site.replica.render(raw(site.put(field), *cameras), CALL)
    for view, own in zip(result.views, cameras, strict=True):
        assert_same(view, field, own)


async def test_a_background_of_its_own_stays(site: Site) -> None:
    field = field_of(3, background=(1.0, 0.0, 0.0))
    result = await site.replica.render(raw(site.put(field), camera(), options=SKY), CALL)
    view = result.views[0]
    assert isinstance(view, ViewFiles)
    assert np.asarray(view.files["rgb"])[0, 0].tolist() == [255, 0, 0]


async def test_more_effort_is_finer(site: Site) -> None:
    field = field_of(4)
    ref = site.put(field)
    results = [await site.replica.render(raw(ref, camera(), effort=effort), CALL) for effort in (0.0, 0.3, 1.0)]
    views = [result.views[0] for result in results]
    assert all(isinstance(view, ViewFiles) for view in views)
    assert [view.samples for view in views] == sorted({view.samples for view in views})  # type: ignore[union-attr]
    rgb = [np.asarray(view.files["rgb"], float) for view in views]  # type: ignore[union-attr]
    assert rgb[0].shape == rgb[2].shape
    assert np.abs(rgb[0] - rgb[2]).mean() > np.abs(rgb[1] - rgb[2]).mean() > 0


async def test_files_are_pictures(site: Site) -> None:
    ref = site.put(field_of(5))
    for encoding in ("png", "jpeg", "webp"):
        result = await site.replica.render(RenderRequest(ref, (camera(),), encoding=encoding), CALL)
        view = result.views[0]
        assert isinstance(view, ViewFiles)
        image = Image.open(io.BytesIO(view.files["rgb"]))  # type: ignore[arg-type]
        assert (image.format, image.size) == (encoding.upper(), (40, 28))


async def test_a_film_has_a_frame_a_camera(site: Site) -> None:
    field = field_of(6)
    cameras = tuple(camera(20.0 * number, 48, 32) for number in range(5))
    segment = await site.replica.film(FilmRequest(site.put(field), cameras, 10.0, options=SKY, quality=100), CALL)
    with av.open(io.BytesIO(segment.data)) as video:
        frames = [frame.to_ndarray(format="rgb24").astype(float) for frame in video.decode(video=0)]
    assert len(frames) == 5
    for frame, own in zip(frames, cameras, strict=True):
        alone = np.clip(render(field, own, background=SKY.background).rgb, 0, 1) * 255
        assert np.abs(frame - alone).mean() < 6


async def test_one_bad_view_leaves_the_others_alone(site: Site) -> None:
    field = field_of(7)
    lost = camera().world_to_camera.copy()
    lost[0, 3] = np.nan
    bad = [replace(camera(), world_to_camera=lost), replace(camera(), width=5000, height=5000)]
    result = await site.replica.render(raw(site.put(field), bad[0], camera(), bad[1]), CALL)
    first, good, last = result.views
    assert isinstance(first, InvalidRequest) and first.code == "invalid_camera"
    assert isinstance(last, InvalidRequest) and last.code == "too_many_pixels"
    assert_same(good, field, camera())


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"cameras": ()}, "invalid_field", "cameras"),
        ({"cameras": (camera(),) * 65}, "too_many_inputs", "cameras"),
        ({"outputs": ()}, "invalid_field", "outputs"),
        ({"encoding": "jpeg"}, "invalid_field", "encoding"),
        ({"effort": 1.5}, "invalid_field", "effort"),
        ({"effort": float("nan")}, "invalid_field", "effort"),
        ({"options": RasterOptions(background=(0.0, float("inf"), 0.0))}, "invalid_field", "background"),
        ({"scene": SceneRef("gaussians", "0" * 64, 10)}, "wrong_scene_kind", "scene"),
    ],
)
async def test_requests_that_cannot_be_answered_are_refused_whole(
    site: Site, changes: dict[str, Any], code: str, param: str
) -> None:
    good = raw(site.put(field_of(8)), camera())
    with pytest.raises(InvalidRequest) as refused:
        await site.replica.render(replace(good, **changes), CALL)
    assert (refused.value.code, refused.value.param) == (code, param)


async def test_a_field_that_is_gone_damaged_or_none_fails_alone(site: Site) -> None:
    good = field_of(9)
    wrong = SceneRef("nerf", site.blobs.write(b"a shopping list"), 15)
    results = await asyncio.gather(
        *(
            site.replica.render(raw(one, camera()), CALL)
            for one in (site.put(good), wrong, SceneRef("nerf", "0" * 64, 9))
        ),
        return_exceptions=True,
    )
    assert isinstance(results[0], RenderResult)
    assert_same(results[0].views[0], good, camera())
    errors = [(type(error), error.code) for error in results[1:] if isinstance(error, ArgusError)]
    assert errors == [(Unavailable, "scene_damaged"), (NotFound, "scene_gone")]


async def test_a_field_larger_than_the_memory_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path, scene_memory_gb=1e-5)
    with pytest.raises(PayloadTooLarge) as refused:
        await site.replica.render(raw(site.put(field_of(10, occupancy=64)), camera()), CALL)
    assert refused.value.code == "scene_too_large"


class Gate:
    """Stands before the model's thread, and notes what passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.batches: list[list[Chunk]] = []
        forward = NerfAdapter.forward

        def gated(adapter: NerfAdapter, batch: Sequence[Any]) -> Sequence[Any]:
            chunks = [item.chunk for item in batch if isinstance(item, Prepared)]
            if chunks:
                self.batches.append(chunks)
                assert self.go.wait(30)
            return forward(adapter, batch)

        monkeypatch.setattr(NerfAdapter, "forward", gated)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


async def until(true: Any) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 (what is waited for happens in a thread)
            await asyncio.sleep(0.005)


async def test_rays_of_several_requests_share_a_batch(gate: Gate, site: Site) -> None:
    field = field_of(11)
    ref = site.put(field)
    first = asyncio.create_task(site.replica.render(raw(ref, camera(width=8, height=8)), CALL))
    await until(lambda: gate.batches)
    # 40 rays each, another background and another size: six go into 256.
    views = [camera(50.0 * number, 8 if number % 2 else 10, 5 if number % 2 else 4) for number in range(6)]
    tasks = [asyncio.create_task(site.replica.render(raw(ref, own), CALL)) for own in views]
    await until(lambda: site.replica._pipeline.waiting == 6)
    gate.go.set()
    await first
    for task, own in zip(tasks, views, strict=True):
        assert_same((await task).views[0], field, own)
    assert [len(batch) for batch in gate.batches] == [1, 6]


async def test_a_large_view_does_not_keep_a_small_one_waiting(gate: Gate, site: Site) -> None:
    large, small = field_of(12), field_of(13)
    refs = site.put(large), site.put(small)
    gate.go.set()
    for ref in refs:
        await site.replica.render(raw(ref, camera(width=8, height=8)), CALL)
    gate.go.clear()
    gate.batches.clear()
    tasks = [asyncio.create_task(site.replica.render(raw(refs[0], camera(width=120, height=100)), CALL))]
    await until(lambda: gate.batches)
    tasks.append(asyncio.create_task(site.replica.render(raw(refs[1], camera(width=8, height=8)), CALL)))
    await until(lambda: any(lane[0] == refs[1].digest for lane in site.replica._pipeline._batcher._lanes))
    gate.go.set()
    assert_same((await tasks[1]).views[0], small, camera(width=8, height=8))
    assert not tasks[0].done()
    assert_same((await tasks[0]).views[0], large, camera(width=120, height=100))
    digests = [batch[0].digest for batch in gate.batches]
    assert digests.index(refs[1].digest) < 6
    # 12,000 rays, 64 a chunk, 256 a batch: most batches are full.
    assert len([one for one in digests if one == refs[0].digest]) < 80


async def test_a_deadline_ends_a_view_between_its_chunks(gate: Gate, site: Site) -> None:
    ref = site.put(field_of(14))
    task = asyncio.create_task(site.replica.render(raw(ref, camera(width=120, height=100)), Call("late", 5.0)))
    await until(lambda: gate.batches)
    view = (await task).views[0]
    assert isinstance(view, DeadlineExceeded)
    gate.go.set()
    # Nothing of it is left to do.
    await site.replica.render(raw(ref, camera(width=8, height=8)), CALL)
    assert sum(len(batch) for batch in gate.batches) < 20


async def test_a_caller_that_leaves_takes_its_rays_along(gate: Gate, site: Site) -> None:
    field = field_of(15)
    ref = site.put(field)
    gone = asyncio.create_task(site.replica.render(raw(ref, camera(width=120, height=100)), CALL))
    await until(lambda: gate.batches)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    gate.go.set()
    assert_same((await site.replica.render(raw(ref, camera()), CALL)).views[0], field, camera())
    assert {chunk.camera.width for batch in gate.batches[1:] for chunk in batch} == {40}


async def test_a_picture_that_cannot_be_encoded_fails_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments.rendering.encode import encode_view

    def broken(rendered: Any, *given: Any) -> ViewFiles:
        if rendered.alpha.shape[1] == 16:
            raise OSError("broken data stream")
        return encode_view(rendered, *given)

    monkeypatch.setattr("deployments.nerf.replica.encode_view", broken)
    good, bad = (await site.replica.render(raw(site.put(field_of(16)), camera(), camera(width=16)), CALL)).views
    assert isinstance(good, ViewFiles) and isinstance(bad, ModelFailed)


async def test_it_says_what_it_is_and_that_it_is_well(site: Site) -> None:
    info = await site.replica.info()
    assert (info.device, info.engine) == ("cpu", "torch")
    assert info.load_s > 0
    await site.replica.check_health()


async def test_a_gpu_without_memory_says_so_and_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments.nerf import adapter

    draw = adapter.draw

    def short(field: RadianceField, rays: Any, *given: Any) -> Any:
        if len(rays) == 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return draw(field, rays, *given)

    monkeypatch.setattr(adapter, "draw", short)
    ref = site.put(field_of(17))
    result = await site.replica.render(raw(ref, camera(width=4, height=4)), CALL)
    error = result.views[0]
    assert isinstance(error, Unavailable) and error.code == "out_of_memory"
    good = await site.replica.render(raw(ref, camera()), CALL)
    assert isinstance(good.views[0], ViewFiles)
