"""A mesh of a scene, worked out in a real process, of a ball whose pictures are known exactly."""

from __future__ import annotations

import io
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import trimesh

from deployments.jobs.types import Progress
from deployments.rendering.camera import Camera, Vector
from deployments.rendering.messages import RenderRequest, ViewFiles
from deployments.scenes.types import Bounds
from serve.context import RequestContext
from serve.errors import InvalidRequest
from serve.protocol import job_operations
from tests.unit.scene_site import MODELS, FakeRenderer, SceneSite

RADIUS = 0.7


class Ball(FakeRenderer):
    """Draws a red ball at the origin, or nothing with `radius` 0; a red sheet of no thickness instead when `flat`."""

    radius = RADIUS
    flat = False

    def _render(self, request: RenderRequest) -> Any:
        answer = super()._render(request)
        views = tuple(
            ViewFiles(dict(zip(("rgb", "alpha", "depth"), self._ball(one), strict=True))) for one in request.cameras
        )
        return type(answer)(views)

    def _ball(self, camera: Camera) -> tuple[Any, Any, Any]:
        rows, columns = np.mgrid[: camera.height, : camera.width] + 0.5
        rays = np.stack([(columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy, np.ones_like(rows)], axis=2)
        if self.flat:
            return self._sheet(camera, rays)
        centre = camera.world_to_camera[:3, 3]
        along = rays @ centre / (rays**2).sum(axis=2)
        missed = (centre @ centre) - along**2 * (rays**2).sum(axis=2)
        depth = along - np.sqrt(np.maximum(self.radius**2 - missed, 0) / (rays**2).sum(axis=2))
        return self._red(missed < self.radius**2, depth)

    def _sheet(self, camera: Camera, rays: Any) -> tuple[Any, Any, Any]:
        """Where y is 0, and x and z are within 1."""
        rotation = camera.world_to_camera[:3, :3]
        ahead, start = rays @ rotation, -camera.world_to_camera[:3, 3] @ rotation
        depth = -start[1] / np.where(ahead[..., 1] == 0, 1e-9, ahead[..., 1])
        places = start + depth[..., None] * ahead
        return self._red((depth > 0) & (np.abs(places[..., [0, 2]]) <= 1).all(axis=2), depth)

    def _red(self, hit: Any, depth: Any) -> tuple[Any, Any, Any]:
        rgb = np.where(hit[..., None], np.array([255, 0, 0], np.uint8), 0).astype(np.uint8)
        return rgb, np.where(hit, 255, 0).astype(np.uint8), np.where(hit, depth, 0).astype(np.float32)


@pytest.fixture
def site() -> SceneSite:
    splat = {"kind": "splat", "scenes": "scenes", "max_views": 5}
    made = SceneSite(models={**MODELS, "splat": splat}, more={"splat": Ball()})
    made.scenes.put_scene("ball", b"a ball")
    return made


async def mesh(site: SceneSite, **fields: Any) -> tuple[dict[str, Any], list[Progress]]:
    told: list[Progress] = []

    async def report(progress: Progress, key: str | None = None, value: Any = None) -> None:
        told.append(progress)

    context = RequestContext("job", "anonymous", time.monotonic() + 300)
    operation = job_operations.operations(site.services)["scenes.mesh"]
    given = await operation.admit({"scene": "ball", "resolution": 48, **fields}, (), context)
    return await operation.run(given, context, report, {}), told


@pytest.mark.parametrize(("format", "kind"), [("glb", "glb"), ("mesh_ply", "ply")])
async def test_a_ball_becomes_a_ball(site: SceneSite, format: str, kind: str) -> None:
    made, told = await mesh(site, format=format)
    artifact, data = site.scenes.files[made["artifact"]["id"]]
    assert artifact.filename == f"ball-v1.mesh.{kind}"
    found = trimesh.load(io.BytesIO(data), file_type=kind, force="mesh")
    assert isinstance(found, trimesh.Trimesh)
    distances = np.linalg.norm(found.vertices, axis=1)
    voxel = 2 / 48
    assert np.abs(distances - RADIUS).max() < 1.5 * voxel
    assert found.is_watertight
    visual: Any = found.visual
    colours = np.asarray(visual.vertex_colors)[:, :3].mean(axis=0)
    assert colours[0] > 200 and colours[1] < 50
    assert [progress.stage for progress in told][-1] == "meshing"
    assert told[-2].done == told[-2].total == 48


async def test_the_cameras_of_a_small_box_see_it(site: SceneSite) -> None:
    """They stand a few of its sizes away, nearer than the near plane is otherwise."""
    site.more["splat"].radius = 5e-4
    made, _ = await mesh(site, box={"min": [-1e-3] * 3, "max": [1e-3] * 3})
    _, data = site.scenes.files[made["artifact"]["id"]]
    found: Any = trimesh.load(io.BytesIO(data), file_type="glb", force="mesh")
    assert np.abs(np.linalg.norm(found.vertices, axis=1) - 5e-4).max() < 1.5 * 2e-3 / 48
    for request in site.more["splat"].requests:
        for camera in request.cameras:
            assert request.options.near < 0.1 * (np.linalg.norm(camera.position) - math.sqrt(3) * 1e-3)


def bounded(site: SceneSite, least: Vector, most: Vector, radius: float) -> None:
    """Gives the scene's centres another box."""
    info = site.scenes.scenes["ball"]
    centre = tuple(float(value) for value in np.add(least, most) / 2)
    bounds = Bounds(least, most, (centre[0], centre[1], centre[2]), radius)
    site.scenes.scenes["ball"] = replace(info, versions=(replace(info.shown, bounds=bounds),))


async def test_a_single_gaussian_has_a_surface_around_its_centre(site: SceneSite) -> None:
    bounded(site, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1.2)
    made, _ = await mesh(site)
    _, data = site.scenes.files[made["artifact"]["id"]]
    found = trimesh.load(io.BytesIO(data), file_type="glb", force="mesh")
    assert isinstance(found, trimesh.Trimesh)
    assert np.abs(np.linalg.norm(found.vertices, axis=1) - RADIUS).max() < 1.5 * 2.4 / 48


async def test_a_flat_scene_has_no_surface_or_one_with_faces(site: SceneSite) -> None:
    site.more["splat"].flat = True
    bounded(site, (-1.0, 0.0, -1.0), (1.0, 0.0, 1.0), math.sqrt(2))
    with pytest.raises(InvalidRequest) as refused:
        await mesh(site)
    assert (refused.value.code, refused.value.param) == ("no_surface", "box")
    assert "thinner than a voxel" in refused.value.message


async def test_where_nothing_is_there_is_no_surface(site: SceneSite) -> None:
    site.more["splat"].radius = 0.0
    with pytest.raises(InvalidRequest) as refused:
        await mesh(site)
    assert (refused.value.code, refused.value.param) == ("no_surface", "box")
