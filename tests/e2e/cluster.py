"""Starts real clusters with the real command, each with ports and folders of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.servers import free_port
from serve.auth import hash_key

KEY = "test-key-0123456789"
OTHER_KEY = "other-key-9876543210"
# Of a client whose requests one test alone makes, and counts.
COUNTED_KEY = "counted-key-0123456789"
_CLIENTS = {"tester": KEY, "other": OTHER_KEY, "counted": COUNTED_KEY}
ROOT = Path(__file__).parents[2]
# The largest starts in two minutes on two cores that do nothing else.
LONGEST_START_S = 630
# By default a router turns requests away once calls wait for 20 ms, which on a slow machine a test's own do.
_PATIENT = {"target_queue_wait_ms": 60_000}


@dataclass(frozen=True)
class Cluster:
    """A running cluster, as its clients see it."""

    name: str
    http: str
    grpc: str
    metrics: str
    environment: dict[str, str]

    @property
    def headers(self) -> dict[str, str]:
        return {"X-API-Key": KEY}

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.http, headers=self.headers, timeout=60, trust_env=False, **options)

    def argus(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the command line against this cluster."""
        return argus(*arguments, environment=self.environment)

    def pids(self) -> list[int]:
        """Every process of the cluster."""
        import psutil

        status = json.loads((Path(self.environment["ARGUS_RUN_DIR"]) / self.name / "instance.json").read_text())
        parent = psutil.Process(status["pid"])
        return [parent.pid, *(child.pid for child in parent.children(recursive=True))]


def argus(
    *arguments: str, environment: dict[str, str] | None = None, longest_s: float = 240
) -> subprocess.CompletedProcess[str]:
    """Runs `argus`; output captured."""
    command = [sys.executable, "-m", "serve", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=longest_s, env=environment, cwd=ROOT, check=False
    )


def up(file: Path, environment: dict[str, str]) -> None:
    """Starts a cluster and waits until it is ready, as long as `argus up` itself does."""
    started = argus("up", "--config", str(file), "--detach", environment=environment, longest_s=LONGEST_START_S)
    assert started.returncode == 0, f"{started.stdout}\n{started.stderr}"


def ports() -> tuple[int, int, int]:
    """Of HTTP, gRPC and metrics: below those that the kernel gives to connections, of which Ray opens many before
    HAProxy binds these."""
    return free_port(22_400), free_port(23_400), free_port(24_400)


def start(name: str, content: dict[str, Any], folder: Path) -> Cluster:
    """Starts a cluster from a cluster file's content and waits until it is ready; it sheds nothing by default."""
    http_port, grpc_port, metrics_port = ports()
    server = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    keys = [{"name": client, "sha256": hash_key(key)} for client, key in _CLIENTS.items()]
    file = folder / f"{name}.yaml"
    merged = {"name": name, "auth": {"keys": keys}, "overload": _PATIENT, **content}
    file.write_text(yaml.safe_dump({**merged, "server": {**server, **content.get("server", {})}}))
    run_dir = tempfile.mkdtemp(prefix="argus-")  # short: unix sockets lie below it
    environment = {
        **os.environ,
        "ARGUS_RUN_DIR": run_dir,
        "ARGUS_API_KEY": KEY,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    up(file, environment)
    return Cluster(
        name,
        f"http://127.0.0.1:{http_port}",
        f"127.0.0.1:{grpc_port}",
        f"http://127.0.0.1:{metrics_port}/metrics",
        environment,
    )


def stop(cluster: Cluster) -> None:
    """Stops it; the processes must be gone."""
    stopped = cluster.argus("down", "--name", cluster.name)
    assert stopped.returncode == 0, stopped.stderr
