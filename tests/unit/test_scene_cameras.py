"""Cameras that fit a scene, and ways from keyframe to keyframe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.rendering.camera import Camera, orbit
from deployments.rendering.messages import RasterOptions
from deployments.scenes.types import Bounds
from deployments.scenes.work import bounds_of
from deployments.splat.rasteriser import make_rasteriser
from serve.errors import InvalidRequest
from serve.scenes.cameras import Calibrated, LookAt, Orbit, fitting_radius, from_camera, placed
from serve.scenes.paths import Keyframe, evenly, interpolated, rising
from serve.scenes.rendering import sized
from tests.support.splat_reference import psnr
from tests.support.splat_scenes import cloud

BOX = Bounds((-1.0, 0.0, -2.0), (3.0, 2.0, 2.0), (1.0, 1.0, 0.0), 3.0)
UPS = [(0.0, 1.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (1.0, 2.0, -3.0)]


@settings(max_examples=80, deadline=None)
@given(
    st.floats(-720, 720),
    st.floats(-89, 89),
    st.floats(5, 120),
    st.integers(16, 200),
    st.integers(16, 200),
    st.sampled_from(UPS),
)
def test_a_camera_without_a_radius_sees_the_whole_sphere(
    azimuth: float, elevation: float, fov: float, width: int, height: int, up: tuple[float, float, float]
) -> None:
    camera = placed(Orbit(azimuth, elevation, fov_deg=fov), BOX, up, width, height, "camera")
    place = camera.world_to_camera @ [*BOX.centre, 1.0]
    np.testing.assert_allclose(place[:2], 0, atol=1e-9)
    # The sphere touches no side of the picture: its silhouette is a cone around the axis.
    half = np.arcsin(BOX.radius / place[2])
    assert np.tan(half) * camera.fx <= width / 2 + 1e-9
    assert np.tan(half) * camera.fy <= height / 2 + 1e-9


def test_a_scene_without_extent_has_a_camera_too() -> None:
    point = Bounds((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0.0)
    assert np.isfinite(placed(Orbit(), point, (0, 1, 0), 40, 30, "camera").world_to_camera).all()
    assert fitting_radius(point, 50, 1.0) > 0


def test_a_target_and_a_radius_of_ones_own() -> None:
    camera = placed(Orbit(0, 0, 4.0, (5.0, 5.0, 5.0)), BOX, (0, 1, 0), 40, 30, "camera")
    np.testing.assert_allclose(camera.position, (5, 5, 9), atol=1e-12)


def test_the_scenes_own_up_stands_in_for_one_that_is_not_said() -> None:
    said = placed(LookAt((0, 0, 5), (0, 0, 0), (0, -1, 0)), BOX, (0, 1, 0), 40, 30, "camera")
    own = placed(LookAt((0, 0, 5), (0, 0, 0)), BOX, (0, -1, 0), 40, 30, "camera")
    np.testing.assert_allclose(said.world_to_camera, own.world_to_camera)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_matrices_hold_numbers(number: float) -> None:
    pose = np.eye(4)
    pose[0, 3] = number
    with pytest.raises(InvalidRequest, match="rotation"):
        placed(Calibrated(np.eye(3), pose), BOX, (0, 1, 0), 4, 4, "camera")
    k = np.eye(3)
    k[0, 0] = number
    with pytest.raises(InvalidRequest, match="intrinsics"):
        placed(Calibrated(k, np.eye(4)), BOX, (0, 1, 0), 4, 4, "camera")


@pytest.mark.parametrize("unit", [1e-4, 1e5])
def test_a_scene_looks_the_same_whatever_its_unit(unit: float) -> None:
    scene = cloud(300)
    larger = replace(scene, means=scene.means * np.float32(unit), scales=scene.scales * np.float32(unit))
    rasteriser = make_rasteriser("cpu")
    pictures = []
    for one in (scene, larger):
        bounds = bounds_of(one)
        camera = placed(Orbit(), bounds, (0, 1, 0), 64, 48, "camera")
        pictures += rasteriser.render(rasteriser.load(one), [camera], sized(RasterOptions(), bounds.radius))
    assert pictures[0].alpha.max() > 0.5
    assert psnr(pictures[0].rgb, pictures[1].rgb) > 60
    covered = pictures[0].alpha > 0.05
    depths = [picture.depth[covered] for picture in pictures]
    assert np.quantile(np.abs(depths[1] / unit / depths[0] - 1), 0.99) < 1e-3


def around(count: int = 4) -> list[Camera]:
    return [orbit((0, 0, 0), 3.0, 360 / count * i, 20, (0, 1, 0), 50, 64, 48) for i in range(count)]


def same(first: Camera, second: Camera) -> None:
    np.testing.assert_allclose(first.world_to_camera, second.world_to_camera, atol=1e-9)
    np.testing.assert_allclose(first.intrinsics, second.intrinsics, atol=1e-9)


def test_inverting_a_pose_twice_gives_it_back() -> None:
    pose = around()[1].world_to_camera
    np.testing.assert_allclose(from_camera(pose) @ pose, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(from_camera(from_camera(pose)), pose, atol=1e-12)


def test_a_way_passes_every_keyframe_and_stays_between_them_a_camera() -> None:
    keys = around()
    cameras = interpolated(evenly(keys), 31)
    assert len(cameras) == 31
    for index, key in zip((0, 10, 20, 30), keys, strict=True):
        same(cameras[index], key)
    for camera in cameras:
        rotation = camera.world_to_camera[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(rotation) == pytest.approx(1)


def test_a_way_has_no_jumps() -> None:
    places = np.stack([camera.position for camera in interpolated(evenly(around(6)), 200)])
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert steps.max() < 2.5 * np.median(steps)


def test_a_closed_way_meets_its_beginning() -> None:
    keys = around()
    cameras = interpolated(evenly(keys), 40, closed=True)
    for index, key in zip((0, 10, 20, 30), keys, strict=True):
        same(cameras[index], key)
    places = np.stack([camera.position for camera in [*cameras, cameras[0]]])
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert steps.max() < 2 * steps.min()
    # The keyframes are alike but for a quarter of a turn, and so is the way between them.
    np.testing.assert_allclose(steps[:10], steps[10:20], atol=1e-9)


def test_keyframes_are_passed_when_they_say() -> None:
    keys = around(3)
    cameras = interpolated([Keyframe(0, keys[0]), Keyframe(0.25, keys[1]), Keyframe(1, keys[2])], 41)
    same(cameras[10], keys[1])
    same(cameras[40], keys[2])


def test_turns_take_the_short_way_round() -> None:
    """Quaternions of opposite sign are the same turn; a way between them must not spin."""
    keys = [orbit((0, 0, 0), 3.0, azimuth, 0, (0, 1, 0), 50, 64, 48) for azimuth in (170, 190)]
    looks = np.stack([camera.world_to_camera[2, :3] for camera in interpolated(evenly(keys), 11)])
    assert (looks @ looks[5] > np.cos(np.radians(11))).all()


def test_a_camera_may_stand_still_turn_or_zoom() -> None:
    [key, *_] = around()
    for camera in interpolated(evenly([key, key, key]), 7):
        same(camera, key)
    assert len(interpolated([Keyframe(0, key)], 5)) == 5
    zoomed = Camera(64, 48, key.fx * 4, key.fy * 4, key.cx, key.cy, key.world_to_camera)
    middle = interpolated(evenly([key, zoomed]), 3)[1]
    assert middle.fx == pytest.approx(2 * key.fx)


def test_times_that_rise() -> None:
    assert rising([0.0, 0.5, 1.0])
    assert not rising([0.0, 0.5, 0.5, 1.0])
    assert not rising([0.1, 1.0])
    assert not rising([0.0, 0.9])
