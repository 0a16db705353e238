"""Meshes and clouds of points of scenes whose shape is known."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import trimesh

from deployments.rendering.camera import Camera
from deployments.rendering.messages import RasterOptions, Rendered
from deployments.splat import points
from deployments.splat.gaussians import Gaussians, concatenate
from deployments.splat.mesh import MeshFormat, Render, extract_mesh, to_bytes
from deployments.splat.rasteriser import make_rasteriser
from serve.errors import InvalidRequest
from tests.support.gaussians import moving_scene, random_scene, sphere

BOX = ((-1.3, -1.3, -1.3), (1.3, 1.3, 1.3))


def rendering(scene: Gaussians) -> Render:
    rasteriser = make_rasteriser("cpu")
    loaded = rasteriser.load(scene)
    return lambda cameras: rasteriser.render(loaded, cameras, RasterOptions())


def colours_of(mesh: Any) -> npt.NDArray[np.float64]:
    return np.asarray(mesh.visual.vertex_colors)[:, :3] / 255


@pytest.fixture(scope="module")
def ball() -> trimesh.Trimesh:
    return extract_mesh(rendering(sphere(centre=(0.1, 0, 0), rgb=(0.8, 0.2, 0.1))), *BOX, resolution=48, views=24)


def test_a_sphere_of_gaussians_becomes_a_sphere(ball: trimesh.Trimesh) -> None:
    voxel = 2.6 / 48
    radii = np.linalg.norm(ball.vertices - (0.1, 0, 0), axis=1)
    assert abs(radii.mean() - 1) < voxel / 2
    assert np.abs(radii - 1).max() < 1.5 * voxel
    assert ball.is_watertight
    # Outward faces: an inside-out sphere has a negative volume.
    assert ball.volume == pytest.approx(4 / 3 * np.pi, rel=0.06)


def test_its_vertices_have_the_scenes_colours(ball: trimesh.Trimesh) -> None:
    colours = colours_of(ball)
    assert np.abs(np.median(colours, axis=0) - (0.8, 0.2, 0.1)).max() < 0.06
    assert np.percentile(np.abs(colours - (0.8, 0.2, 0.1)), 95) < 0.15


@pytest.mark.parametrize("format", ["ply", "glb"])
def test_its_file_is_read_by_others(ball: trimesh.Trimesh, format: MeshFormat) -> None:
    data = to_bytes(ball, format)
    again: Any = trimesh.load(io.BytesIO(data), file_type=format, force="mesh", process=False)
    assert len(again.vertices) == len(ball.vertices) and len(again.faces) == len(ball.faces)
    assert np.allclose(again.vertices, ball.vertices, atol=1e-5)
    if format == "ply":
        assert np.array_equal(colours_of(again), colours_of(ball))
    else:  # linear; shown on a screen they are the same, but for a byte's steps in the dark
        shown = np.maximum(1.055 * colours_of(again) ** (1 / 2.4) - 0.055, 0)
        assert np.abs(shown - colours_of(ball)).max() < 0.03
        assert np.abs(shown - colours_of(ball))[colours_of(ball) > 0.5].max() < 0.004


@pytest.mark.parametrize("up", [(0.0, 1.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 2.0), (1.0, -2.0, 0.5)])
def test_a_glb_file_stands_upright(ball: trimesh.Trimesh, up: tuple[float, ...]) -> None:
    """By glTF's rule y is up."""
    data = to_bytes(ball, "glb", up)  # type: ignore[arg-type]
    again: Any = trimesh.load(io.BytesIO(data), file_type="glb", force="mesh", process=False)
    turn, *_ = np.linalg.lstsq(ball.vertices - ball.vertices.mean(0), again.vertices - again.vertices.mean(0), None)
    np.testing.assert_allclose(turn.T @ turn, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(np.asarray(up) / np.linalg.norm(up) @ turn, (0, 1, 0), atol=1e-5)
    assert again.volume == pytest.approx(ball.volume, rel=1e-4), "not mirrored"


def test_specks_are_left_out_and_large_pieces_kept() -> None:
    scene = concatenate(
        [
            sphere(0.5, (-0.6, 0, 0), count=2000),
            sphere(0.4, (0.6, 0, 0), (0.1, 0.2, 0.9), count=2000),
            sphere(0.02, (0, 1.1, 0), count=50),
        ]
    )
    mesh = extract_mesh(rendering(scene), *BOX, resolution=40, views=24)
    assert mesh.body_count == 2
    assert mesh.vertices[:, 1].max() < 0.8
    right = mesh.vertices[:, 0] > 0
    colours = colours_of(mesh)
    assert (colours[right, 2] > colours[right, 0]).mean() > 0.95
    assert (colours[~right, 2] < colours[~right, 0]).mean() > 0.95


def test_only_what_is_in_the_box_is_taken() -> None:
    scene = concatenate([sphere(0.5, count=1500), sphere(0.5, (3, 0, 0), count=1500)])
    mesh = extract_mesh(rendering(scene), (-0.7, -0.7, -0.7), (0.7, 0.7, 0.7), resolution=32, views=30)
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 0.5).max() < 0.15


def empty(cameras: Sequence[Camera]) -> list[Rendered]:
    return [
        Rendered(
            np.zeros((camera.height, camera.width, 3), np.float32),
            np.zeros((camera.height, camera.width), np.float32),
            np.zeros((camera.height, camera.width), np.float32),
        )
        for camera in cameras
    ]


def test_a_scene_of_nothing_has_no_surface() -> None:
    with pytest.raises(InvalidRequest) as caught:
        extract_mesh(empty, *BOX, resolution=16, views=8)
    assert caught.value.code == "no_surface"


@pytest.mark.parametrize(
    ("least", "most", "resolution", "views", "param"),
    [
        ((0, 0, 0), (1, 0, 1), 32, 8, "bounds"),
        ((0, 0, 0), (float("inf"), 1, 1), 32, 8, "bounds"),
        ((0, 0, 0), (1, 1, 1), 1000, 8, "resolution"),
        ((0, 0, 0), (1, 1, 1), 32, 100_000, "views"),
    ],
)
def test_bounds_are_kept(
    least: tuple[float, float, float], most: tuple[float, float, float], resolution: int, views: int, param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        extract_mesh(empty, least, most, resolution=resolution, views=views)
    assert (caught.value.code, caught.value.param) == ("invalid_mesh", param)


def test_points_are_the_opaque_centres_with_their_colours() -> None:
    scene = moving_scene(300)
    cloud: Any = trimesh.load(io.BytesIO(points.write(scene, 0.6)), file_type="ply")
    opaque = scene.opacities >= 0.6
    assert 0 < opaque.sum() < 300
    assert np.allclose(cloud.vertices, scene.means[opaque])
    base = 0.5 + 0.28209479 * scene.sh[opaque, 0]
    assert np.abs(np.asarray(cloud.colors)[:, :3] / 255 - base).max() < 0.003


def test_no_points_are_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        points.write(random_scene(10), 0.99)
    assert caught.value.code == "no_points"
