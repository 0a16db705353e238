"""One load on a running cluster: what its clients saw, what happened inside, and whose processor time it took."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import psutil

from benchmarks.capacity.pace import pacing
from benchmarks.capacity.profiler import client, tape
from benchmarks.capacity.profiler.instance import Instance
from benchmarks.capacity.profiler.tape import Event
from benchmarks.loadtest.columns import Columns, unpack
from benchmarks.loadtest.settings import Settings
from benchmarks.servers import ROOT
from serve.errors import Unavailable

_PREPARE_S = 120.0
# Share of right answers of a sound run.
_SOUND = 0.99
# Of a load that was too much, what is tried next, and how often.
_LOWER, _LOWER_TRIES = 0.75, 3
# A replica's title, as Ray Serve writes it.
_REPLICA = "ray::ServeReplica:argus:"
ROUTER, INGRESS, CLIENT, REPLICA, ENGINE, BACKGROUND = "router", "ingress", "client", "replica", "engine", "background"


@dataclass(frozen=True, slots=True)
class Served:
    """A load and what came of it, in its measured window.

    Attributes:
        began: the run's beginning on `time.monotonic()`, from which `requests` count.
        seconds: of the window.
        requests: those due in it, as their sender saw them.
        events: see `tape`.
        cpu_s: processor time by whose it is: `router`, `ingress`, `client`, `replica`, `engine` (what a replica has
            started) and `background` (Ray, and whatever else belongs to the cluster).
        others: mean number of cores that processes outside had.
        memory_bytes: resident, of the replica and what it has started.
        pace: of the processors in the window; durations and processor times are as they passed.
        each_second: of the run, from its beginning on: its pace over the mean one.
    """

    began: float
    seconds: float
    requests: Columns
    events: list[Event]
    cpu_s: Mapping[str, float]
    others: float
    memory_bytes: int
    pace: float = 1.0
    each_second: tuple[float, ...] = ()

    @property
    def busy(self) -> float:
        """Mean share of this machine's cores in use by us."""
        return sum(self.cpu_s.values()) / self.seconds / cores()

    @property
    def sound(self) -> bool:
        """Whether it says what a request costs: of requests that are refused nobody wants to know."""
        return self.answered_share > _SOUND

    @property
    def answered_share(self) -> float:
        """Of the requests; 0 where there was none."""
        return float(self.requests.ok.mean()) if len(self.requests) else 0.0

    def spans(self) -> list[tuple[float, float]]:
        """When each right answer's request was due and when it ended, on `time.monotonic()`."""
        ok = self.requests.ok
        pairs = zip(self.requests.due_s[ok].tolist(), self.requests.ended_s[ok].tolist(), strict=True)
        return [(self.began + due, self.began + ended) for due, ended in pairs]

    def of(self, kind: str) -> list[Event]:
        """The events of one kind."""
        return [event for event in self.events if event.kind == kind]


@dataclass(frozen=True, slots=True)
class Loads:
    """A model served: at rest, so rarely that requests do not meet, and under rising loads."""

    ready_s: float
    rest: Mapping[str, float]
    idle: Served
    loaded: tuple[Served, ...]

    @property
    def reference(self) -> Served:
        """The run that processor times are taken from: the highest load that was answered, else the idle run."""
        sound = [run for run in self.loaded if run.sound]
        return max(sound, key=lambda run: len(run.requests) / run.seconds, default=self.idle)


def rising(at: Callable[[float], Served], shares: Sequence[float]) -> tuple[Served, ...]:
    """Runs at rising shares of what can be done, up to the first of which too much is refused.

    Where that is the very first, what can be done was thought too high: then at falling shares until one is answered.

    Args:
        at: runs a load.
        shares: at least one, rising.
    """
    found: list[Served] = []
    for share in shares:
        found.append(at(share))
        if not found[-1].sound:
            break
    for number in range(1, _LOWER_TRIES + 1):
        if any(run.sound for run in found):
            break
        found.append(at(shares[0] * _LOWER**number))
    return tuple(found)


def cores() -> int:
    """Of this machine."""
    return os.cpu_count() or 1


def load(instance: Instance, settings: Settings) -> Served:
    """Runs one load test.

    Raises:
        Unavailable: the load generator failed; the message has the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="argus-profile-") as name:
        folder = Path(name)
        command = [sys.executable, "-m", client.__name__, settings.model_dump_json(), str(folder)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                with pacing() as pace:
                    seen = _watch(instance, settings, process, folder)
            finally:
                process.kill()
                process.wait()
    start = seen.began + settings.warm_up_s
    series = pace.each_second(seen.began, settings.end_s)
    return replace(seen, pace=pace.between(start, start + seen.seconds), each_second=tuple(series.tolist()))


def rest(instance: Instance, seconds: float) -> dict[str, float]:
    """Cores that a cluster nobody asks anything uses, by whose they are."""
    before = _Usage.now(instance, None)
    time.sleep(seconds)
    after = _Usage.now(instance, None)
    return {whose: (spent - before.cpu_s.get(whose, 0.0)) / seconds for whose, spent in after.cpu_s.items()}


def _watch(instance: Instance, settings: Settings, process: subprocess.Popen[bytes], folder: Path) -> Served:
    began = _began(process, folder)
    _sleep_until(began + settings.warm_up_s)
    start, before = time.monotonic(), _Usage.now(instance, process.pid)
    _sleep_until(began + settings.end_s)
    end, after = time.monotonic(), _Usage.now(instance, process.pid)
    if process.wait(settings.grace_s + 60):
        raise Unavailable(f"The load generator failed: {_tail(folder / 'log')}")
    time.sleep(1.0)  # the tapes are written twice a second
    spent = {whose: after.cpu_s[whose] - before.cpu_s.get(whose, 0.0) for whose in after.cpu_s}
    seconds = end - start
    return Served(
        began,
        seconds,
        _window(unpack((folder / client.COLUMNS).read_bytes()), settings),
        tape.read(instance.tape, start, end),
        spent,
        max(0.0, (after.machine_s - before.machine_s - sum(spent.values())) / seconds),
        after.memory_bytes,
    )


def _began(process: subprocess.Popen[bytes], folder: Path) -> float:
    deadline = time.monotonic() + _PREPARE_S
    while True:
        try:
            return float((folder / client.BEGAN).read_text(encoding="ascii"))
        except (OSError, ValueError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"The load generator did not start: {_tail(folder / 'log')}") from None
            time.sleep(0.05)


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _window(columns: Columns, settings: Settings) -> Columns:
    chosen = (columns.due_s >= settings.warm_up_s) & (columns.due_s < settings.end_s)
    arrays = {one.name: getattr(columns, one.name) for one in fields(columns)}
    return replace(columns, **{name: array[chosen] for name, array in arrays.items() if not isinstance(array, tuple)})


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-10:])


@dataclass(frozen=True, slots=True)
class _Usage:
    """Processor seconds so far, by whose they are and of the whole machine."""

    cpu_s: Mapping[str, float]
    machine_s: float
    memory_bytes: int

    @staticmethod
    def now(instance: Instance, client_pid: int | None) -> _Usage:
        spent: dict[str, float] = {}
        memory = 0
        for process, whose in _processes(instance, client_pid):
            try:
                times = process.cpu_times()
                spent[whose] = spent.get(whose, 0.0) + times.user + times.system
                memory += process.memory_info().rss if whose in (REPLICA, ENGINE) else 0
            except psutil.Error:
                continue  # it has just ended
        machine = psutil.cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0) + getattr(machine, "steal", 0.0)
        return _Usage(spent, sum(machine) - idle - getattr(machine, "guest", 0.0), memory)


def _processes(instance: Instance, client_pid: int | None) -> list[tuple[psutil.Process, str]]:
    """Every process of cluster and load generator, and whose it counts as."""
    found = [] if client_pid is None else [(psutil.Process(client_pid), CLIENT)]
    pending = [(psutil.Process(instance.pid), BACKGROUND)]
    while pending:
        process, parent = pending.pop()
        try:
            whose = _whose(process, parent)
            found.append((process, whose))
            pending += [(child, whose) for child in process.children()]
        except psutil.Error:
            continue
    return found


def _whose(process: psutil.Process, parent: str) -> str:
    if parent in (REPLICA, ENGINE):
        return ENGINE
    title = " ".join(process.cmdline()) or process.name()
    if title.startswith(f"{_REPLICA}router"):
        return ROUTER
    if title.startswith(_REPLICA):
        return REPLICA
    return INGRESS if "haproxy" in title.split(" ")[0] else BACKGROUND
