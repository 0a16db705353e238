"""The last step of a profile: with it, the simulated idle run is as long as the real one.

Durations that were measured in a served model hold what its processes wait for each other on the cores, and the
simulator adds that anew. So what a token adds to an answer, and what a call takes around its model, are set by
comparing the idle run with its simulation, and not by what was measured of them alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.capacity.profiler.busy import Asked
from benchmarks.capacity.profiler.measured import QUIET_CORES
from benchmarks.capacity.profiler.served import Served
from benchmarks.capacity.profiles import PROBABILITIES, Distribution, Generation, HardwareProfile, scaled
from benchmarks.capacity.simulator import simulate

_DRAWS = 4
# Each changes a little of what the other sees, and a step is not all that a token takes.
_ROUNDS = 20
# Answers of a length of which a mean can be told.
_LEAST_ANSWERS = 10
_NO_SPREAD = Distribution(seconds=(1.0,) * len(PROBABILITIES), mean=1.0)

Float64 = npt.NDArray[np.float64]


def closed(asked: Asked, profile: HardwareProfile, idle: Served) -> HardwareProfile:
    """The profile of one model with other steps and another overhead.

    As it is where others had the cores as well, or the simulation answers nothing: there is nothing to compare.

    Args:
        asked: what was, of the only model of `profile`.
    """
    if idle.others > QUIET_CORES:
        return profile
    order = np.argsort(idle.requests.due_s)
    real = _Run(idle.requests.latency_s[order], idle.requests.tokens[order], idle.requests.ok[order])
    around = next(iter(profile.models.values())).overhead
    shape = around if around.mean else _NO_SPREAD
    for _ in range(_ROUNDS):
        ours = _simulated(asked, profile, idle, real.tokens)
        if not ours.ok.any():
            return profile
        (key, model), *_ = profile.models.items()
        if model.generation is not None:
            model = model.model_copy(update={"generation": _stepping(model.generation, real, ours)})
        around_s = max(0.0, model.overhead.mean + (real.mean_s - ours.mean_s) / idle.pace)
        model = model.model_copy(update={"overhead": scaled(shape, around_s / shape.mean)})
        profile = profile.model_copy(update={"models": {key: model}})
    return profile


@dataclass(frozen=True, slots=True)
class _Run:
    """Requests of a run, real or simulated: seconds and tokens of each, and whether it was answered."""

    seconds: Float64
    tokens: npt.NDArray[np.int32]
    ok: npt.NDArray[np.bool_]

    @property
    def mean_s(self) -> float:
        return float(self.seconds[self.ok].mean())

    @property
    def token_s(self) -> float | None:
        """What a token more adds to an answer; None where answers are of one length."""
        tokens, seconds = self.tokens[self.ok], self.seconds[self.ok]
        lengths = [length for length in np.unique(tokens) if (tokens == length).sum() >= _LEAST_ANSWERS]
        if len(lengths) < 2:
            return None
        medians = [float(np.median(seconds[tokens == length])) for length in lengths]
        return float(np.polyfit(lengths, medians, 1)[0])


def _simulated(asked: Asked, profile: HardwareProfile, idle: Served, tokens: npt.NDArray[np.int32]) -> _Run:
    """The same requests, several times over with other draws, with the answers' own lengths."""
    due, paces = np.sort(idle.requests.due_s), np.asarray(idle.each_second)
    written = (np.zeros_like(tokens), tokens) if tokens.any() else None
    scenario = asked(profile, idle.pace)
    runs = [simulate(scenario, due, seed=seed, paces=paces, tokens=written) for seed in range(_DRAWS)]
    return _Run(
        np.concatenate([one.latency_s for one in runs]),
        np.tile(tokens, _DRAWS),
        np.concatenate([one.ok for one in runs]),
    )


def _stepping(generation: Generation, real: _Run, ours: _Run) -> Generation:
    """With steps by which longer answers are as much longer as the real ones; what a prompt takes stays."""
    wanted_s, found_s = real.token_s, ours.token_s
    if wanted_s is None or found_s is None or min(wanted_s, found_s) <= 0:
        return generation
    factor = wanted_s / found_s
    steps = {"step_s": factor * generation.step_s, "sequence_s": factor * generation.sequence_s}
    return generation.model_copy(update=steps)
