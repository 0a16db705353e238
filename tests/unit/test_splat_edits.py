"""Edits of scenes: what they do to what is seen, at every moment, and what they refuse."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from deployments.rendering.camera import Camera, orbit
from deployments.rendering.messages import RasterOptions
from deployments.splat import scene_file
from deployments.splat.edits import (
    All,
    AllOf,
    AnyOf,
    Box,
    Crop,
    Delete,
    Duplicate,
    Edit,
    Fade,
    Mask,
    Merge,
    Not,
    Recolour,
    Rotate,
    Scale,
    Selection,
    Sphere,
    Translate,
    apply,
    describe,
    mask_of,
)
from deployments.splat.gaussians import SH_C0, Gaussians
from deployments.splat.rasteriser import make_rasteriser
from deployments.splat.sh_rotation import basis, rotated
from serve.errors import ArgusError, InvalidRequest, NotFound, PayloadTooLarge
from tests.support.gaussians import moving_scene, random_scene, sphere

EVERYTHING = All()
FAR = Box((7.0, 7.0, 7.0), (8.0, 8.0, 8.0))
LEFT = Box((-2.0, -2.0, -2.0), (0.0, 2.0, 2.0))


def edited(scene: Gaussians, *edits: Edit, others: dict[str, Gaussians] | None = None) -> Gaussians:
    def fetch(name: str, version: int | None) -> Gaussians:
        if others is None or name not in others:
            raise NotFound(f"There is no scene {name}.", code="scene_not_found")
        return others[name]

    result = apply(scene, edits, fetch, max_gaussians=10_000)
    scene_file.check(result)
    assert np.allclose(np.linalg.norm(result.quats, axis=1), 1, atol=1e-5)
    return result


def assert_same(one: Gaussians, other: Gaussians, tolerance: float = 2e-5) -> None:
    for name in ("means", "scales", "opacities", "sh"):
        assert np.allclose(getattr(one, name), getattr(other, name), atol=tolerance), name
    # q and -q are the same rotation.
    assert np.allclose(np.abs((one.quats * other.quats).sum(axis=1)), 1, atol=tolerance)


def rotation(axis: tuple[float, float, float], degrees: float) -> npt.NDArray[np.float64]:
    """By Rodrigues' formula, not by quaternions as in the code."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(degrees)
    return np.asarray(np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross)


def turned_camera(camera: Camera, turn: npt.NDArray[np.float64]) -> Camera:
    back = np.eye(4)
    back[:3, :3] = turn.T
    return replace(camera, world_to_camera=camera.world_to_camera @ back)


def test_turned_harmonics_have_in_a_turned_direction_the_value_they_had_before() -> None:
    rng = np.random.default_rng(3)
    directions = rng.normal(size=(50, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for degree in range(4):
        sh = rng.normal(size=(20, (degree + 1) ** 2, 3)).astype(np.float32)
        turn = rotation((1, 2, -3), 77)
        values = np.einsum("dk,nkc->ndc", basis(directions)[:, : sh.shape[1]], sh)
        after = np.einsum("dk,nkc->ndc", basis(directions @ turn.T)[:, : sh.shape[1]], rotated(sh, turn))
        assert np.allclose(values, after, atol=1e-5)


def test_harmonics_are_orthonormal() -> None:
    # On a fine even covering of the sphere sums are integrals.
    index = np.arange(20_000) + 0.5
    height, turn = 1 - index / 10_000, math.pi * (1 + math.sqrt(5)) * index
    across = np.sqrt(1 - height**2)
    values = basis(np.stack([across * np.cos(turn), across * np.sin(turn), height], axis=1))
    assert np.allclose(values.T @ values * 4 * math.pi / len(values), np.eye(16), atol=1e-3)


def test_a_turned_scene_is_seen_by_a_turned_camera_as_before() -> None:
    scene = random_scene(150)
    camera = orbit((0, 0, 0), 4, 30, 20, (0, 1, 0), 45, 64, 48)
    axis, degrees = (0.3, -1.0, 2.0), 130.0
    turned = edited(scene, Rotate(EVERYTHING, axis, degrees, (0, 0, 0)))
    rasteriser = make_rasteriser("cpu")
    (before,) = rasteriser.render(rasteriser.load(scene), [camera], RasterOptions())
    view = turned_camera(camera, rotation(axis, degrees))
    (after,) = rasteriser.render(rasteriser.load(turned), [view], RasterOptions())
    assert np.abs(before.rgb - after.rgb).max() < 2e-3
    # The same would be so of pictures of nothing.
    assert before.alpha.max() > 0.9 and before.rgb.std() > 0.1


@pytest.mark.parametrize(
    "edit",
    [
        Translate(LEFT, (1.0, -2.0, 0.5)),
        Rotate(LEFT, (1.0, 1.0, 0.0), -40.0),
        Rotate(EVERYTHING, (0.0, 0.0, -2.0), 250.0, (1.0, 2.0, 3.0)),
        Scale(LEFT, 1.7),
        Scale(EVERYTHING, 0.2, (3.0, 0.0, 0.0)),
    ],
)
def test_an_edit_holds_at_every_moment_of_a_motion(edit: Rotate | Translate | Scale) -> None:
    scene = moving_scene()
    # What an edit selects, and turns about, is decided at time 0.
    which = np.ones(len(scene), bool) if edit.where == EVERYTHING else scene.means[:, 0] <= 0
    x, y, z = scene.means[which].mean(axis=0).tolist()
    again: Edit = replace(edit, where=mask_of(which))
    if isinstance(again, Rotate | Scale) and again.centre is None:
        again = replace(again, centre=(x, y, z))
    result = edited(scene, edit)
    assert result.motion is not None and result.motion.period_s == 2.0
    for time_s in (0.0, 0.3, 1.1, 1.9):
        assert_same(result.at(time_s), edited(scene.at(time_s), again), 1e-4)


def test_edits_leave_the_scene_they_are_given_as_it_was() -> None:
    scene = moving_scene()
    before = scene_file.write(scene)
    edited(
        scene,
        Translate(LEFT, (0, 0.1, 0)),
        Rotate(LEFT, (1, 0, 0), 30),
        Scale(EVERYTHING, 2.0),
        Recolour(EVERYTHING, tint=(1, 0, 0)),
        Fade(EVERYTHING, 0.5),
        Duplicate(EVERYTHING, (9, 0, 0)),
        Delete(LEFT),
    )
    assert scene_file.write(scene) == before


def test_turning_back_restores_the_scene() -> None:
    scene = random_scene()
    there = Rotate(EVERYTHING, (1, 2, 3), 33.0, (0, 1, 0))
    back = Rotate(EVERYTHING, (-1, -2, -3), 33.0 + 720.0, (0, 1, 0))
    assert_same(edited(scene, there, back), scene)


def at(*means: tuple[float, float, float]) -> Gaussians:
    scene = random_scene(len(means))
    return replace(scene, means=np.array(means, np.float32))


POINTS = at((0, 0, 0), (1, 0, 0), (2, 0, 0), (0, 1, 0), (0, 0, -5))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (All(), [0, 1, 2, 3, 4]),
        (Box((0, 0, 0), (1, 1, 1)), [0, 1, 3]),
        # A bar along x about (1, 0, 0), turned by 90 degrees about z: it reaches along y.
        (Box((-1, -0.1, -0.1), (3, 0.1, 0.1), (math.sqrt(0.5), 0, 0, math.sqrt(0.5))), [1]),
        (Box((-1.1, -0.1, -0.1), (1.1, 0.1, 0.1), (1, 0, 0, 1)), [0, 3]),
        (Sphere((1, 0, 0), 1.0), [0, 1, 2]),
        (Mask(bytes([0b10010]), 5), [1, 4]),
        (Not(Sphere((1, 0, 0), 1.0)), [3, 4]),
        (AllOf((Box((0, 0, 0), (1, 1, 1)), Not(Mask(bytes([1]), 5)))), [1, 3]),
        (AnyOf((Sphere((0, 0, -5), 0.1), Sphere((2, 0, 0), 0.1))), [2, 4]),
    ],
)
def test_a_selection_holds_these(where: Selection, expected: list[int]) -> None:
    assert np.array_equal(edited(POINTS, Crop(where)).means, POINTS.means[expected])
    others = [index for index in range(5) if index not in expected]
    if others:
        assert np.array_equal(edited(POINTS, Delete(where)).means, POINTS.means[others])


def test_a_mask_of_many_bytes_selects_what_it_was_made_of() -> None:
    scene = random_scene(1001)
    which = np.random.default_rng(0).random(1001) < 0.3
    kept = edited(scene, Crop(mask_of(which)))
    assert np.array_equal(kept.means, scene.means[which])


def test_a_copy_comes_last_and_offset() -> None:
    result = edited(POINTS, Duplicate(Sphere((1, 0, 0), 0.5), (0, 7, 0)))
    assert len(result) == 6
    assert np.array_equal(result.means[:5], POINTS.means)
    assert np.allclose(result.means[5], (1, 7, 0))
    assert np.array_equal(result.sh[5], POINTS.sh[1])


def test_scaling_about_the_selections_middle_keeps_it() -> None:
    scene = sphere(radius=1.0, centre=(3, 1, 0), count=500)
    result = edited(scene, Scale(EVERYTHING, 2.5))
    assert np.allclose(result.means.mean(axis=0), (3, 1, 0), atol=1e-3)
    assert np.allclose(np.linalg.norm(result.means - (3, 1, 0), axis=1), 2.5, atol=1e-2)
    assert np.allclose(result.scales, scene.scales * 2.5)


def colours(scene: Gaussians) -> npt.NDArray[np.float64]:
    return np.asarray(0.5 + SH_C0 * scene.sh[:, 0].astype(np.float64))


def test_a_tint_multiplies_what_is_seen_from_everywhere() -> None:
    scene = random_scene()
    result = edited(scene, Recolour(EVERYTHING, tint=(0.5, 1.0, 0.0), brightness=2.0))
    directions = np.random.default_rng(0).normal(size=(10, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    before, after = (0.5 + np.einsum("dk,nkc->ndc", basis(directions), one.sh) for one in (scene, result))
    assert np.allclose(after, before * (1.0, 2.0, 0.0), atol=1e-5)


def test_a_new_colour_keeps_light_and_dark() -> None:
    scene = random_scene()
    result = edited(scene, Recolour(EVERYTHING, rgb=(0.1, 0.2, 0.6)))
    weights = np.array([0.2126, 0.7152, 0.0722])
    light = colours(scene) @ weights
    assert np.allclose(colours(result), np.outer(light / light.mean(), (0.1, 0.2, 0.6)), atol=1e-4)
    flat = edited(scene, Recolour(LEFT, rgb=(0.1, 0.2, 0.6), flat=True))
    left = scene.means[:, 0] <= 0
    assert np.allclose(colours(flat)[left], (0.1, 0.2, 0.6), atol=1e-6) and not flat.sh[left, 1:].any()
    assert np.array_equal(flat.sh[~left], scene.sh[~left])


def test_fading_stays_within_bounds() -> None:
    scene = random_scene()
    assert np.allclose(edited(scene, Fade(EVERYTHING, 0.5)).opacities, scene.opacities / 2)
    assert np.allclose(edited(scene, Fade(EVERYTHING, 100.0)).opacities, 1)


def test_a_scene_is_merged_in_scaled_turned_and_moved() -> None:
    ball = sphere(radius=1.0, count=100)
    scene = random_scene(50)
    result = edited(
        scene, Merge("ball", scale=0.5, axis=(0, 0, 1), degrees=90, offset=(0, 10, 0)), others={"ball": ball}
    )
    assert len(result) == 150 and result.sh_degree == 3
    assert_same(result.select(np.arange(50)), scene)
    x, y, z = ball.means.T
    assert np.allclose(result.means[50:], np.stack([-y / 2, x / 2 + 10, z / 2], axis=1), atol=1e-5)
    assert not result.sh[50:, 1:].any()


def test_what_does_not_move_stays_when_it_is_merged_into_what_does() -> None:
    result = edited(moving_scene(20), Merge("ball"), others={"ball": sphere(count=10)})
    assert result.motion is not None
    assert np.allclose(result.at(0.7).means[20:], sphere(count=10).means)


@pytest.mark.parametrize(
    ("edits", "kind", "code", "param"),
    [
        ([Crop(Sphere((50, 0, 0), 1))], InvalidRequest, "empty_selection", "edits[0]"),
        (
            [Translate(EVERYTHING, (1, 0, 0)), Delete(FAR)],
            InvalidRequest,
            "empty_selection",
            "edits[1]",
        ),
        ([Delete(EVERYTHING)], InvalidRequest, "empty_scene", "edits[0]"),
        ([Crop(Sphere((0, 0, 0), -1))], InvalidRequest, "invalid_selection", "edits[0]"),
        ([Crop(Sphere((0, 0, 0), math.nan))], InvalidRequest, "invalid_selection", "edits[0]"),
        ([Crop(Box((1, 0, 0), (0, 1, 1)))], InvalidRequest, "invalid_selection", "edits[0]"),
        ([Crop(Box((0, 0, 0), (1, 1, 1), (0, 0, 0, 0)))], InvalidRequest, "invalid_selection", "edits[0]"),
        ([Crop(Mask(b"\x01", 8))], InvalidRequest, "invalid_selection", "edits[0]"),
        ([Crop(Mask(b"\x01", 200))], InvalidRequest, "invalid_selection", "edits[0]"),
        ([Rotate(EVERYTHING, (0, 0, 0), 10)], InvalidRequest, "invalid_edit", "edits[0]"),
        ([Rotate(EVERYTHING, (0, 0, 1), math.inf)], InvalidRequest, "invalid_edit", "edits[0]"),
        ([Scale(EVERYTHING, 0)], InvalidRequest, "invalid_edit", "edits[0]"),
        ([Scale(EVERYTHING, 1e30)], InvalidRequest, "invalid_edit", "edits[0]"),
        ([Translate(EVERYTHING, (math.nan, 0, 0))], InvalidRequest, "invalid_edit", "edits[0]"),
        ([Translate(EVERYTHING, (1e12, 0, 0))], InvalidRequest, "invalid_edit", "edits[0]"),
        ([Recolour(EVERYTHING, tint=(-1, 0, 0))], InvalidRequest, "invalid_edit", "edits[0]"),
        ([Fade(EVERYTHING, -0.1)], InvalidRequest, "invalid_edit", "edits[0]"),
        ([Duplicate(EVERYTHING, (1, 0, 0))] * 6, PayloadTooLarge, "too_many_gaussians", "edits[5]"),
        ([Merge("nobody")], NotFound, "scene_not_found", "edits[0]"),
        ([Merge("faster")], InvalidRequest, "motions_differ", "edits[0]"),
    ],
)
def test_what_cannot_be_done_is_refused(edits: list[Edit], kind: type[ArgusError], code: str, param: str) -> None:
    with pytest.raises(kind) as caught:
        edited(moving_scene(200), *edits, others={"faster": moving_scene(10, period_s=1.0)})
    assert (caught.value.code, caught.value.param) == (code, param)


def test_edits_in_words() -> None:
    edits: list[Edit] = [
        Translate(LEFT, (0, 1.5, 0)),
        Rotate(Not(Sphere((0, 0, 0), 1)), (0, 0, 1), 90),
        Merge("ball", 3),
        Crop(EVERYTHING),
        Fade(EVERYTHING, 0.5),
    ]
    assert describe(edits[:1]) == "moved a box by (0, 1.5, 0)"
    assert describe(edits) == (
        "moved a box by (0, 1.5, 0), turned all but a sphere by 90° about (0, 0, 1), merged ball version 3 and 2 more"
    )
    assert len(describe([Delete(AnyOf((All(), All())))] * 1000)) < 100
