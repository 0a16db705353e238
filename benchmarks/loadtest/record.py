"""The record of a run: settings, machine, how the generator fared, and every request."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.capacity.outcome import Outcome
from benchmarks.loadtest.columns import GENERATOR_FULL, GENERATOR_LATE, Columns, unpack
from benchmarks.loadtest.settings import Settings
from benchmarks.report import this_machine
from serve.errors import ConfigError

# A generator that is late by more than this, at its 99th percentile, measures itself: ten milliseconds, or a tenth of
# the median latency where that is more.
_LAG_S = 0.010
_LAG_SHARE = 0.1
# Of one core. Locust is one thread: above this it cannot send on time.
_CPU_SHARE = 0.9


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Generator(_Part):
    """How the load generator fared.

    Attributes:
        workers: processes that sent.
        scheduled: requests of the schedule.
        recorded: of these, how many the record holds.
        lag_p50_s, lag_p99_s, lag_max_s: from the intended time to sending, over the measured window; None when nothing
            was sent.
        cpu_share: of one core, of the busiest worker, over the run.
        faults: why the run is no measurement of the server; empty when it is one.
    """

    workers: int
    scheduled: int
    recorded: int
    lag_p50_s: float | None
    lag_p99_s: float | None
    lag_max_s: float | None
    cpu_share: float
    faults: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether latencies in this record are the server's."""
        return not self.faults


class ErrorCount(_Part):
    """One way to fail.

    Attributes:
        count: requests of the measured window.
        example: the first message.
    """

    count: int
    example: str


class LoadRecord(_Part):
    """One run. Columns are those of `Columns.pack`, in base 64."""

    kind: Literal["argus-load"] = "argus-load"
    version: Literal[1] = 1
    date: str = Field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    machine: dict[str, Any] = Field(default_factory=this_machine)
    settings: Settings
    generator: Generator
    errors: dict[str, ErrorCount]
    interrupted: bool
    truth: bool = Field(True, description="Whether right answers and escalations were known; else their form alone.")
    extra: dict[str, Any] = {}
    packed: str = Field(repr=False)

    def columns(self) -> Columns:
        """Every request, warm-up included."""
        return unpack(base64.b64decode(self.packed))

    def outcome(self) -> Outcome:
        """The same as a simulation's result, with the measured window."""
        return self.columns().outcome(self.settings.warm_up_s, self.settings.end_s)

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def load_record(path: Path) -> LoadRecord:
    """Reads what `LoadRecord.save` wrote.

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    try:
        record = LoadRecord.model_validate_json(path.read_bytes())
        record.columns()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", param="record") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise ConfigError(f"{path}: {where}: {first['msg']}", param="record") from None
    except ValueError as error:
        raise ConfigError(f"{path}: packed: {error}", param="record") from None
    return record


def build(
    settings: Settings,
    columns: Columns,
    *,
    scheduled: int,
    workers: int,
    cpu_share: float,
    examples: dict[str, str],
    interrupted: bool,
    truth: bool = True,
    lost: int = 0,
) -> LoadRecord:
    """A record out of what the workers sent back.

    Args:
        scheduled: requests of the whole schedule.
        examples: first message of each error.
        truth: see `OpenLoopUser.truth`.
        lost: workers that never reported.
    """
    lags = columns.lag_s[_measured(settings, columns)]
    lags = lags[~np.isnan(lags)]
    p50, p99, most = np.quantile(lags, (0.5, 0.99, 1.0), method="inverted_cdf").tolist() if len(lags) else (None,) * 3
    generator = Generator(
        workers=workers,
        scheduled=scheduled,
        recorded=len(columns),
        lag_p50_s=p50,
        lag_p99_s=p99,
        lag_max_s=most,
        cpu_share=cpu_share,
    )
    faults = _faults(settings, columns, generator, interrupted, lost)
    return LoadRecord(
        settings=settings,
        generator=generator.model_copy(update={"faults": faults}),
        errors=_errors(settings, columns, examples),
        interrupted=interrupted,
        truth=truth,
        packed=base64.b64encode(columns.pack()).decode("ascii"),
    )


def _measured(settings: Settings, columns: Columns) -> Any:
    return (columns.due_s >= settings.warm_up_s) & (columns.due_s < settings.end_s)


def _faults(
    settings: Settings, columns: Columns, generator: Generator, interrupted: bool, lost: int
) -> tuple[str, ...]:
    """Why latencies in this run are not the server's."""
    measured = _measured(settings, columns)
    answered = columns.latency_s[measured & columns.ok]
    bound = max(_LAG_S, _LAG_SHARE * float(np.median(answered))) if len(answered) else _LAG_S
    unsent = {code: _count(columns, measured, code) for code in (GENERATOR_FULL, GENERATOR_LATE)}
    lag = generator.lag_p99_s or 0.0
    faults = {
        "the run was ended before its time": interrupted,
        f"{lost} of {generator.workers} workers never reported": lost > 0,
        "no request was due in the measured part": not measured.any(),
        f"the generator sent late: lag P99 {1000 * lag:.1f} ms, at most {1000 * bound:.1f} ms can be told from the "
        "server's latency; add --workers": lag > bound,
        f"the generator used {generator.cpu_share:.0%} of its core; add --workers": generator.cpu_share > _CPU_SHARE,
        f"{unsent[GENERATOR_FULL]} requests were not sent, because {settings.max_in_flight} a worker were in progress "
        "(--max-in-flight)": unsent[GENERATOR_FULL] > 0,
        f"{unsent[GENERATOR_LATE]} requests were still not sent when the run had to end": unsent[GENERATOR_LATE] > 0,
    }
    return tuple(text for text, is_so in faults.items() if is_so)


def _count(columns: Columns, measured: Any, code: str) -> int:
    """Requests that failed with a code."""
    if code not in columns.errors:
        return 0
    return int((columns.error[measured] == columns.errors.index(code)).sum())


def _errors(settings: Settings, columns: Columns, examples: dict[str, str]) -> dict[str, ErrorCount]:
    codes = columns.error[_measured(settings, columns)]
    counts = np.bincount(codes[codes >= 0], minlength=len(columns.errors))
    found = sorted(zip(columns.errors, counts.tolist(), strict=True), key=lambda pair: -pair[1])
    return {name: ErrorCount(count=count, example=examples.get(name, "")) for name, count in found if count}
