"""A film around a finished scene that stays where photos were taken: elsewhere nothing is known to look right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from deployments.reconstruction.views import UP, Float64, Views
from deployments.rendering.camera import Camera, look_at, side_of
from deployments.rendering.film import FilmWriter

UInt8 = npt.NDArray[np.uint8]

FPS: Final = 24.0
_FRAMES: Final = 96
_SIDE: Final = 640
_QUALITY: Final = 85
# An arc wider than this, in degrees, without a gap is a whole circle.
_ROUND: Final = 300.0


def turntable(views: Views, side: int, draw: Callable[[Camera], UInt8], tell: Callable[[int, int], None]) -> bytes:
    """An MP4: around the scene where the photos go around it, to and fro where they do not.

    Args:
        side: longest side of the frames at most, in pixels.
        draw: a view as (height, width, 3) uint8.
    """
    cameras = path(views, min(side, _SIDE))
    film = FilmWriter(cameras[0].width, cameras[0].height, FPS, len(cameras), _QUALITY)
    for number, camera in enumerate(cameras):
        tell(number, len(cameras))
        film.add(draw(camera))
    return film.finish()


def path(views: Views, side: int) -> list[Camera]:
    """The film's cameras: at the photos' middle distance and height, all looking where the photos look."""
    model = views.views[0].camera_at(side)
    width, height = model.width // 2 * 2, model.height // 2 * 2
    fov_y = float(np.degrees(2 * np.arctan(model.height / (2 * model.fy))))
    target = focus(views)
    places = np.stack([view.camera.position for view in views.views]) - target
    up = np.array(UP)
    rise = places @ up
    side_axis = side_of(UP)
    across = np.cross(up, side_axis)
    azimuths = np.degrees(np.arctan2(places @ across, places @ side_axis))
    distance = float(np.median(np.linalg.norm(places - rise[:, None] * up, axis=1)))
    level = float(np.median(rise))
    start, width_deg = arc(azimuths)
    turns = np.linspace(0, 1, _FRAMES, endpoint=False)
    to_and_fro = 0.5 - 0.5 * np.cos(2 * np.pi * turns)
    angles = start + (360 * turns if width_deg >= _ROUND else width_deg * to_and_fro)
    cameras = []
    for angle in np.radians(angles):
        eye = target + distance * (np.cos(angle) * side_axis + np.sin(angle) * across) + level * up
        cameras.append(look_at(_vector(eye), _vector(target), UP, fov_y, width, height))
    return cameras


def arc(azimuths_deg: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Where the shortest arc that holds all azimuths begins, and how wide it is, in degrees."""
    ordered = np.sort(np.mod(azimuths_deg, 360.0))
    gaps = np.diff(np.append(ordered, ordered[0] + 360.0))
    widest = int(np.argmax(gaps))
    return float(ordered[(widest + 1) % len(ordered)]), float(360.0 - gaps[widest])


def focus(views: Views) -> Float64:
    """(3,): the point nearest to all lines of sight (least squares), or before the middle camera where they are almost
    parallel."""
    cameras = [view.camera for view in views.views]
    places = np.stack([camera.position for camera in cameras])
    forward = np.stack([camera.world_to_camera[2, :3] for camera in cameras])
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    system = across.sum(axis=0)
    if np.linalg.cond(system) < 1e3:
        found = np.linalg.solve(system, (across @ places[:, :, None]).sum(axis=0)[:, 0])
        if float(np.median(((found - places) * forward).sum(axis=1))) > 0:
            return np.asarray(found)
    axis = forward.mean(axis=0)
    middle = places.mean(axis=0)
    depth = float(np.median((views.points - middle) @ axis))
    return np.asarray(middle + max(depth, 1e-3) * axis)


def _vector(values: Float64) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
