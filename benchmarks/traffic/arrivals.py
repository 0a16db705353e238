"""When requests arrive: processes that are drawn exactly, from a seed, before anything is sent.

A longer run with the same seed begins like the shorter one, but for `ramp`, `step`, `spike` and a `diurnal` without a
period, whose shape is stretched over the run. The processes:

* `constant`: one every 1/rate seconds.
* `poisson`: independent arrivals.
* `gamma`: a renewal process with gamma-distributed gaps of coefficient of variation `cv`; 1 is Poisson, above 1 is
  burstier, below 1 more regular. It is stationary: the first gap is what is left of one that began before.
* `mmpp`: Markov-modulated Poisson with two states (Fischer and Meier-Hellstern, "The Markov-modulated Poisson process
  (MMPP) cookbook", Performance Evaluation 18, 1993), which begins in its stationary distribution.
* `ramp`, `step`, `spike`, `diurnal`: Poisson with a rate that changes over the run, by thinning (Lewis and Shedler,
  "Simulation of nonhomogeneous Poisson processes by thinning", Naval Research Logistics 26, 1979).
* `trace`: replays a recording (`benchmarks/traffic/replay.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from benchmarks.traffic.process import Process, Rate
from benchmarks.traffic.renewals import poisson_times, renewal_times
from benchmarks.traffic.replay import Replay
from benchmarks.traffic.traces import Float64
from serve.errors import ConfigError

RateOrNone = Annotated[float, Field(ge=0, le=1e6, description="Requests a second; 0 for none.")]
# A thousandth of a second is below what a server can feel, and bounds how many there are.
_SHORTEST_SOJOURN_S = 1e-3
_SHORTEST_PERIOD_S = 1e-3


class Constant(Process):
    """One request every 1/rate seconds, the first at once."""

    process: Literal["constant"] = "constant"
    rate_per_s: Rate

    def mean_rate(self, seconds: float) -> float:
        return self.rate_per_s

    def _at(self, rate_per_s: float) -> dict[str, Any]:
        return {"rate_per_s": rate_per_s}

    def _times(self, seconds: float, seed: int) -> Float64:
        times = np.arange(math.ceil(seconds * self.rate_per_s)) / self.rate_per_s
        return times[times < seconds]


class Poisson(Process):
    """Independent arrivals."""

    process: Literal["poisson"] = "poisson"
    rate_per_s: Rate

    def mean_rate(self, seconds: float) -> float:
        return self.rate_per_s

    def _at(self, rate_per_s: float) -> dict[str, Any]:
        return {"rate_per_s": rate_per_s}

    def _times(self, seconds: float, seed: int) -> Float64:
        return poisson_times(self.rate_per_s, seconds, np.random.default_rng(seed))


class Gamma(Process):
    """Gamma-distributed gaps."""

    process: Literal["gamma"] = "gamma"
    rate_per_s: Rate
    cv: float = Field(2.0, ge=0.02, le=50, description="Standard deviation of the gaps over their mean.")

    def mean_rate(self, seconds: float) -> float:
        return self.rate_per_s

    def _at(self, rate_per_s: float) -> dict[str, Any]:
        return {"rate_per_s": rate_per_s}

    def _times(self, seconds: float, seed: int) -> Float64:
        draw = np.random.default_rng(seed)
        shape, scale = self.cv**-2, self.cv**2 / self.rate_per_s
        # A moment falls into a long gap more often than into a short one: that gap has gamma's shape plus 1.
        first = draw.random() * draw.gamma(shape + 1, scale)
        return renewal_times(first, lambda count: draw.gamma(shape, scale, count), seconds)


class Mmpp(Process):
    """Poisson at one of two rates, with exponential times between the changes."""

    process: Literal["mmpp"] = "mmpp"
    low_per_s: RateOrNone
    high_per_s: Rate
    low_s: float = Field(ge=_SHORTEST_SOJOURN_S, description="Mean seconds at the low rate.")
    high_s: float = Field(ge=_SHORTEST_SOJOURN_S, description="Mean seconds at the high rate.")

    def mean_rate(self, seconds: float) -> float:
        return (self.low_per_s * self.low_s + self.high_per_s * self.high_s) / (self.low_s + self.high_s)

    def peak_rate(self, seconds: float) -> float:
        return max(self.low_per_s, self.high_per_s)

    def _at(self, rate_per_s: float) -> dict[str, Any]:
        factor = rate_per_s / self.mean_rate(1.0)
        return {"low_per_s": self.low_per_s * factor, "high_per_s": self.high_per_s * factor}

    def _times(self, seconds: float, seed: int) -> Float64:
        states, sojourns, counts, places = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4))
        high_first = states.random() < self.high_s / (self.low_s + self.high_s)
        means = np.array((self.high_s, self.low_s) if high_first else (self.low_s, self.high_s))
        rates = np.array((self.high_per_s, self.low_per_s) if high_first else (self.low_per_s, self.high_per_s))
        lasted: list[Float64] = []
        total = 0.0
        while total < seconds:
            piece = sojourns.standard_exponential(1024) * np.tile(means, 512)
            lasted.append(piece)
            total += float(piece.sum())
        lengths = np.concatenate(lasted)
        begins = np.cumsum(lengths) - lengths
        ran = int(np.searchsorted(begins, seconds, side="left"))
        lengths, begins = lengths[:ran], begins[:ran]
        arrived = counts.poisson(lengths * np.tile(rates, ran // 2 + 1)[:ran])
        times = np.repeat(begins, arrived) + places.random(int(arrived.sum())) * np.repeat(lengths, arrived)
        times.sort()
        return times[: int(np.searchsorted(times, seconds, side="left"))]


class _Changing(Process):
    """Poisson whose rate is a function of time."""

    def _times(self, seconds: float, seed: int) -> Float64:
        candidates, keep = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
        peak = self.peak_rate(seconds)
        times = poisson_times(peak, seconds, candidates)
        kept: npt.NDArray[np.bool_] = keep.random(len(times)) * peak < self.rate_at(times, seconds)
        return times[kept]


class Ramp(_Changing):
    """From one rate to another in a straight line over the run."""

    process: Literal["ramp"] = "ramp"
    from_per_s: RateOrNone
    to_per_s: RateOrNone

    def mean_rate(self, seconds: float) -> float:
        return (self.from_per_s + self.to_per_s) / 2

    def peak_rate(self, seconds: float) -> float:
        return max(self.from_per_s, self.to_per_s)

    def rate_at(self, times: Float64, seconds: float) -> Float64:
        return self.from_per_s + (self.to_per_s - self.from_per_s) * times / seconds

    def _at(self, rate_per_s: float) -> dict[str, Any]:
        factor = rate_per_s / self.mean_rate(1.0)
        return {"from_per_s": self.from_per_s * factor, "to_per_s": self.to_per_s * factor}

    def model_post_init(self, context: Any, /) -> None:
        if not self.from_per_s + self.to_per_s:
            raise ValueError("from_per_s and to_per_s are both 0")


class Step(_Changing):
    """One rate after the other, each for an equal part of the run."""

    process: Literal["step"] = "step"
    rates_per_s: Annotated[
        tuple[RateOrNone, ...], BeforeValidator(lambda value: value.split("/") if isinstance(value, str) else value)
    ] = Field(min_length=1, max_length=1000, description="Requests a second, in their order.")

    def mean_rate(self, seconds: float) -> float:
        return sum(self.rates_per_s) / len(self.rates_per_s)

    def peak_rate(self, seconds: float) -> float:
        return max(self.rates_per_s)

    def rate_at(self, times: Float64, seconds: float) -> Float64:
        parts = len(self.rates_per_s)
        part = np.clip((times * parts / seconds).astype(np.int64), 0, parts - 1)
        return np.array(self.rates_per_s)[part]

    def _at(self, rate_per_s: float) -> dict[str, Any]:
        factor = rate_per_s / self.mean_rate(1.0)
        return {"rates_per_s": tuple(rate * factor for rate in self.rates_per_s)}

    def model_post_init(self, context: Any, /) -> None:
        if not any(self.rates_per_s):
            raise ValueError("rates_per_s are all 0")


class Spike(_Changing):
    """One rate, and a higher one for a part of the run."""

    process: Literal["spike"] = "spike"
    rate_per_s: Rate
    peak_per_s: Rate
    begin: float = Field(0.4, ge=0, lt=1, description="Share of the run after which the peak begins.")
    share: float = Field(0.2, gt=0, le=1, description="Share of the run that the peak lasts.")

    def mean_rate(self, seconds: float) -> float:
        lasts = min(self.share, 1 - self.begin)
        return self.rate_per_s * (1 - lasts) + self.peak_per_s * lasts

    def peak_rate(self, seconds: float) -> float:
        return max(self.rate_per_s, self.peak_per_s)

    def rate_at(self, times: Float64, seconds: float) -> Float64:
        in_peak = (times >= self.begin * seconds) & (times < (self.begin + self.share) * seconds)
        return np.where(in_peak, self.peak_per_s, self.rate_per_s)

    def _at(self, rate_per_s: float) -> dict[str, Any]:
        factor = rate_per_s / self.mean_rate(1.0)
        return {"rate_per_s": self.rate_per_s * factor, "peak_per_s": self.peak_per_s * factor}


class Diurnal(_Changing):
    """A sine from night to day and back: `rate * (1 - swing * cos(2 pi t / period))`."""

    process: Literal["diurnal"] = "diurnal"
    rate_per_s: Rate
    swing: float = Field(0.8, ge=0, le=1, description="Part of the rate by which it rises and falls.")
    period_s: float | None = Field(
        None, ge=_SHORTEST_PERIOD_S, description="Seconds of one day; by default the whole run is one."
    )

    def mean_rate(self, seconds: float) -> float:
        if self.period_s is None:
            return self.rate_per_s
        turned = 2 * math.pi * seconds / self.period_s
        return self.rate_per_s * (1 - self.swing * math.sin(turned) / turned)

    def long_rate(self, seconds: float) -> float:
        return self.rate_per_s

    def times_anywhere(self, seconds: float, seed: int) -> Float64:
        """A day that is longer than the run passes in it as a whole, night and noon."""
        passes = self.period_s is not None and self.period_s > seconds
        return (self.model_copy(update={"period_s": None}) if passes else self).times(seconds, seed)

    def peak_rate(self, seconds: float) -> float:
        return self.rate_per_s * (1 + self.swing)

    def rate_at(self, times: Float64, seconds: float) -> Float64:
        turned = 2 * np.pi * times / (self.period_s or seconds)
        return self.rate_per_s * (1 - self.swing * np.cos(turned))

    def _at(self, rate_per_s: float) -> dict[str, Any]:
        return {"rate_per_s": rate_per_s}


Arrivals = Annotated[
    Constant | Poisson | Gamma | Mmpp | Ramp | Step | Spike | Diurnal | Replay, Field(discriminator="process")
]
_ARRIVALS: TypeAdapter[Arrivals] = TypeAdapter(Arrivals)
_BY_NAME: dict[str, type[Process]] = {
    kind.model_fields["process"].default: kind for kind in get_args(get_args(Arrivals)[0])
}


def parse_arrivals(text: str) -> Arrivals:
    """Reads a process from a command line: its name, its first value and others by name.

    A name may lack its unit: `poisson:100`, `gamma:100,cv=2`, `mmpp:low=20,high=200,low_s=30,high_s=5`, `ramp:1,to=50`,
    `step:10/20/40`, `spike:20,peak=100,begin=0.4,share=0.2`, `diurnal:50,swing=0.8`, `trace:FILE,rate=100`. A path
    may hold commas and equals signs. A process as JSON is read as well, as a path with `,rate=` in it must be.

    Raises:
        ConfigError: names the process, the key and what would be right.
    """
    if text.lstrip().startswith("{"):
        return _from_json(text)
    name, _, rest = text.strip().partition(":")
    kind = _BY_NAME.get(name)
    if kind is None:
        raise _wrong(text, f"unknown process; there are {', '.join(_BY_NAME)}")
    given = _values(text, rest, kind)
    try:
        return _ARRIVALS.validate_python({"process": name, **given})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part != name) or name
        hint = "; a path with ',rate=' in it is given as JSON" if kind is Replay else ""
        raise _wrong(text, f"{where}: {first['msg']}; {name} takes {', '.join(_fields(kind))}{hint}") from None


def _from_json(text: str) -> Arrivals:
    try:
        return _ARRIVALS.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _wrong(text, f"{'.'.join(map(str, first['loc'])) or 'process'}: {first['msg']}") from None


def _values(text: str, rest: str, kind: type[Process]) -> dict[str, str]:
    fields = _fields(kind)
    given: dict[str, str] = {}
    for place, part in enumerate(part.strip() for part in _parts(rest, kind) if part.strip()):
        key, equals, value = part.partition("=")
        if not equals:
            key, value = fields[0], part
            if place:
                raise _wrong(text, f"{part!r}: only the first value may stand without a name")
        key = next((field for field in fields if field in (key, f"{key}_per_s", f"{key}_s")), key)
        if key in given:
            raise _wrong(text, f"{key} is given twice")
        given[key] = value
    return given


def _parts(rest: str, kind: type[Process]) -> Sequence[str]:
    """What stands between commas. A path may hold commas and equals signs, so of a recording only names part values."""
    if kind is not Replay:
        return rest.split(",")
    first, *others = re.split(r",(?=\s*(?:file|rate|rate_per_s)=)", rest)
    bare = first.strip() and not re.match(r"\s*(?:file|rate|rate_per_s)=", first)
    return [f"file={first}" if bare else first, *others]


def _fields(kind: type[Process]) -> Sequence[str]:
    return [field for field in kind.model_fields if field != "process"]


def _wrong(text: str, why: str) -> ConfigError:
    return ConfigError(f"{text!r}: {why}", param="arrivals")
