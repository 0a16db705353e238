"""Long videos with known actions: shots of a scene whose subject moves, rests and moves again, with cuts in between.

A story follows from its seed, split, difficulty and index, as a scene does. Nothing is stored: frames are drawn one
after the other, when they are asked for, so that ten minutes need no more memory than one picture.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from demo.scenes.render import render
from demo.scenes.world import (
    DIFFICULTIES,
    MOTIONS,
    ROUND_SHAPES,
    SPLITS,
    Difficulty,
    MotionKind,
    Scene,
    SceneObject,
    Split,
    sample_scene,
)

# Keeps the draw of a story apart from that of the scene with the same number.
_STREAM = 1
_ACTION_S = (1.6, 4.0)
_REST_S = (1.5, 4.0)
_BEFORE_CUT_S = (0.8, 2.0)
_ACTIONS_A_SHOT = 4
# Usual speeds in sides, doublings or radians a second, as `sample_scene` draws them, and how far they vary. A motion
# without room for its whole length is slower, but never slower than `_SLOWEST` of the usual speed.
_SIDES, _DOUBLINGS, _RADIANS = 0.25, 0.5, 0.7
_PACE = (0.8, 1.2)
_SLOWEST = 0.45
_LARGEST, _SMALLEST = 0.75, 0.1


@dataclass(frozen=True, slots=True)
class Segment:
    """An action and when it lasts, in seconds from the start of the video; the last moment is not part of it."""

    label: MotionKind
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class _Leg:
    """A motion or a rest of the subject, which starts out as `subject`; `amount` is how far it goes in all."""

    kind: MotionKind
    start_s: float
    end_s: float
    subject: SceneObject
    amount: float

    def at(self, time_s: float) -> SceneObject:
        """The subject at a moment of this leg."""
        done = (time_s - self.start_s) / (self.end_s - self.start_s)
        return _moved(self.subject, self.kind, self.amount * min(max(done, 0.0), 1.0))


@dataclass(frozen=True, slots=True)
class _Shot:
    """What one scene shows between two cuts."""

    scene: Scene
    start_s: float
    legs: tuple[_Leg, ...]

    @property
    def end_s(self) -> float:
        return self.legs[-1].end_s


@dataclass(frozen=True, slots=True)
class Story:
    """A long video: `segments` are its actions in order, `cuts` the seconds at which another scene begins."""

    duration_s: float
    segments: tuple[Segment, ...]
    cuts: tuple[float, ...]
    _shots: tuple[_Shot, ...]

    def frames(self, size: int, fps: float) -> Iterator[NDArray[np.uint8]]:
        """The pictures in order, each (size, size, 3) uint8 RGB; picture n shows the moment n / fps."""
        for number in range(round(self.duration_s * fps)):
            yield render(self._moment(number / fps, number), size)

    def label_at(self, time_s: float) -> MotionKind:
        """What happens at a moment; `still` between the actions."""
        return self._leg(time_s)[1].kind

    def subject_at(self, time_s: float) -> SceneObject:
        """The subject at a moment."""
        return self._leg(time_s)[1].at(time_s)

    def _leg(self, time_s: float) -> tuple[_Shot, _Leg]:
        shot = self._shots[max(bisect_right(self._shots, time_s, key=attrgetter("start_s")) - 1, 0)]
        return shot, shot.legs[max(bisect_right(shot.legs, time_s, key=attrgetter("start_s")) - 1, 0)]

    def _moment(self, time_s: float, number: int) -> Scene:
        """The scene at a moment, with this picture's own pixel noise."""
        shot, leg = self._leg(time_s)
        scene = shot.scene
        lighting = replace(scene.lighting, noise_seed=scene.lighting.noise_seed + number)
        return replace(scene, objects=(leg.at(time_s), *scene.objects[1:]), lighting=lighting)


def sample_story(
    index: int, *, duration_s: float, split: Split = "train", difficulty: Difficulty = "easy", seed: int = 0
) -> Story:
    """Draw story number `index` of a split; equal arguments give equal stories, on every machine."""
    key = [seed, SPLITS.index(split), DIFFICULTIES.index(difficulty), index, _STREAM]
    rng = np.random.default_rng(np.random.SeedSequence(key))
    shots: list[_Shot] = []
    time_s = 0.0
    while time_s < duration_s:
        scene = sample_scene(int(rng.integers(2**31)), split=split, difficulty=difficulty, seed=seed)
        shots.append(_Shot(scene, time_s, _legs(rng, scene, time_s, duration_s)))
        time_s = shots[-1].end_s
    segments = tuple(
        Segment(leg.kind, leg.start_s, leg.end_s) for shot in shots for leg in shot.legs if leg.kind != "still"
    )
    return Story(duration_s, segments, tuple(shot.start_s for shot in shots[1:]), tuple(shots))


def _legs(rng: np.random.Generator, scene: Scene, start_s: float, end_s: float) -> tuple[_Leg, ...]:
    """A rest, then actions with rests between them, none of which is cut off by the end of the video."""
    subject, time_s = scene.subject, start_s
    legs: list[_Leg] = []

    def add(kind: MotionKind, seconds: float, amount: float) -> None:
        nonlocal subject, time_s
        legs.append(_Leg(kind, time_s, min(time_s + seconds, end_s), subject, amount))
        subject, time_s = _moved(subject, kind, amount), legs[-1].end_s

    add("still", float(rng.uniform(*_BEFORE_CUT_S)), 0.0)
    for number in range(int(rng.integers(1, _ACTIONS_A_SHOT + 1))):
        if number > 0:
            add("still", float(rng.uniform(*_REST_S)), 0.0)
        seconds = float(rng.uniform(*_ACTION_S))
        possible = [kind for kind in MOTIONS if kind != "still" and _fits(subject, kind, _ACTION_S[0])]
        if not possible or time_s + seconds > end_s:
            break
        kind = possible[int(rng.integers(len(possible)))]
        while not _fits(subject, kind, seconds):
            seconds *= 0.9
        seconds = max(seconds, _ACTION_S[0])
        pace = float(rng.uniform(*_PACE))
        add(kind, seconds, min(pace * _usual(kind) * seconds, _room(subject, kind)))
    rest = float(rng.uniform(*_BEFORE_CUT_S))
    # A last shot that would be over at once is not begun.
    add("still", rest if end_s - time_s - rest > sum(_BEFORE_CUT_S) else end_s - time_s, 0.0)
    return tuple(leg for leg in legs if leg.end_s > leg.start_s)


def _usual(kind: MotionKind) -> float:
    if kind in ("grow", "shrink"):
        return _DOUBLINGS
    return _RADIANS if kind.startswith("rotate") else _SIDES


def _fits(subject: SceneObject, kind: MotionKind, seconds: float) -> bool:
    return _room(subject, kind) >= _SLOWEST * _usual(kind) * seconds


def _room(subject: SceneObject, kind: MotionKind) -> float:
    """How far a motion can go from here, in sides, doublings or radians."""
    margin = 0.02 + 0.56 * subject.size
    match kind:
        case "left":
            return subject.x - margin
        case "right":
            return 1.0 - margin - subject.x
        case "up":
            return subject.y - margin
        case "down":
            return 1.0 - margin - subject.y
        case "grow":
            return math.log2(_LARGEST / subject.size)
        case "shrink":
            return math.log2(subject.size / _SMALLEST)
        case _:
            return 0.0 if subject.shape in ROUND_SHAPES else math.inf


def _moved(subject: SceneObject, kind: MotionKind, amount: float) -> SceneObject:
    match kind:
        case "left":
            return replace(subject, x=subject.x - amount)
        case "right":
            return replace(subject, x=subject.x + amount)
        case "up":
            return replace(subject, y=subject.y - amount)
        case "down":
            return replace(subject, y=subject.y + amount)
        case "grow":
            return _scaled(subject, 2.0**amount)
        case "shrink":
            return _scaled(subject, 2.0**-amount)
        case "rotate clockwise":
            return replace(subject, rotation=subject.rotation + amount)
        case "rotate counter-clockwise":
            return replace(subject, rotation=subject.rotation - amount)
        case "still":
            return subject


def _scaled(subject: SceneObject, factor: float) -> SceneObject:
    """The subject at another size, pushed inwards where it would leave the frame."""
    size = subject.size * factor
    margin = min(0.02 + 0.56 * size, 0.5)
    x = min(max(subject.x, margin), 1.0 - margin)
    y = min(max(subject.y, margin), 1.0 - margin)
    return replace(subject, size=size, x=x, y=y)
