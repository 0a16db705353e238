"""A cluster in a process of its own, whose start is timed.

    python -m benchmarks.capacity.profiler.instance FILE FOLDER

FILE is a cluster file as JSON; what happens is written to FOLDER/started.json once everything runs. Ends on SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.capacity.profiler import tape
from benchmarks.servers import free_port, replica_ports, server
from serve.config.cluster import ClusterFile
from serve.config.load import parse

_STARTED = "started.json"
_HEALTHY = "HEALTHY"


@dataclass(frozen=True, slots=True)
class Instance:
    """A cluster that runs.

    Attributes:
        http, grpc: base URL and `host:port`.
        pid: of its first process; all others descend from it.
        tape: folder of the events, see `tape`.
        ready_s: seconds from the application's submission until each deployment was healthy.
    """

    http: str
    grpc: str
    pid: int
    tape: Path
    ready_s: Mapping[str, float]


@contextmanager
def serving(content: Mapping[str, Any], folder: Path) -> Iterator[Instance]:
    """Serves a cluster file, given without `name` and `server`, for the time of the block.

    Args:
        folder: an empty one of our own; its path must be short, since sockets lie below it.

    Raises:
        ConfigErrors: the file is wrong.
        Unavailable: it did not start; the message has the end of its log.
    """
    ports = {"http_port": free_port(18_500), "grpc_port": free_port(19_500), "metrics_port": free_port(19_700)}
    cluster = parse({"name": "profile", "server": ports, **content}, source="argus profile")
    file, taped = folder / "cluster.json", folder / "tape"
    taped.mkdir()
    file.write_text(cluster.model_dump_json(), encoding="utf-8")
    started = folder / _STARTED
    command = [sys.executable, "-m", __name__, str(file), str(folder)]
    environment = {**tape.ENVIRONMENT, tape.FOLDER_ENV: str(taped), **replica_ports(29_600)}
    with server("argus-profile", command, started.is_file, environment) as process:
        yield Instance(
            f"http://127.0.0.1:{ports['http_port']}",
            f"127.0.0.1:{ports['grpc_port']}",
            process.pid,
            taped,
            json.loads(started.read_text(encoding="utf-8")),
        )


def main(file: Path, folder: Path) -> None:
    """The process: starts everything, says when each deployment was ready, and waits for its end."""
    stop = threading.Event()
    cluster = ClusterFile.model_validate_json(file.read_text(encoding="utf-8"))
    from serve.runtime import ingress, state
    from serve.runtime.local import LocalCluster, apply_environment

    folder.chmod(0o700)
    state.write_token(folder)
    apply_environment(ingress.environment(folder, ingress.haproxy_binary()))
    local = LocalCluster(cluster, folder)
    try:
        local.start_ray()
        # Ray puts its own handlers in their place, so ours come after it.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        local.start_ingress()
        began = time.monotonic()
        ready: dict[str, float] = {}
        for states in local.deploy():
            now = time.monotonic() - began
            ready |= {one.name: now for one in states if one.status == _HEALTHY and one.name not in ready}
            if stop.is_set():
                return
        fresh = folder / f"{_STARTED}.{os.getpid()}"
        fresh.write_text(json.dumps(ready), encoding="utf-8")
        fresh.replace(folder / _STARTED)
        stop.wait()
    finally:
        local.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
