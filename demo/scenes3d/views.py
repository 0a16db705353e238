"""Views of the demo scenes: cameras around them, and pictures drawn on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.scenes3d.world import UP, build
from deployments.rendering.camera import Camera, orbit
from deployments.rendering.messages import RasterOptions
from deployments.splat.gaussians import Gaussians
from deployments.splat.rasteriser import make_rasteriser

Vector = tuple[float, float, float]
Pixels = NDArray[np.uint8]

#: A little above the plate's middle, and far enough away that all of it is seen.
TARGET: Vector = (0.0, -0.15, 0.0)
RADIUS = 3.6
FOV_Y_DEG = 45.0
WHITE: Vector = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A picture (height, width, 3) uint8 and the camera that took it."""

    name: str
    pixels: Pixels
    camera: Camera


def orbit_cameras(
    count: int,
    width: int = 128,
    height: int = 128,
    *,
    elevations: tuple[float, ...] = (20.0, 40.0, 60.0),
    target: Vector = TARGET,
    radius: float = RADIUS,
    fov_y_deg: float = FOV_Y_DEG,
    start_deg: float = 0.0,
) -> list[Camera]:
    """Cameras around the scene at equal angles; elevations, in degrees, are taken in turn."""
    return [
        orbit(
            target,
            radius,
            start_deg + 360 * number / count,
            elevations[number % len(elevations)],
            UP,
            fov_y_deg,
            width,
            height,
        )
        for number in range(count)
    ]


def draw(
    gaussians: Gaussians, cameras: Sequence[Camera], background: Vector = WHITE, time_s: float = 0.0
) -> list[Pixels]:
    """A picture (height, width, 3) uint8 a camera."""
    rasteriser = make_rasteriser("cpu")
    views = rasteriser.render(rasteriser.load(gaussians), cameras, RasterOptions(background=background), time_s)
    return [(np.clip(view.rgb, 0, 1) * 255 + 0.5).astype(np.uint8) for view in views]


def cutouts(gaussians: Gaussians, cameras: Sequence[Camera]) -> list[Pixels]:
    """A transparent picture (height, width, 4) uint8 a camera; colours are not multiplied by alpha."""
    rasteriser = make_rasteriser("cpu")
    pictures = []
    for view in rasteriser.render(rasteriser.load(gaussians), cameras, RasterOptions()):
        colours = view.rgb / np.maximum(view.alpha, 1 / 255)[..., None]
        together = np.concatenate([colours, view.alpha[..., None]], 2)
        pictures.append((np.clip(together, 0, 1) * 255 + 0.5).astype(np.uint8))
    return pictures


def photos(
    count: int = 24, width: int = 480, height: int = 360, *, elevations: tuple[float, ...] = (24.0, 38.0)
) -> list[Photo]:
    """Photos of the studio with their true poses: textured all over, each overlapping its neighbours widely."""
    cameras = orbit_cameras(count, width, height, elevations=elevations, radius=3.0, fov_y_deg=50.0)
    drawn = draw(build("studio").gaussians, cameras)
    return [
        Photo(f"photo_{number:03}.png", pixels, camera)
        for number, (pixels, camera) in enumerate(zip(drawn, cameras, strict=True))
    ]
