"""Training videos drawn by worker processes while the models already learn from those that are there.

A strip is 96 pictures with a label each: either ten seconds of a story, or six clips of a scene's motion end to end.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import queue
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from demo.scenes import MOTIONS, Difficulty, SceneObject, Shape, render_video, sample_scene, subject_track
from demo.scenes.story import sample_story
from demo.video_classifier_model import SIDE

LENGTH, CLIP, STATE = 96, 16, 5
STORY_FPS = 10.0
_CLIP_RATES = (4.0, 10.0)
_EASY_SHARE = 0.45
_NATIVE_SIZES, _NATIVE_SHARES = (SIDE, 2 * SIDE), (0.85, 0.15)
_WAITING_STRIPS = 64
#: In how many directions a shape looks the same; round ones point nowhere.
_SYMMETRY: dict[Shape, int] = {"square": 4, "cross": 4, "triangle": 3, "star": 5, "heart": 1, "crescent": 1}


@dataclass(frozen=True)
class Mix:
    """What strips are drawn: the share of those with `clips`, and in them the weight of each rotation beside 1 of any
    other motion. Which way something turns is by far the hardest to learn."""

    clips: float = 0.5
    turns: float = 3.0

    def kinds(self) -> NDArray[np.float64]:
        """The share of each motion among clips: (motions,)."""
        weights = np.array([self.turns if kind.startswith("rotate") else 1.0 for kind in MOTIONS])
        return weights / weights.sum()


DEFAULT_MIX = Mix()


@dataclass(frozen=True, slots=True)
class Strip:
    """`frames` (96, 64, 64, 3) uint8; `labels` (96,) uint8, numbers of motions; `states` (96, 5) float32, of the
    subject: x and y from -1 to 1, size in doublings, where its tip points in radians from the right clockwise, and in
    how many directions it could as well point; `clips` says which kind of strip it is."""

    frames: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    states: NDArray[np.float32]
    clips: bool


def draw_strip(rng: np.random.Generator, mix: Mix = DEFAULT_MIX) -> Strip:
    """Draw one strip of the train split."""
    difficulty: Difficulty = "easy" if rng.random() < _EASY_SHARE else "medium"
    native = int(rng.choice(_NATIVE_SIZES, p=_NATIVE_SHARES))
    if rng.random() < mix.clips:
        return _clips(rng, difficulty, native, mix)
    story = sample_story(int(rng.integers(2**31)), duration_s=LENGTH / STORY_FPS, difficulty=difficulty)
    moments = [number / STORY_FPS for number in range(LENGTH)]
    labels = [MOTIONS.index(story.label_at(moment)) for moment in moments]
    states = [_state(story.subject_at(moment)) for moment in moments]
    pictures = np.stack([shrink(picture) for picture in story.frames(native, STORY_FPS)])
    return Strip(pictures, np.array(labels, np.uint8), np.array(states, np.float32), False)


def shrink(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture at 64 x 64, by the models' own filter."""
    if picture.shape[0] == SIDE:
        return picture
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _clips(rng: np.random.Generator, difficulty: Difficulty, native: int, mix: Mix) -> Strip:
    kinds = rng.choice(len(MOTIONS), LENGTH // CLIP, p=mix.kinds())
    pictures: list[NDArray[np.uint8]] = []
    states: list[tuple[float, ...]] = []
    for kind in kinds:
        scene = sample_scene(int(rng.integers(2**31)), difficulty=difficulty, motion=MOTIONS[int(kind)])
        fps = float(rng.uniform(*_CLIP_RATES))
        pictures += [shrink(picture) for picture in render_video(scene, native, CLIP, fps)]
        states += [_state(subject) for subject in subject_track(scene, CLIP, fps)]
    return Strip(np.stack(pictures), np.repeat(kinds, CLIP).astype(np.uint8), np.array(states, np.float32), True)


def _state(subject: SceneObject) -> tuple[float, ...]:
    tip = subject.rotation - (0.0 if subject.shape == "crescent" else math.pi / 2)
    return 2.0 * subject.x - 1.0, 2.0 * subject.y - 1.0, math.log2(subject.size), tip, _SYMMETRY.get(subject.shape, 0)


def _work(seed: int, number: int, mix: Mix, strips: Any) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    rng = np.random.default_rng([seed, number])
    while True:
        strip = draw_strip(rng, mix)
        strips.put((strip.frames, strip.labels, strip.states, strip.clips))


class Pool:
    """The newest strips on the models' device, and the workers that draw more; to be used as a context manager.

    Args:
        size: most strips kept, about 1.2 MB each; a new one then takes the place of the oldest.
        workers: processes that draw.
        seed: with a worker's number, what it draws follows from it.
        mix: what is drawn.
    """

    def __init__(self, size: int, workers: int, device: torch.device, seed: int, mix: Mix = DEFAULT_MIX) -> None:
        self._frames = torch.empty(size, LENGTH, SIDE, SIDE, 3, dtype=torch.uint8, device=device)
        self._labels = torch.empty(size, LENGTH, dtype=torch.int64, device=device)
        self._states = torch.empty(size, LENGTH, STATE, device=device)
        self._clips = torch.empty(size, dtype=torch.bool, device=device)
        self.drawn = 0
        self._device = device
        context = multiprocessing.get_context("spawn")
        self._strips = context.Queue(_WAITING_STRIPS)
        self._workers = [
            context.Process(target=_work, args=(seed, number, mix, self._strips), daemon=True)
            for number in range(workers)
        ]

    def __enter__(self) -> Self:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join()

    def __len__(self) -> int:
        return min(self.drawn, len(self._frames))

    def fill(self, count: int) -> None:
        """Wait until `count` strips have been drawn in all.

        Raises:
            queue.Empty: no worker has drawn anything for a minute.
        """
        while self.drawn < count:
            self._add(self._strips.get(timeout=60.0))

    def refresh(self, most: int) -> None:
        """Take over what has been drawn meanwhile, at most so many strips."""
        for _ in range(most):
            try:
                self._add(self._strips.get_nowait())
            except queue.Empty:
                return

    def _add(self, strip: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32], bool]) -> None:
        frames, labels, states, clips = strip
        place = self.drawn % len(self._frames)
        self._frames[place] = torch.from_numpy(frames).to(self._device)
        self._labels[place] = torch.from_numpy(labels).to(self._device)
        self._states[place] = torch.from_numpy(states).to(self._device)
        self._clips[place] = clips
        self.drawn += 1

    def windows(self, batch: int, seconds: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
        """Windows cut at random: pictures (B, 16, 64, 64, 3) uint8, labels (B, 16) and states (B, 16, 5).

        From a story a window of any length within `seconds`, from a row of clips one clip or a good part of it.
        """
        device = self._device
        chosen = torch.randint(len(self), (batch,), device=device)
        clips = self._clips[chosen]
        shortest, longest = (seconds[0] * STORY_FPS, seconds[1] * STORY_FPS)
        spread = torch.rand(batch, device=device)
        length = torch.where(clips, CLIP * (0.65 + 0.35 * spread), shortest + (longest - shortest) * spread)
        block = CLIP * torch.randint(LENGTH // CLIP, (batch,), device=device)
        room = torch.where(clips, float(CLIP), float(LENGTH)) - length
        start = torch.where(clips, block, 0) + room * torch.rand(batch, device=device)
        steps = torch.linspace(0.0, 1.0, CLIP, device=device)
        # A window of length L holds the moments start .. start + L - 1, for pictures stand for the time after them.
        numbers = (start[:, None] + (length[:, None] - 1.0) * steps).round().long().clamp(0, LENGTH - 1)
        # Rounding must not reach into the neighbouring clip.
        numbers = torch.where(clips[:, None], torch.minimum(numbers, block[:, None] + CLIP - 1), numbers)
        where = chosen[:, None], numbers
        return self._frames[where], self._labels[where], self._states[where]
