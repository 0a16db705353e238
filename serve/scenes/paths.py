"""A camera's way through a scene: keyframes in, one camera a frame out.

Places run along a centripetal Catmull-Rom spline (Catmull and Rom 1974; knots as in Yuksel et al. 2011), which passes
through every keyframe without loops or cusps; directions along great circles between them (slerp, Shoemake 1985);
focal lengths change by a constant factor. Each pair of keyframes takes the same time, unless they say when they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from deployments.rendering.camera import Camera

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Keyframe:
    """Where the camera is at a moment.

    Attributes:
        at: from 0 (the first frame) to 1 (the last).
    """

    at: float
    camera: Camera


def interpolated(keyframes: Sequence[Keyframe], frames: int, *, closed: bool = False) -> list[Camera]:
    """Cameras of a film.

    Args:
        keyframes: at least one, at rising times.
        frames: at least one.
        closed: the way goes on through its last keyframe to the first one, so that the film can be repeated: the last
            frame stands one step before the first.
    """
    keys = list(keyframes)
    if len(keys) == 1:
        return [keys[0].camera] * frames
    if closed:
        keys = [replace(key, at=key.at * (len(keys) - 1) / len(keys)) for key in keys] + [replace(keys[0], at=1.0)]
    times = np.linspace(0.0, 1.0, frames, endpoint=not closed) if frames > 1 else np.zeros(1)
    at = np.array([key.at for key in keys])
    places = np.stack([key.camera.position for key in keys])
    turns = _one_hemisphere(np.stack([_quaternion(key.camera.world_to_camera[:3, :3].T) for key in keys]))
    cameras = []
    for moment in times:
        segment = int(np.clip(np.searchsorted(at, moment, side="right") - 1, 0, len(keys) - 2))
        share = float(np.clip((moment - at[segment]) / (at[segment + 1] - at[segment]), 0.0, 1.0))
        place = _catmull_rom(_around(places, segment, closed), share)
        turn = _slerp(turns[segment], turns[segment + 1], share)
        first, second = keys[segment].camera, keys[segment + 1].camera
        cameras.append(_between(first, second, share, place, turn))
    return cameras


def turntable(cameras: int) -> list[float]:
    """Azimuths, in degrees, of a full turn whose end meets its beginning."""
    return [360.0 * index / cameras for index in range(cameras)]


def evenly(cameras: Sequence[Camera]) -> list[Keyframe]:
    """Keyframes at equal distances in time."""
    last = max(1, len(cameras) - 1)
    return [Keyframe(index / last, camera) for index, camera in enumerate(cameras)]


def rising(times: Sequence[float]) -> bool:
    """Whether keyframes at these times can be passed one after the other, from 0 to 1."""
    return times[0] == 0 and times[-1] == 1 and all(first < second for first, second in pairwise(times))


def _between(first: Camera, second: Camera, share: float, place: Float64, turn: Float64) -> Camera:
    rotation = _matrix(turn).T
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ place

    def along(name: str) -> float:
        return float((1 - share) * getattr(first, name) + share * getattr(second, name))

    def growing(name: str) -> float:
        return float(getattr(first, name) ** (1 - share) * getattr(second, name) ** share)

    return Camera(
        first.width, first.height, growing("fx"), growing("fy"), along("cx"), along("cy"), world_to_camera=pose
    )


def _around(places: Float64, segment: int, closed: bool) -> Float64:
    """(4, 3): the two ends of a segment and their neighbours; beyond the ends of an open way, mirrored ones."""
    before_first = places[-2] if closed else 2 * places[0] - places[1]
    after_last = places[1] if closed else 2 * places[-1] - places[-2]
    return np.stack([before_first, *places, after_last])[segment : segment + 4]


def _catmull_rom(points: Float64, share: float) -> Float64:
    """The point at `share` of the way from the second of four points to the third (Barry and Goldman 1988)."""
    # Points that are equal would have knots at no distance; a tiny one gives the limit.
    steps = np.maximum(np.sqrt(np.linalg.norm(np.diff(points, axis=0), axis=1)), 1e-9)
    knots = np.concatenate([[0.0], np.cumsum(steps)])
    moment = knots[1] + share * (knots[2] - knots[1])

    def mixed(first: Float64, second: Float64, low: int, high: int) -> Float64:
        weight = (moment - knots[low]) / (knots[high] - knots[low])
        return np.asarray((1 - weight) * first + weight * second)

    a = [mixed(points[i], points[i + 1], i, i + 1) for i in range(3)]
    b = [mixed(a[i], a[i + 1], i, i + 2) for i in range(2)]
    return mixed(b[0], b[1], 1, 2)


def _one_hemisphere(quaternions: Float64) -> Float64:
    """Signs chosen so that each is near the one before: q and -q are the same turn."""
    chosen = [quaternions[0]]
    for quaternion in quaternions[1:]:
        chosen.append(-quaternion if quaternion @ chosen[-1] < 0 else quaternion)
    return np.stack(chosen)


def _slerp(first: Float64, second: Float64, share: float) -> Float64:
    angle = np.arccos(np.clip(first @ second, -1.0, 1.0))
    if angle < 1e-6:
        return first
    return np.asarray((np.sin((1 - share) * angle) * first + np.sin(share * angle) * second) / np.sin(angle))


def _quaternion(rotation: Float64) -> Float64:
    """(4,) w, x, y, z of a rotation matrix: the eigenvector of Bar-Itzhack 2000, which no angle is special to."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    symmetric = np.array(
        [
            [a + e + i, h - f, c - g, d - b],
            [h - f, a - e - i, b + d, c + g],
            [c - g, b + d, e - a - i, f + h],
            [d - b, c + g, f + h, i - a - e],
        ]
    )
    return np.asarray(np.linalg.eigh(symmetric)[1][:, -1])


def _matrix(quaternion: Float64) -> Float64:
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
