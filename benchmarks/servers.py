"""Starting and stopping what is measured: each system is a process of its own with its log in the cache folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from serve.errors import Unavailable
from serve.runtime import state
from serve.runtime.ingress import port_is_free

ROOT = Path(__file__).parents[1]
# The largest cluster takes two minutes on two cores that do nothing else.
_START_S = 630.0
_STOP_S = 60.0
_NO_CACHE = {"cache": {"enabled": False}}


def cache_dir() -> Path:
    """Where benchmarks keep what they make: `ARGUS_BENCH_CACHE`, else a folder in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "argus-bench"
    folder = Path(os.environ.get("ARGUS_BENCH_CACHE") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def free_port(first: int) -> int:
    """The first port from `first` on that nobody listens at."""
    return next(port for port in range(first, first + 500) if port_is_free("127.0.0.1", port))


def replica_ports(first: int) -> dict[str, str]:
    """Environment that keeps a Ray Serve instance's replicas off the ports of others on this machine."""
    return {
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + 99),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first + 100),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first + 199),
    }


def answers(url: str) -> Callable[[], bool]:
    """A test of whether `url` answers with a success."""

    def test() -> bool:
        try:
            return httpx.get(url, timeout=10).is_success
        except httpx.HTTPError:
            return False

    return test


def up(name: str, run_dir: Path) -> Callable[[], bool]:
    """A test of whether `argus up` has the whole cluster: a router answers as soon as one replica of each is there.

    Args:
        run_dir: the cluster's `ARGUS_RUN_DIR`.
    """

    def test() -> bool:
        running = state.load(run_dir / name)
        return running is not None and running.phase == "ready"

    return test


@contextmanager
def server(
    name: str, command: Sequence[str], ready: Callable[[], bool], environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a server for the time of the block.

    Raises:
        Unavailable: it ended, or was not ready in time; the message has the end of its log.
    """
    log_path = cache_dir() / f"{name}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + _START_S
            while not ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Unavailable(f"{name} did not start; the end of {log_path}:\n{_tail(log_path)}")
                time.sleep(0.5)
            yield process
        finally:
            stop(process)


def stop(process: subprocess.Popen[Any]) -> None:
    """Asks a server to end, and ends what it leaves behind."""
    if process.poll() is not None:
        return
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for left in family:
        if left.is_running():
            left.kill()


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])


@contextmanager
def argus(name: str, cluster: Mapping[str, Any], *, first_replica_port: int = 29_000) -> Iterator[tuple[str, str]]:
    """Serves a cluster file given without `name` and `server`; gives the HTTP address and the gRPC target.

    Answers are not kept unless the file says so: what is measured is the work.

    Raises:
        Unavailable: see `server`.
    """
    ports = {"http_port": free_port(18_000), "grpc_port": free_port(19_000), "metrics_port": free_port(19_100)}
    path = cache_dir() / f"{name}.yaml"
    path.write_text(
        yaml.safe_dump({"name": name, "server": ports, "resilience": _NO_CACHE, **cluster}), encoding="utf-8"
    )
    http = f"http://127.0.0.1:{ports['http_port']}"
    command = [sys.executable, "-m", "serve", "up", "--config", str(path)]
    with server(name, command, up(name, state.run_dir(name).parent), replica_ports(first_replica_port)):
        yield http, f"127.0.0.1:{ports['grpc_port']}"
