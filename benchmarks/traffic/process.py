"""What every process of arrivals can do, whether it is drawn or recorded."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, ValidationError

from benchmarks.traffic.traces import MOST_REQUESTS, Float64, Int32
from serve.config.section import Strict
from serve.errors import ConfigError

Rate = Annotated[float, Field(gt=0, le=1e6, description="Requests a second.")]


class Process(Strict):
    """What every process can do."""

    def times(self, seconds: float, seed: int) -> Float64:
        """When requests arrive in a run of `seconds`: sorted, in [0, seconds).

        Raises:
            ConfigError: there would be more than `MOST_REQUESTS`; a trace cannot be read.
        """
        if self.peak_rate(seconds) * seconds > MOST_REQUESTS:
            raise ConfigError(
                f"up to {self.peak_rate(seconds):g} requests a second for {seconds:g} s; at most {MOST_REQUESTS} "
                "requests are scheduled",
                param="arrivals",
            )
        return self._times(seconds, seed)

    def tokens(self, seconds: float, seed: int) -> tuple[Int32, Int32] | None:
        """Prompt and output tokens of the requests that `times` gives; None where the process has none."""
        return None

    @abstractmethod
    def mean_rate(self, seconds: float) -> float:
        """Requests a second that are expected in a run of `seconds`."""

    def rate_at(self, times: Float64, seconds: float) -> Float64:
        """Expected requests a second at `times` of a run of `seconds`."""
        return np.full(len(times), self.mean_rate(seconds))

    def peak_rate(self, seconds: float) -> float:
        """At least what `rate_at` gives anywhere in the run."""
        return self.mean_rate(seconds)

    def long_rate(self, seconds: float) -> float:
        """Requests a second over a long time: what `scaled` sets. That of a run of `seconds`, where runs are alike."""
        return self.mean_rate(seconds)

    def long_peak(self, seconds: float) -> float:
        """`peak_rate` of whichever run of `times_anywhere` is the busiest."""
        return self.peak_rate(seconds)

    def times_anywhere(self, seconds: float, seed: int) -> Float64:
        """When requests arrive in a run of `seconds` that stands for any time, not for the beginning alone.

        Raises:
            ConfigError: see `times`.
        """
        return self.times(seconds, seed)

    def scaled(self, rate_per_s: float) -> Self:
        """The same process at another mean rate; what it is made of keeps its proportions.

        The mean is that over the run; of `mmpp` over a long time, of `diurnal` over whole periods, and of a trace over
        the whole recording.

        Raises:
            ConfigError: one of its rates would be beyond what is allowed.
        """
        try:
            return type(self).model_validate(self.model_dump() | self._at(rate_per_s))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or type(self).__name__.lower()
            raise ConfigError(f"at {rate_per_s:g} requests a second: {where}: {first['msg']}", param="rate") from None

    @abstractmethod
    def _at(self, rate_per_s: float) -> dict[str, Any]:
        """The fields that differ at another mean rate."""

    @abstractmethod
    def _times(self, seconds: float, seed: int) -> Float64: ...
