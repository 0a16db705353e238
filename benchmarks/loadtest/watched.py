"""A load test of a cluster on this machine, and what is seen of both meanwhile: memory, and how fast the cores are."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.capacity.pace import pacing
from benchmarks.loadtest.memory import MemoryWatch
from benchmarks.loadtest.messages import Progress
from benchmarks.loadtest.record import LoadRecord
from benchmarks.loadtest.run import Processes, run_load
from benchmarks.loadtest.settings import Settings

# Samples of a run: a slope compares pairs of them.
_SAMPLES = 200
_SHORTEST_S = 0.5


def run_watched(
    settings: Settings,
    locustfile: Path,
    processes: Processes,
    root: int,
    *,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
) -> LoadRecord:
    """`run_load` against a cluster on this machine.

    The record's `extra` has the `memory` of the cluster's processes, and the `pace` of the cores (`capacity/pace.py`),
    without which latencies of two runs cannot be compared; None of a run too short to tell.

    Args:
        root: pid of the cluster's first process.

    Raises:
        Unavailable: there is no record, with the reason.
    """
    watch: list[MemoryWatch] = []

    def follow(progress: Progress) -> None:
        if not watch:
            began = time.monotonic() - progress.elapsed_s
            every = max(_SHORTEST_S, settings.end_s / _SAMPLES)
            watch.append(MemoryWatch(root, every, lambda: time.monotonic() - began))
            watch[0].start()
        on_progress(progress)

    try:
        with pacing() as pace:
            began = time.monotonic()
            record = run_load(settings, locustfile, processes, on_progress=follow)
            ended = time.monotonic()
    finally:
        for one in watch:
            one.stop()
    series = watch[0].series() if watch else {}
    extra = {**record.extra, "memory": series, "pace": pace.known(began, ended)}
    return record.model_copy(update={"extra": extra})
