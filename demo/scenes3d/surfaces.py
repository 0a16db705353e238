"""Points spread evenly over the surfaces of solids, with their normals.

A solid stands on the plane of height 0 around the vertical axis, in a frame with x and y level and z up, and is one
unit wide and high unless said otherwise. Where points lie `spacing` apart, each stands for spacing squared of surface.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: Points (N, 3) and unit normals (N, 3).
Surface = tuple[Floats, Floats]
Solid = Literal["sphere", "cube", "cylinder", "cone", "torus"]

SOLIDS: tuple[Solid, ...] = get_args(Solid)
_GOLDEN = math.pi * (3 - math.sqrt(5))
#: Of the tube, beside the torus's outer radius of a half.
_TUBE = 0.14


def surface(solid: Solid, spacing: float) -> Surface:
    """The surface of a solid, its points about `spacing` apart."""
    return _SURFACES[solid](spacing)


def sphere(spacing: float) -> Surface:
    """A Fibonacci lattice."""
    count = max(math.ceil(math.pi / spacing**2), 8)
    index = np.arange(count)
    height = 1 - (2 * index + 1) / count
    level = np.sqrt(1 - height**2)
    normals = np.stack([level * np.cos(_GOLDEN * index), level * np.sin(_GOLDEN * index), height], 1)
    return 0.5 * normals + [0, 0, 0.5], normals


def cube(spacing: float) -> Surface:
    """Six grids."""
    across = _line(0.8, spacing)
    u, v = (axis.ravel() for axis in np.meshgrid(across, across))
    half = np.full_like(u, 0.4)
    points, normals = [], []
    for axis in range(3):
        for side in (-1.0, 1.0):
            points.append(np.roll(np.stack([side * half, u, v], 1), axis, 1))
            normals.append(np.tile(side * np.eye(3)[axis], (len(u), 1)))
    raised = np.concatenate(points)
    raised[:, 2] += 0.4
    return raised, np.concatenate(normals)


def cylinder(spacing: float, radius: float = 0.4, height: float = 0.9) -> Surface:
    """Rings between two discs."""
    angle, level = _rings(np.full(max(round(height / spacing), 1), radius), spacing)
    out = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], 1)
    rows = (level + 0.5) * (height / max(round(height / spacing), 1))
    return _joined(
        (radius * out + rows[:, None] * [0, 0, 1], out),
        disc(spacing, radius, height),
        _downward(disc(spacing, radius)),
    )


def cone(spacing: float) -> Surface:
    """Rings that shrink towards the tip, over a disc."""
    radius, height = 0.5, 0.9
    slope = math.hypot(radius, height)
    count = max(round(slope / spacing), 2)
    share = (np.arange(count) + 0.5) / count
    angle, ring = _rings(radius * (1 - share), spacing)
    out = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], 1)
    along = share[ring]
    points = (radius * (1 - along))[:, None] * out + (height * along)[:, None] * [0, 0, 1]
    return _joined((points, (height * out + [0, 0, radius]) / slope), _downward(disc(spacing, radius)))


def torus(spacing: float) -> Surface:
    """A ring that stands upright, facing along y."""
    middle = 0.5 - _TUBE
    count = max(round(2 * math.pi * _TUBE / spacing), 6)
    around = 2 * math.pi * np.arange(count) / count
    angle, ring = _rings(middle + _TUBE * np.cos(around), spacing)
    tube = around[ring]
    radial = np.stack([np.cos(angle), np.zeros_like(angle), np.sin(angle)], 1)
    normals = np.cos(tube)[:, None] * radial + np.sin(tube)[:, None] * [0, 1, 0]
    return middle * radial + _TUBE * normals + [0, 0, 0.5], normals


def disc(spacing: float, radius: float, height: float = 0.0) -> Surface:
    """A level disc that faces up: a sunflower's pattern."""
    count = max(math.ceil(math.pi * radius**2 / spacing**2), 4)
    index = np.arange(count)
    reach = radius * np.sqrt((index + 0.5) / count)
    level = np.full(count, height)
    points = np.stack([reach * np.cos(_GOLDEN * index), reach * np.sin(_GOLDEN * index), level], 1)
    return points, np.tile([0.0, 0.0, 1.0], (count, 1))


def wall(spacing: float, radius: float, height: float) -> Surface:
    """A round wall seen from inside."""
    (points, normals), count = cylinder(spacing, radius, height), max(round(height / spacing), 1)
    side = count * max(round(2 * math.pi * radius / spacing), 3)
    return points[:side], -normals[:side]


def _line(length: float, spacing: float) -> Floats:
    """Middles of equal parts of a length around 0."""
    count = max(round(length / spacing), 1)
    return ((np.arange(count) + 0.5) / count - 0.5) * length


def _rings(radii: Floats, spacing: float) -> tuple[Floats, NDArray[np.intp]]:
    """Angles of points on rings, each ring turned against the one before, and which ring each is on."""
    angles, rings = [], []
    for number, radius in enumerate(radii):
        count = max(round(2 * math.pi * radius / spacing), 3)
        angles.append(2 * math.pi * (np.arange(count) + 0.5 * (number % 2)) / count)
        rings.append(np.full(count, number))
    return np.concatenate(angles), np.concatenate(rings)


def _joined(*parts: Surface) -> Surface:
    return np.concatenate([points for points, _ in parts]), np.concatenate([normals for _, normals in parts])


def _downward(part: Surface) -> Surface:
    return part[0], -part[1]


_SURFACES: dict[Solid, Callable[[float], Surface]] = {
    "sphere": sphere,
    "cube": cube,
    "cylinder": cylinder,
    "cone": cone,
    "torus": torus,
}
