"""The demo's scenes in 3D: what is said of them is what is drawn, from every side and at every moment."""

from __future__ import annotations

import numpy as np
import pytest

from demo import evaluate_nerf
from demo.scenes import PALETTE, contrast
from demo.scenes3d import (
    NAMES,
    PERIOD_S,
    SOLIDS,
    UP,
    Thing,
    build,
    cutouts,
    draw,
    moving,
    orbit_cameras,
    photos,
    surfaces,
)
from demo.scenes3d.make import FILES, SHIPPED, fidelity
from deployments.nerf import checkpoint
from deployments.rendering.camera import Camera, orbit
from deployments.rendering.messages import RasterOptions
from deployments.splat import formats, scene_file
from deployments.splat.cpu import CpuRasteriser

GREY = (0.5, 0.5, 0.5)


@pytest.mark.parametrize("which", [*NAMES, 0, 1, 2])
def test_scenes_are_sound_and_the_same_each_time(which: object) -> None:
    world, again = build(which), build(which)  # type: ignore[arg-type]
    scene_file.check(world.gaussians)
    assert scene_file.write(world.gaussians) == scene_file.write(again.gaussians)
    assert world.things == again.things
    assert len(world.gaussians) < 120_000
    assert np.allclose(np.linalg.norm(world.gaussians.quats, axis=1), 1, atol=1e-5)


def test_seeds_differ() -> None:
    assert build(1).things != build(2).things
    for seed in range(30):
        things = build(seed).things
        assert 3 <= len(things) <= 5
        assert len({thing.colour for thing in things}) == len(things) == len({thing.solid for thing in things})
        for number, one in enumerate(things):
            for other in things[number + 1 :]:
                # On the level, since all stand on the plate.
                apart = np.hypot(one.centre[0] - other.centre[0], one.centre[2] - other.centre[2])
                assert apart > 0.5 * (one.size + other.size), (seed, one.name, other.name)


@pytest.mark.parametrize("solid", SOLIDS)
def test_surfaces_are_covered_evenly_and_face_outwards(solid: surfaces.Solid) -> None:
    points, normals = surfaces.surface(solid, 0.05)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1)
    assert abs(points[:, 2].min()) < 0.03  # it stands on the plane
    inside, outside = points - 1e-4 * normals, points + 1e-4 * normals
    held = _contains(solid, inside)
    assert held.all()
    assert not _contains(solid, outside).any()
    distances = np.sort(np.linalg.norm(points[:, None] - points[None], axis=2), axis=1)[:, 1]
    assert distances.max() < 0.08


def _contains(solid: str, points: np.ndarray) -> np.ndarray:
    x, y, z = points.T
    level = np.hypot(x, y)
    return {
        "sphere": lambda: np.linalg.norm(points - [0, 0, 0.5], axis=1) < 0.5,
        "cube": lambda: (np.abs([x, y, z - 0.4]) < 0.4).all(0),
        "cylinder": lambda: (level < 0.4) & (z > 0) & (z < 0.9),
        "cone": lambda: (z > 0) & (level < 0.5 * (1 - z / 0.9)),
        "torus": lambda: np.hypot(np.hypot(x, z - 0.5) - 0.36, y) < 0.14,
    }[solid]()


def _seen_from(thing: Thing, azimuth_deg: float) -> Camera:
    return orbit(thing.centre, 2.0, azimuth_deg, 2.0, UP, 2 * np.degrees(np.arctan(0.35 * thing.size)), 64, 64)


@pytest.mark.parametrize("number", range(5))
def test_a_thing_alone_looks_like_its_label(number: int) -> None:
    """In the words of the flat scene world: its colour is nearest to its name's, and it fills what its shape fills."""
    world = build("table")
    thing = world.things[number]
    alone = world.gaussians.select(np.arange(len(world.gaussians))[thing.members])
    # A torus and a cube are seen from their front.
    turn = {"cube": 0.35, "torus": 0.6}.get(thing.solid, 0.0)
    rasteriser = CpuRasteriser()
    camera, options = _seen_from(thing, np.degrees(turn)), RasterOptions(background=GREY)
    (view,) = rasteriser.render(rasteriser.load(alone), [camera], options)
    alpha = view.alpha
    rows, columns = np.nonzero(alpha > 0.5)
    box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    filled = (alpha > 0.5).sum() / box
    low, high = {"circle": (0.74, 0.83), "square": (0.9, 1.0), "triangle": (0.47, 0.6), "ring": (0.5, 0.72)}[
        thing.looks
    ]
    assert low < filled < high
    middle = alpha[(rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2]
    assert (middle < 0.1) == (thing.looks == "ring")
    mean = tuple(float(value) for value in 255 * view.rgb[alpha > 0.98].mean(0))
    assert min(PALETTE, key=lambda name: contrast(PALETTE[name], mean)) == thing.colour  # type: ignore[arg-type]


def test_members_are_where_their_thing_is() -> None:
    for which in ("table", "studio", 7):
        world = build(which)  # type: ignore[arg-type]
        ends = 0
        for thing in world.things:
            assert thing.members.start == ends
            ends = thing.members.stop
            means = world.gaussians.means[thing.members]
            assert np.abs((means.min(0) + means.max(0)) / 2 - thing.centre).max() < 1e-5
            assert np.ptp(means, axis=0).max() <= 1.15 * thing.size  # a cube that is turned
        assert ends < len(world.gaussians)


@pytest.mark.parametrize("moment", [0.0, 0.7, 1.0, 2.0, 3.3])
def test_the_carousel_moves_rigidly(moment: float) -> None:
    world = moving()
    assert world.gaussians.motion is not None and world.gaussians.motion.period_s == PERIOD_S
    still, moved = world.gaussians.means, world.gaussians.at(moment).means
    turn = 2 * np.pi * moment / PERIOD_S
    sphere, torus, cone, cube = world.things

    def turned(points: np.ndarray, about: np.ndarray) -> np.ndarray:
        """Counter-clockwise seen from above, where y points down."""
        x, z = (points - about)[:, 0], (points - about)[:, 2]
        level = np.stack([x * np.cos(turn) - z * np.sin(turn), x * np.sin(turn) + z * np.cos(turn)], 1)
        return np.stack([level[:, 0] + about[0], points[:, 1], level[:, 1] + about[2]], 1)

    centre = turned(np.array([sphere.centre]), np.zeros(3))[0]
    assert np.allclose(moved[sphere.members] - still[sphere.members], centre - sphere.centre, atol=1e-5)
    assert np.allclose(moved[torus.members], turned(still[torus.members], np.array(torus.centre)), atol=1e-5)
    lift = (moved - still)[cone.members]
    assert np.allclose(lift, [0, -0.2 * (1 - np.cos(turn)), 0], atol=1e-5)
    assert np.array_equal(moved[cube.members], still[cube.members])
    assert np.allclose(world.gaussians.at(moment + PERIOD_S).means, moved, atol=1e-4)


def test_a_turning_ring_is_drawn_as_the_ring_turned() -> None:
    """Its discs turn with it: a quarter of a turn later it is seen from where it was seen from the side."""
    world = moving()
    torus = world.things[1]
    ring = world.gaussians.select(np.arange(len(world.gaussians))[torus.members])
    front, side = (draw(ring, [_seen_from(torus, azimuth)], GREY)[0].astype(int) for azimuth in (0, 90))
    later = draw(ring, [_seen_from(torus, 0)], GREY, time_s=PERIOD_S / 4)[0].astype(int)
    covered = [(np.abs(picture - 128).max(2) > 30) for picture in (front, side, later)]
    assert (covered[1] != covered[2]).mean() < 0.02
    assert (covered[0] != covered[2]).mean() > 0.1


def test_cutouts_are_the_picture_before_any_background() -> None:
    world, cameras = build("table"), orbit_cameras(2, 48, 48)
    for cutout, before in zip(cutouts(world.gaussians, cameras), draw(world.gaussians, cameras, GREY), strict=True):
        colours, alpha = cutout[..., :3] / 255, cutout[..., 3:] / 255
        assert np.abs(colours * alpha + 0.5 * (1 - alpha) - before / 255).max() < 0.012
        assert (alpha == 0).any() and (alpha > 0.99).any()


def test_photos_are_textured_all_over_and_agree_with_their_cameras() -> None:
    shots = photos(3, 160, 120)
    assert [shot.name for shot in shots] == ["photo_000.png", "photo_001.png", "photo_002.png"]
    for shot in shots:
        assert shot.pixels.shape == (120, 160, 3)
        tiles = shot.pixels.reshape(6, 20, 8, 20, 3).astype(float).std(axis=(1, 3)).max(-1)
        assert tiles.min() > 4
        # The red sphere is where its camera says.
        sphere = build("studio").things[0]
        seen = shot.camera.world_to_camera @ [*sphere.centre, 1]
        column, row = shot.camera.fx * seen[0] / seen[2] + 80, shot.camera.fy * seen[1] / seen[2] + 60
        red, green, blue = shot.pixels[int(row), int(column)]
        hidden = shot.name == "photo_001.png" and red < 120
        assert hidden or (red > 140 and green < 90 and blue < 90)


@pytest.mark.parametrize("filename", SHIPPED)
def test_a_shipped_scene_is_what_the_code_makes(filename: str) -> None:
    name, format = SHIPPED[filename]
    world, data = build(name), (FILES / filename).read_bytes()
    assert formats.detect(data) == format
    kept = formats.read(data, format, max_gaussians=100_000)
    assert len(kept) == len(world.gaussians)
    assert fidelity(world.gaussians, kept) > 45
    assert (kept.motion is None) == (world.gaussians.motion is None)


def test_the_shipped_field_shows_the_table() -> None:
    field = checkpoint.read((FILES / "ring.nerf").read_bytes())
    assert field.settings.variant == "hash"
    assert evaluate_nerf.measure(field, "table", 128, count=1).psnr > 32
