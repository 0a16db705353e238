"""The splat deployment's class in this process, with the rasteriser and the store's files: what it answers equals the
rasteriser alone, whoever else asks at the same time."""

from __future__ import annotations

import asyncio
import io
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deployments.rendering.camera import Camera, look_at
from deployments.rendering.messages import (
    CoverRequest,
    RasterOptions,
    RenderRequest,
    RenderResult,
    SceneRef,
    ViewFiles,
)
from deployments.splat import formats, scene_file
from deployments.splat.coverage import weights
from serve.errors import (
    ArgusError,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from tests.support.bucket import Bucket
from tests.support.gaussians import moving_scene, random_scene, real_file, sphere
from tests.support.splat_site import (
    CALL,
    UP,
    Site,
    alone,
    assert_same,
    camera,
    files_of,
    raw,
)


async def test_a_view_is_what_the_rasteriser_draws(site: Site) -> None:
    gaussians = random_scene(300)
    options = RasterOptions(background=(0.1, 0.5, 0.9), antialiased=True, sh_degree=1)
    result = await site.replica.render(raw(site.put(gaussians), camera(), options=options), CALL)
    assert_same(result.views[0], alone(gaussians, camera(), options))


async def test_a_scene_in_an_object_store_is_drawn_from_there(tmp_path: Path) -> None:
    site = Site(tmp_path, blobs=f"{Bucket.protocol}://drawn-scenes/{secrets.token_hex(4)}")
    gaussians = random_scene(100)
    scene = site.put(gaussians)
    assert_same((await site.replica.render(raw(scene, camera()), CALL)).views[0], alone(gaussians, camera()))
    with pytest.raises(NotFound) as caught:
        await site.replica.render(raw(SceneRef("gaussians", "0" * 64, 10), camera()), CALL)
    assert caught.value.code == "scene_gone" and site.blobs.path(scene.digest) is None


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
