"""The process `trace`: a recording is replayed, at its own rate or at another."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from benchmarks.traffic import recordings
from benchmarks.traffic.process import Process, Rate
from benchmarks.traffic.traces import Float64, Int32, Trace

# Fractions of its multiples are spread evenly, however many there are (Weyl's sequence of the golden ratio).
_GOLDEN = (math.sqrt(5) - 1) / 2


class Replay(Process):
    """A recording, from its beginning; it begins anew when the run is longer."""

    process: Literal["trace"] = "trace"
    file: Path = Field(description="Azure LLM trace, BurstGPT or our JSONL.")
    rate_per_s: Rate | None = Field(None, description="Mean over the whole recording; by default its own.")

    def times(self, seconds: float, seed: int) -> Float64:
        """See `Process.times`; the recording bounds how many there may be by itself, whatever its peak."""
        return self._times(seconds, seed)

    def mean_rate(self, seconds: float) -> float:
        return self._factor() * len(recordings.window(self.file, seconds)) / seconds

    def long_rate(self, seconds: float) -> float:
        return self.rate_per_s or recordings.loaded(self.file).rate_per_s

    def long_peak(self, seconds: float) -> float:
        return self._factor() * recordings.peak_rate(self.file, max(seconds, recordings.loaded(self.file).seconds))

    def times_anywhere(self, seconds: float, seed: int) -> Float64:
        """Each seed's run begins at another place of the recording; a few of them lie evenly spread in it."""
        recording = recordings.loaded(self.file)
        moment = seed * _GOLDEN % 1 * recording.seconds
        # With the request before it, since what stands for that one lies up to the next.
        before = recording.last_before(moment)
        times = self._run(recording.begun_at(before), seconds + moment - before, seed).times_s - (moment - before)
        return times[int(np.searchsorted(times, 0.0)) :]

    def rate_at(self, times: Float64, seconds: float) -> Float64:
        """See `recordings.rate_at`."""
        return self._factor() * recordings.rate_at(self.file, times, seconds)

    def peak_rate(self, seconds: float) -> float:
        return self._factor() * recordings.peak_rate(self.file, seconds)

    def _factor(self) -> float:
        return self.rate_per_s / recordings.loaded(self.file).rate_per_s if self.rate_per_s else 1.0

    def _at(self, rate_per_s: float) -> dict[str, Any]:
        return {"rate_per_s": rate_per_s}

    def replayed(self, seconds: float, seed: int) -> Trace:
        """The requests of a run."""
        return self._run(recordings.loaded(self.file), seconds, seed)

    def tokens(self, seconds: float, seed: int) -> tuple[Int32, Int32] | None:
        trace = self.replayed(seconds, seed)
        told = trace.prompt_tokens.any() or trace.output_tokens.any()
        return (trace.prompt_tokens, trace.output_tokens) if told else None

    def _times(self, seconds: float, seed: int) -> Float64:
        return self.replayed(seconds, seed).times_s

    def _run(self, recording: Trace, seconds: float, seed: int) -> Trace:
        """Only the part that a run has is multiplied, since a recording may be of months."""
        if self.rate_per_s is None:
            return recording.window(seconds)
        return recording.window(recording.next_after(seconds)).multiplied(self._factor(), seed).window(seconds)
