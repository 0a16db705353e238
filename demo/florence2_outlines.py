"""Outlines of the shapes of the scene world: polygons of at most 14 corners, which a small model can write down."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from demo.scenes import SceneObject, Shape

#: A circle of twelve corners whose area is a circle's of radius one.
_ROUND = math.sqrt(2.0 * math.pi / (12 * math.sin(2.0 * math.pi / 12)))


def outline(item: SceneObject) -> NDArray[np.float64]:
    """The corners (x, y) of an object, fractions of the image side, clockwise from the topmost: (corners, 2) float64.

    A ring's is its outer edge: a polygon has no hole.
    """
    corners = np.array(_corners(item.shape))
    if item.shape not in ("circle", "ring"):
        cos, sin = math.cos(item.rotation), math.sin(item.rotation)
        corners = corners @ np.array([[cos, sin], [-sin, cos]])
    corners = np.clip(corners * item.size + (item.x, item.y), 0.0, 1.0)
    return np.roll(corners, -int(corners[:, 1].argmin()), axis=0)


@lru_cache(maxsize=16)
def _corners(shape: Shape) -> tuple[tuple[float, float], ...]:
    """The corners in the shape's own frame, clockwise on the screen; the numbers are those of demo.scenes.render."""
    match shape:
        case "circle" | "ring":
            return _arc(0.0, 0.46 * _ROUND, -90.0, 240.0, 12)
        case "square":
            return ((-0.41, -0.41), (0.41, -0.41), (0.41, 0.41), (-0.41, 0.41))
        case "triangle":
            return ((0.0, -0.54), (0.525, 0.37), (-0.525, 0.37))
        case "star":
            outer, inner = _arc(0.0, 0.5, -90.0, 198.0, 5), _arc(0.0, 0.215, -54.0, 234.0, 5)
            return tuple(corner for pair in zip(outer, inner, strict=True) for corner in pair)
        case "cross":
            long, short = 0.46, 0.15
            quarter = ((short, -long), (short, -short), (long, -short))
            turns = ((1, 0), (0, 1), (-1, 0), (0, -1))
            return tuple((u * cos - v * sin, u * sin + v * cos) for cos, sin in turns for u, v in quarter)
        case "heart":
            lobe = tuple((u + 0.22, v - 0.16) for u, v in _arc(0.0, 0.245, -156.0, 45.0, 5))
            mirrored = tuple((-u, v) for u, v in reversed(lobe[1:]))
            return (*lobe, (0.0, 0.4), *mirrored)
        case "crescent":
            outside = _arc(0.0, 0.47, 53.0, 307.0, 9)
            inside = _arc(0.24, 0.37, 264.5, 95.5, 5)
            return (*outside, *inside[1:-1])


def _arc(u: float, radius: float, start: float, end: float, count: int) -> tuple[tuple[float, float], ...]:
    """Points on a circle around (u, 0), from one angle to another in degrees, clockwise on the screen if it grows."""
    angles = np.radians(np.linspace(start, end, count))
    return tuple((u + radius * math.cos(angle), radius * math.sin(angle)) for angle in angles)
