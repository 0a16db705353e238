"""What is broken: a running cluster, its processes, and what it depends on."""

from __future__ import annotations

import itertools
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from serve.scrape import Scrape

KEY: Final = "chaos-key-0123456789abcdef"
_RETRIES: Final = "argus_call_retries_total"


class Skipped(Exception):
    """This fault cannot be made here; the message says why."""


class NotMade(Exception):
    """The fault was to be made and was not, so that nothing is shown."""


@dataclass
class Site:
    """A cluster and its surroundings.

    Attributes:
        http: base URL.
        grpc: host:port.
        metrics: URL.
        root: pid of the process that all others of the cluster descend from.
        folder: of its files.
        parts: what it depends on and what is told to break, by name.
    """

    name: str
    http: str
    grpc: str
    metrics: str
    root: int
    folder: Path
    parts: Mapping[str, Any] = field(default_factory=dict)
    key: str = KEY
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _seen: dict[int, psutil.Process] = field(default_factory=dict)

    def next_number(self) -> int:
        """One that nobody else has."""
        return next(self._numbers)

    def client(self, **options: Any) -> httpx.AsyncClient:
        """For as many requests at once as there are; who asks has a time-out of their own, below this one's."""
        return httpx.AsyncClient(
            base_url=self.http,
            headers={"x-api-key": self.key},
            timeout=120,
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
            **options,
        )

    def processes(self, pattern: str = "") -> list[int]:
        """Pids of the cluster's processes whose command line matches."""
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.root).children(recursive=True):
                self._seen.setdefault(process.pid, process)
        return [pid for pid, process in self._seen.items() if process.is_running() and re.search(pattern, title(pid))]

    def replicas(self, deployment: str) -> list[int]:
        """Pids of a deployment's replicas."""
        return self.processes(rf"ServeReplica:.*:{re.escape(deployment)}\b")

    def kill(self, pattern: str) -> list[int]:
        """Ends one process of those that match, as `kill -9` does.

        Raises:
            NotMade: there is none.
        """
        found = self.processes(pattern)
        if not found:
            raise NotMade(f"no process matches {pattern!r}")
        os.kill(found[0], signal.SIGKILL)
        return found

    def kill_replica(self, deployment: str) -> None:
        """Ends one replica; see `kill`."""
        self.kill(rf"ServeReplica:.*:{re.escape(deployment)}\b")

    def retries(self) -> float | None:
        """Attempts after failed ones that the routers have reported so far; None when they cannot be read."""
        try:
            text = httpx.get(self.metrics, timeout=20, trust_env=False).text
            samples = Scrape.parse(text, time.monotonic(), [_RETRIES]).samples
        except (httpx.HTTPError, ValueError):
            return None
        return sum(value for series in samples.values() for value in series.values())

    def end_orphans(self) -> None:
        """Ends what outlived the cluster: children of what was killed have no parent that would."""
        for process in self._seen.values():
            with suppress(psutil.NoSuchProcess):
                process.kill()


def title(pid: int) -> str:
    """A process's command line; empty when it is gone or a zombie."""
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
        return ""


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder for the time of the block, with a short path: unix sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="ch-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
