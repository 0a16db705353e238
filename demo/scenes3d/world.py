"""Scenes in 3D whose contents are known exactly: coloured solids on a plate, made of Gaussians.

A surface is covered with thin discs that lie in it, and light is painted onto them, so every view agrees with every
other. From the side a sphere looks like the scene world's circle, a cube like its square, a cone like its triangle and
a standing torus like its ring. The world's y axis points down, as is customary where photos become scenes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from demo.scenes.world import BACKGROUNDS, COLOURS, PALETTE, Colour, Shape
from demo.scenes3d import surfaces
from demo.scenes3d.surfaces import SOLIDS, Solid, Surface
from demo.scenes3d.texture import checker, noise
from deployments.splat.gaussians import SH_C0, Gaussians, concatenate
from deployments.splat.motion import Motion

Floats = NDArray[np.float64]
Name = Literal["table", "carousel", "studio"]
Vector = tuple[float, float, float]

NAMES: tuple[Name, ...] = get_args(Name)
UP: Vector = (0.0, -1.0, 0.0)
#: What a solid looks like from the side; a cylinder is as wide as it is high.
LOOKS: dict[Solid, Shape] = {
    "sphere": "circle",
    "cube": "square",
    "cylinder": "square",
    "cone": "triangle",
    "torus": "ring",
}
PLATE_RADIUS = 1.25
#: Seconds after which the carousel is where it was.
PERIOD_S = 4.0

#: From the frame of `surfaces`, where z is up, to the world's.
_TO_WORLD = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
_LIGHT = np.array([0.35, 0.5, 0.79])
#: So light that a colour's name stays right on the side away from the light.
_AMBIENT, _DIRECT = 0.8, 0.25
#: A disc's deviation beside the distance to its neighbours, and its thickness beside that.
_SPREAD, _THICKNESS = 0.58, 0.12
_SPACING = 0.022
_PLATE_THICKNESS = 0.06


@dataclass(frozen=True, slots=True)
class Thing:
    """One solid.

    Attributes:
        looks: its shape in the words of `demo.scenes`, from the side.
        centre: of its box, in the world.
        size: its width, in the world's unit.
        members: where its Gaussians are.
    """

    solid: Solid
    colour: Colour
    looks: Shape
    centre: Vector
    size: float
    members: slice

    @property
    def name(self) -> str:
        """Such as `red cube`."""
        return f"{self.colour} {self.solid}"

    @property
    def label(self) -> str:
        """What the demo models call it, such as `red square`."""
        return f"{self.colour} {self.looks}"


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """A scene and what is in it. Gaussians that belong to no thing are the plate and, in the studio, the room."""

    gaussians: Gaussians
    things: tuple[Thing, ...]


@dataclass(frozen=True, slots=True)
class _Placed:
    """A solid to be made; x and y are level, `turn` is about the vertical axis, in radians."""

    solid: Solid
    colour: Colour
    x: float
    y: float
    size: float
    turn: float = 0.0


_TABLE = (
    _Placed("sphere", "red", -0.62, 0.38, 0.52),
    _Placed("cube", "blue", 0.58, 0.42, 0.5, 0.35),
    _Placed("cone", "green", 0.0, -0.62, 0.62),
    _Placed("torus", "yellow", -0.62, -0.42, 0.56, 0.6),
    _Placed("cylinder", "purple", 0.72, -0.36, 0.4),
)
_CAROUSEL = (
    _Placed("sphere", "red", 0.82, 0.0, 0.42),
    _Placed("torus", "yellow", 0.0, 0.0, 0.6),
    _Placed("cone", "green", -0.75, -0.45, 0.44),
    _Placed("cube", "blue", -0.55, 0.7, 0.42, 0.4),
)


def build(which: Name | int) -> World:
    """A scene by name, or one drawn from a seed; the same argument gives the same scene.

    `table` has one solid of each kind; `carousel` moves: the sphere circles, the torus spins, the cone bobs; `studio`
    is the table in a room whose floor and wall have the texture that structure from motion needs.
    """
    if which == "carousel":
        return moving()
    if which == "studio":
        return _assembled(_TABLE, [_floor(), _room()], speckle=0.12)
    placed = _TABLE if which == "table" else _drawn(int(which))
    return _assembled(placed, [_plate()])


def moving() -> World:
    """The carousel: everything comes back to its place after `PERIOD_S` seconds."""
    still = _assembled(_CAROUSEL, [_plate(1.35 * _SPACING)])
    waves = np.zeros((len(still.gaussians), 1, 2, 3))
    turns = np.zeros((len(still.gaussians), 3))
    sphere, torus, cone, _ = still.things
    axis = np.asarray(UP)
    level = np.asarray(sphere.centre) * [1, 0, 1]
    waves[sphere.members, 0] = np.cross(axis, level), level
    from_axis = (still.gaussians.means[torus.members] - torus.centre) * [1, 0, 1]
    waves[torus.members, 0] = np.stack([np.cross(axis, from_axis), from_axis], 1)
    turns[torus.members] = axis
    waves[cone.members, 0, 1] = -0.2 * axis
    motion = Motion(PERIOD_S, waves.astype(np.float32), turns.astype(np.float32))
    return World(replace(still.gaussians, motion=motion), still.things)


def _drawn(seed: int) -> tuple[_Placed, ...]:
    """Three to five solids apart from each other, no two of one colour or, by label, alike."""
    rng = np.random.default_rng([seed, 3])
    colours = [COLOURS[number] for number in rng.permutation(len(COLOURS))]
    solids = [SOLIDS[number] for number in rng.permutation(len(SOLIDS))]
    placed: list[_Placed] = []
    start = float(rng.uniform(0, 2 * math.pi))
    count = int(rng.integers(3, 6))
    for number in range(count):
        angle = start + 2 * math.pi * (number + float(rng.uniform(-0.15, 0.15))) / count
        reach = float(rng.uniform(0.62, 0.8))
        size = float(rng.uniform(0.36, 0.58))
        turn = float(rng.uniform(0, math.pi))
        x, y = reach * math.cos(angle), reach * math.sin(angle)
        placed.append(_Placed(solids[number], colours[number], x, y, size, turn))
    return tuple(placed)


def _assembled(placed: tuple[_Placed, ...], surroundings: list[Gaussians], speckle: float = 0.0) -> World:
    parts, things = [], []
    start = 0
    for number, item in enumerate(placed):
        part, thing = _made(item, start, speckle, number)
        parts.append(part)
        things.append(thing)
        start += len(part)
    return World(concatenate([*parts, *surroundings]), tuple(things))


def _made(item: _Placed, start: int, speckle: float, seed: int) -> tuple[Gaussians, Thing]:
    points, normals = surfaces.surface(item.solid, _SPACING / item.size)
    colours = np.tile(_rgb(PALETTE[item.colour]), (len(points), 1))
    if speckle:
        places = np.stack([np.arctan2(points[:, 1], points[:, 0]), points[:, 2] * 3], 1)
        colours = np.clip(colours + speckle * noise(places, 90 + seed, (0.15, 0.3)), 0, 1)
    cos, sin = math.cos(item.turn), math.sin(item.turn)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    points, normals = item.size * points @ turn.T + [item.x, item.y, 0], normals @ turn.T
    part = _discs((points, normals), colours, _SPACING)
    least, most = part.means.min(0), part.means.max(0)
    centre = tuple(float(value) for value in (least + most) / 2)
    members = slice(start, start + len(part))
    return part, Thing(
        item.solid, item.colour, LOOKS[item.solid], (centre[0], centre[1], centre[2]), item.size, members
    )


def _plate(spacing: float = _SPACING) -> Gaussians:
    """A round plate, muted so that what stands on it is what is seen."""
    top = surfaces.disc(spacing, PLATE_RADIUS)
    rim, normals = surfaces.cylinder(spacing, PLATE_RADIUS, _PLATE_THICKNESS)
    low = np.abs(normals[:, 2]) < 0.5
    under = surfaces.disc(2 * spacing, PLATE_RADIUS, -_PLATE_THICKNESS)
    plain = _rgb(BACKGROUNDS["beige"])
    return concatenate(
        [
            _discs(top, _board(top[0][:, :2], 0.07), spacing),
            _discs((rim[low] - [0, 0, _PLATE_THICKNESS], normals[low]), np.tile(plain, (int(low.sum()), 1)), spacing),
            _discs((under[0], -under[1]), np.tile(plain, (len(under[0]), 1)), 2 * spacing),
        ]
    )


def _board(places: Floats, strength: float) -> Floats:
    """Fields of beige and slate with grain over them."""
    light, dark = _rgb(BACKGROUNDS["beige"]), _rgb(BACKGROUNDS["slate"])
    mixed = np.where(checker(places, 0.25)[:, None] > 0, light, dark)
    return np.clip(mixed + strength * noise(places, 1, (0.05, 0.1, 0.2)), 0, 1)


def _floor() -> Gaussians:
    """Fine where the cameras look, coarse beyond."""
    parts = []
    for spacing, inner, outer in ((0.024, 0.0, 2.4), (0.055, 2.4, 5.0)):
        points, normals = surfaces.disc(spacing, outer)
        points = points[np.linalg.norm(points[:, :2], axis=1) >= inner]
        colours = np.clip(0.5 + 0.5 * noise(points[:, :2], 2, (0.07, 0.14, 0.3)), 0, 1)
        parts.append(_discs((points, normals[: len(points)]), colours, spacing))
    return concatenate(parts)


def _room() -> Gaussians:
    spacing, radius = 0.055, 5.0
    points, normals = surfaces.wall(spacing, radius, 3.5)
    places = np.stack([np.arctan2(points[:, 1], points[:, 0]) * radius, points[:, 2]], 1)
    colours = np.clip(0.5 + 0.5 * noise(places, 3, (0.16, 0.32, 0.64)), 0, 1)
    return _discs((points, normals), colours, spacing)


def _discs(surface: Surface, colours: Floats, spacing: float) -> Gaussians:
    """Thin Gaussians in a surface, lit from above and one side."""
    points, normals = surface
    shade = _AMBIENT + _DIRECT * np.maximum(normals @ _LIGHT, 0) / np.linalg.norm(_LIGHT)
    across = _SPREAD * spacing
    count = len(points)
    return Gaussians(
        np.ascontiguousarray(points @ _TO_WORLD.T, np.float32),
        _facing(normals @ _TO_WORLD.T),
        np.tile(np.float32([across, across, _THICKNESS * across]), (count, 1)),
        np.full(count, 0.97, np.float32),
        np.ascontiguousarray(((np.minimum(colours * shade[:, None], 1) - 0.5) / SH_C0)[:, None, :], np.float32),
    )


def _facing(normals: Floats) -> NDArray[np.float32]:
    """Quaternions that turn the z axis into unit normals (N, 3) the short way."""
    x, y, z = normals.T
    quats = np.stack([1 + z, -y, x, np.zeros_like(z)], 1)
    quats[z < -1 + 1e-9] = 0.0, 1.0, 0.0, 0.0
    return np.ascontiguousarray(quats / np.linalg.norm(quats, axis=1, keepdims=True), np.float32)


def _rgb(colour: tuple[float, float, float]) -> Floats:
    return np.asarray(colour, np.float64) / 255
