"""Cameras as clients name them, and the pinhole cameras that they mean in a scene.

Angles are in degrees, places in the scene's own unit. Matrices are OpenCV's: x to the right, y down, z forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from deployments.rendering import camera as pinhole
from deployments.rendering.camera import Camera, Vector
from deployments.scenes.types import Bounds
from serve.errors import InvalidRequest

FOV_DEG: Final = 50.0
AZIMUTH_DEG: Final = 35.0
ELEVATION_DEG: Final = 20.0
# Space around a scene whose camera was fitted to it, as a share of its radius.
_MARGIN: Final = 1.05
# How far a rotation may be from an orthogonal matrix: those that clients write have a few digits.
_RIGID: Final = 1e-3
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LookAt:
    """A camera at `eye` with `target` in the middle; see `deployments.rendering.camera.look_at`.

    Attributes:
        up: the scene's own when None.
        fov_deg: vertical.
    """

    eye: Vector
    target: Vector
    up: Vector | None = None
    fov_deg: float = FOV_DEG


@dataclass(frozen=True, slots=True)
class Orbit:
    """A camera on a sphere around `target`; see `deployments.rendering.camera.orbit`.

    Attributes:
        radius: from which the whole scene is seen, when None.
        target: the middle of the scene when None.
    """

    azimuth_deg: float = AZIMUTH_DEG
    elevation_deg: float = ELEVATION_DEG
    radius: float | None = None
    target: Vector | None = None
    fov_deg: float = FOV_DEG


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """A camera as matrices.

    Attributes:
        intrinsics: (3, 3), for pictures of the size asked for.
        world_to_camera: (4, 4).
    """

    intrinsics: Matrix
    world_to_camera: Matrix


View = LookAt | Orbit | Calibrated


def placed(view: View, bounds: Bounds, up: Vector, width: int, height: int, param: str) -> Camera:
    """The camera in a scene.

    Args:
        bounds, up: of the scene.
        width, height: of the picture, in pixels.
        param: the request's field, for messages.

    Raises:
        InvalidRequest: `invalid_camera`.
    """
    if isinstance(view, Calibrated):
        return _calibrated(view, width, height, param)
    try:
        if isinstance(view, LookAt):
            return pinhole.look_at(view.eye, view.target, view.up or up, view.fov_deg, width, height)
        radius = view.radius or fitting_radius(bounds, view.fov_deg, width / height)
        target = view.target or bounds.centre
        return pinhole.orbit(target, radius, view.azimuth_deg, view.elevation_deg, up, view.fov_deg, width, height)
    except ValueError as error:
        raise InvalidRequest(f"The camera cannot stand so: {error}.", code="invalid_camera", param=param) from None


def fitting_radius(bounds: Bounds, fov_deg: float, aspect: float) -> float:
    """The distance from which a camera sees the sphere around a scene.

    Args:
        fov_deg: vertical.
        aspect: width of the picture over its height.
    """
    half = math.radians(fov_deg) / 2
    half = min(half, math.atan(math.tan(half) * aspect))
    return _MARGIN * (bounds.radius or 1.0) / math.sin(half)


def from_camera(camera_to_world: Matrix) -> Matrix:
    """(4, 4) the other way round: world to camera."""
    pose = np.eye(4)
    rotation = camera_to_world[:3, :3].T
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ camera_to_world[:3, 3]
    return pose


def rigid(pose: Matrix, param: str) -> Matrix:
    """The rotation and translation that a (4, 4) matrix of few digits stands for.

    Its rotation is the nearest one (Schönemann 1966, orthogonal Procrustes): what is inverted by transposing must be a
    rotation to the last digit, else a camera far from the origin stands somewhere else than was said.

    Raises:
        InvalidRequest: `invalid_camera`: it is further from one than rounding explains.
    """
    rotation = pose[:3, :3]
    close = np.allclose(rotation @ rotation.T, np.eye(3), atol=_RIGID) and np.linalg.det(rotation) > 0
    if not (np.isfinite(pose).all() and close and np.allclose(pose[3], (0, 0, 0, 1), atol=_RIGID)):
        raise InvalidRequest(
            "The matrix must be a rotation and a translation: three orthogonal unit rows of determinant 1, and a last "
            "row of 0, 0, 0, 1.",
            code="invalid_camera",
            param=param,
        )
    left, _, right = np.linalg.svd(rotation)
    found = np.eye(4)
    found[:3, :3] = left @ right
    found[:3, 3] = pose[:3, 3]
    return found


def _calibrated(view: Calibrated, width: int, height: int, param: str) -> Camera:
    pose = rigid(view.world_to_camera, f"{param}.world_to_camera")
    k = view.intrinsics
    plain = np.array([[k[0, 0], 0, k[0, 2]], [0, k[1, 1], k[1, 2]], [0, 0, 1]])
    if not (np.isfinite(k).all() and np.allclose(k, plain, atol=1e-6) and k[0, 0] > 0 and k[1, 1] > 0):
        raise InvalidRequest(
            "The intrinsics must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels, with focal lengths above 0.",
            code="invalid_camera",
            param=f"{param}.intrinsics",
        )
    fx, fy, cx, cy = (float(value) for value in (k[0, 0], k[1, 1], k[0, 2], k[1, 2]))
    return Camera(width, height, fx, fy, cx, cy, pose)
