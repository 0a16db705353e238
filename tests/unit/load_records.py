"""Records of load tests, made up."""

from __future__ import annotations

import numpy as np

from benchmarks.loadtest.columns import Columns, Recorder
from benchmarks.loadtest.record import LoadRecord, build
from benchmarks.loadtest.request import Answer
from benchmarks.loadtest.schedule import schedule
from benchmarks.loadtest.settings import Settings, checked
from benchmarks.traffic.arrivals import parse_arrivals


def settings(spec: str = "constant:100", **more: object) -> Settings:
    values = {"workload": "made_up", "host": "http://h", "arrivals": parse_arrivals(spec), "seconds": 10.0}
    return checked(**{**values, "warm_up_s": 2.0, **more})


def recorder(chosen: Settings, *, latency_s: float = 0.05, lag_s: float = 0.0, fail_every: int = 0) -> Recorder:
    """Every request answered after `latency_s`; every tenth escalates and costs a cent."""
    filled = Recorder(schedule(chosen))
    for row, (number, due) in enumerate(zip(filled.part.number, filled.part.due_s, strict=True)):
        filled.rows = row + 1
        filled.sent(row, due + lag_s)
        if fail_every and number % fail_every == 0:
            filled.failed(row, due + latency_s, "ask", "overloaded", f"busy at {number}")
        elif number % 10 == 0:
            filled.answered(row, due + 4 * latency_s, Answer("ask", "large", 0.01, 7, first_s=0.02, escalated=True))
        else:
            filled.answered(row, due + latency_s, Answer("ask", "small", cached=number % 4 == 1))
    return filled


def record(
    chosen: Settings | None = None,
    columns: Columns | None = None,
    *,
    cpu_share: float = 0.2,
    interrupted: bool = False,
    lost: int = 0,
    truth: bool = True,
    **filling: float,
) -> LoadRecord:
    """A record of such requests."""
    chosen = chosen or settings()
    filled = recorder(chosen, **filling)
    return build(
        chosen,
        columns or filled.columns(),
        scheduled=len(filled.part),
        workers=1,
        cpu_share=cpu_share,
        examples=filled.examples,
        interrupted=interrupted,
        truth=truth,
        lost=lost,
    )


def shifted(columns: Columns, by_s: np.ndarray) -> Columns:
    """The same with answers later by `by_s`."""
    from dataclasses import replace

    return replace(columns, ended_s=columns.ended_s + by_s)
