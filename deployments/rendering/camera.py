"""Pinhole cameras in OpenCV's convention: x to the right, y down, z forward; the first pixel has its centre at 0.5."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Vector = tuple[float, float, float]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """One camera.

    Attributes:
        width, height: of the picture, in pixels.
        fx, fy, cx, cy: focal lengths and principal point, in pixels.
        world_to_camera: (4, 4) float64, rigid: a rotation and a translation.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    world_to_camera: Float64

    @property
    def position(self) -> Float64:
        """(3,) float64: where the camera stands in the world."""
        rotation, translation = self.world_to_camera[:3, :3], self.world_to_camera[:3, 3]
        return -rotation.T @ translation

    @property
    def intrinsics(self) -> Float64:
        """(3, 3) float64: the matrix K."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def resized(self, width: int, height: int) -> Camera:
        """The same view on another grid of pixels."""
        across, down = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * across,
            fy=self.fy * down,
            cx=self.cx * across,
            cy=self.cy * down,
        )


def look_at(eye: Vector, target: Vector, up: Vector, fov_y_deg: float, width: int, height: int) -> Camera:
    """A camera at `eye` that has `target` in the middle of its picture and `up` towards the picture's top.

    Args:
        fov_y_deg: vertical field of view, in degrees.

    Raises:
        ValueError: the eye is the target, or `up` is along the line of sight.
    """
    forward = np.subtract(target, eye).astype(np.float64)
    distance = float(np.linalg.norm(forward))
    if not distance > 0:
        raise ValueError("the camera stands on its target")
    forward /= distance
    right = np.cross(forward, np.asarray(up, np.float64))
    breadth = float(np.linalg.norm(right))
    if not breadth > 1e-9 * float(np.linalg.norm(up)):
        raise ValueError("up is along the line of sight")
    right /= breadth
    rotation = np.stack([right, np.cross(forward, right), forward])
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ np.asarray(eye, np.float64)
    focal = 0.5 * height / math.tan(math.radians(fov_y_deg) / 2)
    return Camera(width, height, focal, focal, width / 2, height / 2, pose)


def orbit(
    target: Vector,
    radius: float,
    azimuth_deg: float,
    elevation_deg: float,
    up: Vector,
    fov_y_deg: float,
    width: int,
    height: int,
) -> Camera:
    """A camera on a sphere around `target`.

    Args:
        azimuth_deg: around `up`, counter-clockwise when seen from above; 0 is the direction of `side_of(up)`.
        elevation_deg: above the plane through `target`, from -90 to 90, both excluded.
    """
    axis = np.asarray(up, np.float64) / np.linalg.norm(up)
    side = side_of(up)
    across = np.cross(axis, side)
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    level = math.cos(azimuth) * side + math.sin(azimuth) * across
    eye = np.asarray(target, np.float64) + radius * (math.cos(elevation) * level + math.sin(elevation) * axis)
    return look_at(_vector(eye), target, up, fov_y_deg, width, height)


def side_of(up: Vector) -> Float64:
    """(3,) float64: the unit vector at right angles to `up` from which azimuths are counted: as near to z as can be, or
    to x where `up` is along z."""
    axis = np.asarray(up, np.float64) / np.linalg.norm(up)
    start = np.array([1.0, 0.0, 0.0]) if abs(axis[2]) > 0.9 else np.array([0.0, 0.0, 1.0])
    side = start - (start @ axis) * axis
    return np.asarray(side / np.linalg.norm(side))


def _vector(values: Float64) -> Vector:
    return float(values[0]), float(values[1]), float(values[2])
