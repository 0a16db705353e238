"""Scored answers to calibrate on: the demo CLIP's on held-out scenes, and distributions that are made to mislead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from benchmarks.calibration_scenes import SIZE, Attribute, mixture, truth
from benchmarks.material import DEMO_CLIP
from benchmarks.servers import cache_dir
from demo.scenes import COLOURS, SHAPES
from serve.calibration.bounds import Promise
from serve.calibration.temperature import confidences
from serve.config.checkpoints import checkpoint_mark
from serve.config.load import load_profile

_SYNTHETIC = 50_000
_PROMPT = "a photo of a {}."
_LABELS: Mapping[Attribute, tuple[str, ...]] = {"shape": SHAPES, "colour": COLOURS}


@dataclass(frozen=True)
class Population:
    """Answers with their scores.

    Attributes:
        scores: (answers,).
        right: (answers,).
    """

    name: str
    scores: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]
    _sorted: npt.NDArray[np.float64] = field(init=False, repr=False)
    _right_above: npt.NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        order = np.argsort(-self.scores, kind="stable")
        object.__setattr__(self, "_sorted", -self.scores[order])
        object.__setattr__(self, "_right_above", np.cumsum(self.right[order]))

    def above(self, threshold: float) -> tuple[float, float]:
        """Share of answers with at least this score, and the share of those that is right (1 of none)."""
        count = int(np.searchsorted(self._sorted, -threshold, side="right"))
        if not count:
            return 0.0, 1.0
        return count / len(self.scores), float(self._right_above[count - 1]) / count

    def best(self, target: float) -> float:
        """The largest share that a threshold with the target's agreement accepts."""
        scores = np.unique(self._sorted)
        shares = (self.above(-score) for score in scores[:: 1 + len(scores) // 2000])
        return max((share for share, agreement in shares if agreement >= target), default=0.0)


def all_of(promise: Promise, scenes: int, progress: Console) -> Iterator[Population]:
    """Every population."""
    yield from demo_clip(scenes, progress)
    yield from synthetic(promise)


def synthetic(promise: Promise) -> Iterator[Population]:
    """Distributions that break rules of thumb; `target` is put where it hurts."""
    rng = np.random.default_rng(11)
    target = promise.target

    def made(name: str, scores: npt.NDArray[np.float64], chance: npt.NDArray[np.float64]) -> Population:
        return Population(name, scores, rng.random(len(scores)) < chance)

    uniform = rng.random(_SYNTHETIC)
    calibrated = rng.beta(5, 0.4, _SYNTHETIC)
    yield made("calibrated", calibrated, calibrated)
    yield made("overconfident", 1 - (1 - calibrated) ** 3, calibrated)
    yield made("a cliff at the middle", uniform, np.where(uniform > 0.5, 1 - 0.2 * (1 - target), 0.5))
    yield made("ties", np.round(calibrated, 1), calibrated)
    waves = np.where(uniform > 0.8, 1 - 0.5 * (1 - target), np.where(uniform > 0.6, target - 0.1, 1.0))
    yield made("agreement falls and rises", uniform, waves)
    yield made("surest ones wrong", uniform, np.where(uniform > 0.97, 0.7, 0.998))
    yield made("just below the target", uniform, np.full(_SYNTHETIC, target - 0.004))


def demo_clip(scenes: int, progress: Console) -> Iterator[Population]:
    """The demo CLIP's answers on scenes of the split "test": the shape, and the colour, of the largest object."""
    mark = checkpoint_mark(load_profile("demo", calibrations=False), "clip").rpartition("#")[2]
    path = cache_dir() / f"calibration-{mark}-{scenes}.npz"
    if not path.is_file():
        progress.print(f"  asking the demo CLIP about {scenes} scenes", highlight=False)
        np.savez(path, **_answers(scenes))
    with np.load(path) as kept:
        for attribute in _LABELS:
            logits, truth = kept[f"{attribute}_logits"].astype(np.float64), kept[f"{attribute}_truth"]
            yield Population(f"demo CLIP, {attribute}", confidences(logits, 1.0), logits.argmax(axis=1) == truth)


def _answers(scenes: int) -> dict[str, Any]:
    """For each attribute (scenes, labels) logits and the right labels' numbers."""
    import torch

    from demo.evaluate_clip import ZeroShot

    torch.set_num_threads(1)
    classifier, drawn = ZeroShot(DEMO_CLIP), mixture("test", scenes)
    images = classifier.images(drawn, SIZE)
    found: dict[str, Any] = {}
    for attribute, labels in _LABELS.items():
        prompts = [_PROMPT.replace("{}", label) for label in labels]
        found[f"{attribute}_logits"] = classifier.logits(images, prompts).numpy()
        found[f"{attribute}_truth"] = np.array([labels.index(truth(scene, attribute)) for scene in drawn])
    return found
