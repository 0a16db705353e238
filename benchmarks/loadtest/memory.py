"""What else is seen of a local cluster during a load test: its processes' memory, and how fast the cores are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.capacity.pace import pacing
from benchmarks.loadtest.messages import Progress
from benchmarks.loadtest.record import LoadRecord
from benchmarks.loadtest.run import Processes, run_load
from benchmarks.loadtest.settings import Settings

# Samples of a run: a slope compares pairs of them.
_SAMPLES = 200
_SHORTEST_S = 0.5


@dataclass(slots=True)
class MemoryWatch:
    """Samples the memory of a process and everything below it, in a thread, between `start` and `stop`.

    What is counted is resident memory less what is shared, so that a library or the object store that all of them map
    counts for none.

    Args:
        root: pid of the cluster's first process.
        interval_s: between samples.
        clock: seconds since the run began.
    """

    root: int
    interval_s: float
    clock: Callable[[], float]
    _times: list[float] = field(default_factory=list)
    _bytes: dict[str, list[float]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def series(self) -> dict[str, Any]:
        """`times_s`, and `bytes` by kind of process with the sum as `all`; 0 while a kind does not run."""
        return {"times_s": list(self._times), "bytes": {name: list(values) for name, values in self._bytes.items()}}

    def _watch(self) -> None:
        while not self._stop.wait(self.interval_s):
            self._sample(self.clock(), family_memory(self.root))

    def _sample(self, now: float, found: Mapping[str, float]) -> None:
        for name in found:
            self._bytes.setdefault(name, [0.0] * len(self._times))
        for name, values in self._bytes.items():
            values.append(found.get(name, 0.0))
        self._times.append(now)


def family_memory(root: int) -> dict[str, float]:
    """Bytes by kind of process below `root`, itself included, and of `all`."""
    found: dict[str, float] = {"all": 0.0}
    try:
        family = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for process in family:
        try:
            with process.oneshot():
                memory, name = process.memory_info(), _kind(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            continue
        own = float(memory.rss - getattr(memory, "shared", 0))
        found[name] = found.get(name, 0.0) + own
        found["all"] += own
    return found


def _kind(process: psutil.Process) -> str:
    """Ray titles its workers `ray::ServeReplica:app:deployment`; others go by the name of their program."""
    command = process.cmdline()
    if command and command[0].startswith("ray::"):
        return command[0].split(" ")[0].removeprefix("ray::").split(".")[0][:60]
    return process.name()[:60]


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
