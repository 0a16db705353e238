"""What a renderer refuses before it draws: what no camera is, and what is beyond its bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from deployments.rendering.camera import Camera
from deployments.rendering.messages import RasterOptions
from serve.errors import InvalidRequest

# How far a rotation that was written with few digits may be from one.
_RIGID: Final = 1e-3


def check_count(cameras: Sequence[Camera], max_views: int) -> None:
    """Raises `InvalidRequest` (`too_many_inputs`, `invalid_field`) unless there are 1 to `max_views` cameras."""
    if not cameras:
        raise InvalidRequest("There is no camera; at least one is needed.", code="invalid_field", param="cameras")
    if len(cameras) > max_views:
        raise InvalidRequest(
            f"There are {len(cameras)} cameras; at most {max_views} are drawn in one request.",
            code="too_many_inputs",
            param="cameras",
        )


def check_all(cameras: Sequence[Camera], max_views: int, max_pixels: int) -> None:
    """The same and, for each camera, `check_camera`; for requests that one bad camera spoils."""
    check_count(cameras, max_views)
    for i, camera in enumerate(cameras):
        try:
            check_camera(camera, max_pixels)
        except InvalidRequest as error:
            raise error.at(f"cameras[{i}]") from None


def check_camera(camera: Camera, max_pixels: int) -> None:
    """Raises `InvalidRequest` (`too_many_pixels`, `invalid_camera`) for a camera that cannot be, or is too large."""
    if camera.width < 1 or camera.height < 1:
        raise _no_camera(f"its picture has {camera.width} x {camera.height} pixels")
    if camera.width * camera.height > max_pixels:
        raise InvalidRequest(
            f"{camera.width} x {camera.height} are {camera.width * camera.height:,} pixels; a view has at most "
            f"{max_pixels:,}.",
            code="too_many_pixels",
        )
    if not all(map(math.isfinite, (camera.fx, camera.fy, camera.cx, camera.cy))) or min(camera.fx, camera.fy) <= 0:
        raise _no_camera("focal lengths are finite and above 0, the principal point is finite")
    pose = camera.world_to_camera
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise _no_camera("world_to_camera is 4 x 4 finite numbers")
    rotation = pose[:3, :3]
    turned = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if turned > _RIGID or np.linalg.det(rotation) < 0 or np.abs(pose[3] - (0, 0, 0, 1)).max() > _RIGID:
        raise _no_camera("world_to_camera is a rotation and a translation, without scale or mirroring")


def check_options(options: RasterOptions) -> None:
    """Raises `InvalidRequest` (`invalid_field`) for options that nothing can be drawn with."""
    if not 0 < options.near < options.far:
        raise InvalidRequest(
            f"near is {options.near:g} and far {options.far:g}; 0 < near < far is right.",
            code="invalid_field",
            param="near",
        )
    if not np.isfinite(options.background).all():
        raise InvalidRequest("The background is three finite numbers.", code="invalid_field", param="background")
    if not options.radius_clip >= 0:
        raise InvalidRequest("radius_clip is 0 or more pixels.", code="invalid_field", param="radius_clip")


def _no_camera(why: str) -> InvalidRequest:
    return InvalidRequest(f"This camera cannot be: {why}.", code="invalid_camera")
