"""All requests of a run with their times, drawn before the first is sent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.loadtest.settings import Settings
from benchmarks.traffic.arrivals import Poisson
from benchmarks.traffic.traces import Float64, Int32

Int64 = npt.NDArray[np.int64]
# Where a process begins with nothing, as a ramp from 0, warm-up has this share of its mean rate.
_LEAST_WARM_UP = 0.1


@dataclass(frozen=True, slots=True)
class Schedule:
    """Requests in the order of their times.

    Attributes:
        number: names a request in the whole run. Those of the measured part come first, from 0, so that they are the
            same whatever the warm-up is.
        due_s: since the run began, warm-up included.
        prompt_tokens, output_tokens: of a trace; 0 for none.
    """

    number: Int64
    due_s: Float64
    prompt_tokens: Int32
    output_tokens: Int32

    def __len__(self) -> int:
        return len(self.number)

    def part(self, index: int, of: int) -> Schedule:
        """The requests of worker `index` of `of`: every `of`-th. All parts together are the whole."""
        mine = slice(index, None, of)
        return Schedule(self.number[mine], self.due_s[mine], self.prompt_tokens[mine], self.output_tokens[mine])


def schedule(settings: Settings) -> Schedule:
    """The requests of a run, the same on every machine.

    The measured part has exactly the times of `settings.arrivals.times(seconds, seed)`, moved by the warm-up, so that a
    simulation of these times is a simulation of this run.

    Raises:
        ConfigError: there would be too many, or a trace cannot be read.
    """
    arrivals, seconds, seed = settings.arrivals, settings.seconds, settings.seed
    measured = arrivals.times(seconds, seed)
    prompts, outputs = arrivals.tokens(seconds, seed) or (_zeros(len(measured)), _zeros(len(measured)))
    early = _warm_up(settings)
    count = len(measured)
    return Schedule(
        np.concatenate([np.arange(count, count + len(early)), np.arange(count)]),
        np.concatenate([early, measured + settings.warm_up_s]),
        np.concatenate([_resized(prompts, len(early)), prompts]),
        np.concatenate([_resized(outputs, len(early)), outputs]),
    )


def _warm_up(settings: Settings) -> Float64:
    """Poisson arrivals at the rate with which the process begins."""
    if settings.warm_up_s == 0:
        return np.empty(0)
    arrivals, seconds = settings.arrivals, settings.seconds
    begins = float(arrivals.rate_at(np.zeros(1), seconds)[0])
    rate = max(begins, _LEAST_WARM_UP * arrivals.mean_rate(seconds))
    return Poisson(rate_per_s=rate).times(settings.warm_up_s, settings.seed + 1) if rate > 0 else np.empty(0)


def _zeros(count: int) -> Int32:
    return np.zeros(count, np.int32)


def _resized(values: Int32, count: int) -> Int32:
    return np.resize(values, count) if len(values) else _zeros(count)
