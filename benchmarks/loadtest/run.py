"""Runs a load test from Python: Locust in processes of its own, with its progress and its record."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.loadtest.hooks import PROGRESS_FD
from benchmarks.loadtest.locust_api import SKIP_PATCH
from benchmarks.loadtest.messages import Progress
from benchmarks.loadtest.record import LoadRecord, load_record
from benchmarks.loadtest.settings import Settings, to_arguments
from benchmarks.servers import ROOT, cache_dir, free_port, stop
from serve.errors import ConfigError, Unavailable

# Beyond the run's own length, for starting, preparing and collecting; the engine has shorter bounds for each of them.
_SPARE_S = 1500.0
# For the workers to stop and hand over what they have, also on a machine that is busy otherwise.
_INTERRUPT_S = 60.0
_WORKERS_WAIT_S = 600


@dataclass(frozen=True, slots=True)
class Processes:
    """How many processes send, and where.

    Attributes:
        local: workers on this machine beside a master; 0 for one process that does both.
        bind: `host:port` at which a master waits for workers on other machines instead; empty for none.
        remote: how many of these it waits for.
        ui_port: port of Locust's web interface on 127.0.0.1; None for none.
    """

    local: int = 0
    bind: str = ""
    remote: int = 0
    ui_port: int | None = None


def run_load(
    settings: Settings,
    locustfile: Path,
    processes: Processes | None = None,
    *,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
) -> LoadRecord:
    """Sends a workload's requests and waits for the end.

    Ctrl-C ends the run early; its record then has what was due by then, and says so.

    Args:
        locustfile: the workload's file, with one `OpenLoopUser`.
        on_progress: is called about once a second a worker.

    Raises:
        Unavailable: there is no record, with the reason.
    """
    log_path = cache_dir() / f"load-{settings.workload}.log"
    with tempfile.TemporaryDirectory(prefix="argus-load-") as folder:
        path = Path(folder) / "record.json"
        arguments = ["-f", str(locustfile), *to_arguments(settings), f"--record={path}"]
        arguments += _mode(processes or Processes())
        with _locust(arguments, log_path) as (process, events):
            error = _follow(process, events, _SPARE_S + settings.end_s + settings.grace_s, on_progress)
        if not path.exists():
            raise Unavailable(error or _why(locustfile, log_path))
        return load_record(path)


def run_worker(locustfile: Path, master: str, local: int) -> int:
    """Is a worker, or several, of a run that another machine leads; gives Locust's exit code when that has ended.

    Args:
        master: its `host:port`.

    Raises:
        ConfigError: `master` is no address.
    """
    host, port = address(master, "worker")
    command = [*_COMMAND, "-f", str(locustfile), "--worker", f"--master-host={host}", f"--master-port={port}"]
    if local > 1:
        command.append(f"--processes={local}")
    return subprocess.run(command, cwd=Path.cwd(), env=_environment({}), check=False).returncode


def address(text: str, param: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`.

    Raises:
        ConfigError: it is something else.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"{text!r} is no address; write HOST:PORT", param=param)
    return host, int(port)


def _why(locustfile: Path, log_path: Path) -> str:
    """There is no record."""
    end = _tail(log_path)
    if "unrecognized arguments: --" in end:  # ours, which come with `OpenLoopUser`
        return (
            f"{locustfile.name} defines no OpenLoopUser, which `argus load` needs (docs/load-testing.md); a file "
            "with other users of Locust is run by locust itself"
        )
    return f"Locust ended without a record; the end of {log_path}:\n{end}"


_COMMAND = (sys.executable, "-m", "locust")


def _mode(processes: Processes) -> list[str]:
    """Locust's arguments for the roles of its processes."""
    shown = ["--headless", "--only-summary"]
    if processes.ui_port is not None:
        shown = ["--autostart", "--autoquit=0", "--web-host=127.0.0.1", f"--web-port={processes.ui_port}"]
    if processes.bind:
        host, port = address(processes.bind, "master")
        roles = ["--master", f"--expect-workers={processes.remote}", f"--expect-workers-max-wait={_WORKERS_WAIT_S}"]
        return [*shown, *roles, f"--master-bind-host={host}", f"--master-bind-port={port}"]
    if processes.local:
        port = free_port(25_557)
        roles = [f"--processes={processes.local}", "--master-bind-host=127.0.0.1"]
        return [*shown, *roles, f"--master-bind-port={port}", f"--master-port={port}"]
    return shown


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Locust itself must be cooperative, whatever this process was told.
    ours = {name: value for name, value in os.environ.items() if name != SKIP_PATCH}
    return {**ours, "PYTHONPATH": path, **more}


@contextmanager
def _locust(arguments: Sequence[str], log_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Locust and the reading end of the pipe with its events."""
    reading, writing = os.pipe()
    try:
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [*_COMMAND, *arguments],
                cwd=Path.cwd(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment({PROGRESS_FD: str(writing)}),
                pass_fds=(writing,),
                start_new_session=True,
            )
        os.close(writing)
        try:
            yield process, reading
        finally:
            stop(process)
    finally:
        os.close(reading)


def _follow(
    process: subprocess.Popen[bytes], events: int, seconds: float, on_progress: Callable[[Progress], None]
) -> str:
    """Passes progress on until the process has ended; gives the error that it reported, or nothing."""
    error, rest = "", b""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if not select.select([events], [], [], 0.5)[0]:
                if process.poll() is not None:
                    break
                continue
            data = os.read(events, 1 << 16)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for event in map(json.loads, lines):
                error = _handled(event, on_progress) or error
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            deadline = min(deadline, time.monotonic() + _INTERRUPT_S)
    if process.poll() is None:
        try:
            process.wait(max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return error or f"the run did not end in {seconds:.0f} s"
    return error


def _handled(event: Mapping[str, Any], on_progress: Callable[[Progress], None]) -> str:
    if "error" in event:
        return str(event["error"])
    on_progress(Progress.model_validate(event))
    return ""


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
