"""Memory of a local cluster's processes during a load test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil


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
