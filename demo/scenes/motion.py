"""Videos of a scene: its subject moves, grows, shrinks, turns or stays, everything else stands still."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from demo.scenes.render import render
from demo.scenes.world import Scene, SceneObject

_MAX_TRAVEL = 0.5
_MAX_DOUBLINGS = 1.2
_MAX_TURN = math.pi
_LARGEST, _SMALLEST = 0.85, 0.08


def render_video(scene: Scene, size: int, frames: int, fps: float) -> NDArray[np.uint8]:
    """A clip of `frames` pictures at `fps` pictures per second: (frames, size, size, 3) uint8, RGB.

    The longer the clip, the farther the motion goes at the scene's own speed, up to half the image side, a bit more
    than a doubling or a half turn; it is then slower, never cut short.
    """
    if frames < 1 or fps <= 0:
        raise ValueError(f"a clip needs a frame or more and a positive rate, not {frames} frames at {fps} per second")
    amount = min(scene.motion.speed * (frames - 1) / fps, _limit(scene))
    clip = np.empty((frames, size, size, 3), np.uint8)
    for number in range(frames):
        progress = number / (frames - 1) if frames > 1 else 0.0
        clip[number] = render(_moment(scene, amount, progress, number), size)
    return clip


def subject_track(scene: Scene, frames: int, fps: float) -> tuple[SceneObject, ...]:
    """The subject as each picture of `render_video` shows it."""
    amount = min(scene.motion.speed * (frames - 1) / fps, _limit(scene))
    return tuple(_moved(scene, amount, n / (frames - 1) if frames > 1 else 0.0) for n in range(frames))


def _limit(scene: Scene) -> float:
    kind = scene.motion.kind
    if kind in ("left", "right", "up", "down"):
        return max(min(_MAX_TRAVEL, 0.96 - 1.12 * scene.subject.size), 0.0)
    if kind == "grow":
        return min(_MAX_DOUBLINGS, math.log2(_LARGEST / scene.subject.size))
    if kind == "shrink":
        return min(_MAX_DOUBLINGS, math.log2(scene.subject.size / _SMALLEST))
    return _MAX_TURN


def _moment(scene: Scene, amount: float, progress: float, number: int) -> Scene:
    """The scene with its subject moved, and with this frame's own pixel noise."""
    subject = _moved(scene, amount, progress)
    lighting = replace(scene.lighting, noise_seed=scene.lighting.noise_seed + number)
    return replace(scene, objects=(subject, *scene.objects[1:]), lighting=lighting)


def _moved(scene: Scene, amount: float, progress: float) -> SceneObject:
    subject = scene.subject
    match scene.motion.kind:
        case "left":
            return replace(subject, x=_slide(subject.x, subject.size, -amount, progress))
        case "right":
            return replace(subject, x=_slide(subject.x, subject.size, amount, progress))
        case "up":
            return replace(subject, y=_slide(subject.y, subject.size, -amount, progress))
        case "down":
            return replace(subject, y=_slide(subject.y, subject.size, amount, progress))
        case "grow":
            return _scaled(subject, 2.0 ** (amount * progress))
        case "shrink":
            return _scaled(subject, 2.0 ** (-amount * progress))
        case "rotate clockwise":
            return replace(subject, rotation=subject.rotation + amount * progress)
        case "rotate counter-clockwise":
            return replace(subject, rotation=subject.rotation - amount * progress)
        case "still":
            return subject


def _slide(centre: float, size: float, travel: float, progress: float) -> float:
    """A coordinate on a straight path of length |travel| that goes around `centre` but stays inside the frame."""
    margin = 0.02 + 0.56 * size + abs(travel) / 2
    middle = min(max(centre, margin), 1.0 - margin)
    return middle + travel * (progress - 0.5)


def _scaled(subject: SceneObject, factor: float) -> SceneObject:
    """The subject at another size, pushed inwards where it would leave the frame."""
    size = subject.size * factor
    margin = min(0.02 + 0.56 * size, 0.5)
    x = min(max(subject.x, margin), 1.0 - margin)
    y = min(max(subject.y, margin), 1.0 - margin)
    return replace(subject, size=size, x=x, y=y)
