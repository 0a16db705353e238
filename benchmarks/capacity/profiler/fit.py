"""From observed durations to the coefficients of an engine with continuous batching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import lsq_linear

from benchmarks.capacity.profiler.timing import distribution
from benchmarks.capacity.profiles import Distribution
from serve.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Observation:
    """One duration at an engine.

    Attributes:
        seconds: of steps, or from asking to the first token, of whom it comes last where several were asked at once.
        sequences: that decoded in that step.
        prompt_tokens: that were read, images' included; only those that no cache held.
        images: that were encoded.
        asked: 1 for a duration that includes what a request waits for outside the engine's steps; 0 for a step.
    """

    seconds: float
    sequences: int
    prompt_tokens: int = 0
    images: int = 0
    asked: int = 0
    steps: int = 1


@dataclass(frozen=True, slots=True)
class StepFit:
    """`step_s * steps + sequence_s * sequences + prompt_token_s * prompt_tokens + encode_s * images + asked_s * asked`.

    Attributes:
        asked_s: what a lone request waits for outside its steps; a call's overhead has it, an engine's steps have not.
        residual: observed over fitted, of steps.
        error: root mean square of the medians over their fit, less one: 0.1 is 10 %.
    """

    step_s: float
    sequence_s: float
    prompt_token_s: float
    encode_s: float
    asked_s: float
    residual: Distribution
    error: float

    def scaled(self, factor: float) -> StepFit:
        """With every duration times `factor`; ratios stay."""
        steps = ("step_s", "sequence_s", "prompt_token_s", "encode_s", "asked_s")
        return replace(self, **{name: factor * getattr(self, name) for name in steps})


def fit_steps(observations: Sequence[Observation]) -> StepFit:
    """Least squares of relative errors to the medians of what was observed alike; no coefficient below 0.

    Medians, because whatever disturbs a machine makes a step longer and never shorter.

    Raises:
        Unavailable: too few observations, or none that is a step: the engine said next to nothing.
    """
    steps = [one for one in observations if not one.asked]
    if len(observations) < 5 or not steps:
        raise Unavailable(
            f"{len(observations)} observations of the engine, {len(steps)} of steps: too few to fit five coefficients."
        )
    matrix = np.array([[o.steps, o.sequences, o.prompt_tokens, o.images, o.asked] for o in observations], np.float64)
    seconds = np.array([o.seconds for o in observations])
    alike, which = np.unique(matrix, axis=0, return_inverse=True)
    medians = np.array([np.median(seconds[which.ravel() == row]) for row in range(len(alike))])
    # Divided by what was observed, so that a long prefill does not drown the steps.
    weighted = alike / medians[:, None]
    scale = np.maximum(np.abs(weighted).max(axis=0), 1e-12)
    found = lsq_linear(weighted / scale, np.ones(len(medians)), bounds=(0, np.inf)).x / scale
    ratio = seconds / np.maximum(matrix @ found, 1e-12)
    apart = medians / np.maximum(alike @ found, 1e-12) - 1
    of_steps = ratio[[not o.asked for o in observations]]
    step_s, sequence_s, prompt_token_s, encode_s, asked_s = (float(value) for value in found)
    return StepFit(
        step_s,
        sequence_s,
        prompt_token_s,
        encode_s,
        asked_s,
        distribution((of_steps / of_steps.mean()).tolist()),
        float(np.sqrt(np.mean(apart**2))),
    )
