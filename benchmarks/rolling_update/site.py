"""The cluster that is updated: two routers, two replicas of each model, started and changed with the real commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.servers import ROOT, free_port, replica_ports, server, up
from serve.errors import Unavailable

NAME: Final = "rolling"
MODULE: Final = "argus_rolled_out"
_UPDATE_S: Final = 300.0
_CODE = '''"""What the benchmark of rolling updates rolls out."""

from benchmarks.rolling_update.model import Telling


class Model(Telling):
    code = {code}
'''


@dataclass(slots=True)
class Site:
    """A cluster and its file, to be changed and rolled out.

    Attributes:
        folder: of the cluster file, the model's code and the checkpoints.
        content: of the cluster file.
    """

    folder: Path
    content: dict[str, Any]
    environment: dict[str, str]
    http: str = field(init=False)
    grpc: str = field(init=False)

    def __post_init__(self) -> None:
        ports = self.content["server"]
        self.http = f"http://127.0.0.1:{ports['http_port']}"
        self.grpc = f"127.0.0.1:{ports['grpc_port']}"

    @property
    def file(self) -> Path:
        """The cluster file."""
        return self.folder / "cluster.yaml"

    def write(self) -> None:
        """The cluster file, as `content` is now."""
        self.file.write_text(yaml.safe_dump(self.content), encoding="utf-8")

    def write_code(self, code: int) -> None:
        """The model's own file; its answers say `code`."""
        (self.folder / f"{MODULE}.py").write_text(_CODE.format(code=code), encoding="utf-8")

    def update(self) -> str:
        """`argus update`, once all replicas are what the file says; its output.

        Raises:
            Unavailable: it failed.
        """
        command = [sys.executable, "-m", "serve", "update", "--config", str(self.file)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=_UPDATE_S,
            env={**os.environ, **self.environment},
            check=False,
        )
        if done.returncode:
            raise Unavailable(f"argus update failed:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def processes(self) -> dict[str, set[int]]:
        """Process ids of each deployment's replicas."""
        import psutil

        status = json.loads((Path(self.environment["ARGUS_RUN_DIR"]) / NAME / "instance.json").read_text())
        found: dict[str, set[int]] = {}
        for child in psutil.Process(status["pid"]).children(recursive=True):
            try:
                title = " ".join(child.cmdline())
            except psutil.Error:
                continue
            if title.startswith("ray::ServeReplica:"):
                found.setdefault(title.split(":")[4].split(".")[0].split(" ")[0], set()).add(child.pid)
        return found


def cluster_file(*, clip: str | None) -> dict[str, Any]:
    """Two routers over two replicas of a custom model, and of a CLIP where its checkpoint is given."""
    ports = {"http_port": free_port(18_000), "grpc_port": free_port(19_000), "metrics_port": free_port(19_100)}
    pair = {"min_replicas": 2, "max_replicas": 2}
    models: dict[str, Any] = {
        "telling": {
            "kind": "custom",
            "implementation": f"{MODULE}:Model",
            "tasks": ["classify"],
            "placement": {"num_cpus": 0.1},
            # The policy for cascades is at work, and nothing that happens here makes it want a third one.
            "autoscaling": {"min_replicas": 2, "max_replicas": 3, "calls_per_s": 1000, "max_wait_s": 60},
            "batching": {"max_items": 8},
        }
    }
    if clip is not None:
        models["clip"] = {"kind": "clip", "checkpoint": clip, "placement": {"num_cpus": 0.2}, "autoscaling": pair}
    return {
        "name": NAME,
        "server": ports,
        "node_pools": {"local": {"cpus": 2}},
        "models": models,
        "router": {"replicas": 2, "num_cpus": 0.1},
        "resilience": {"cache": {"enabled": False}},
    }


@contextmanager
def running(*, checkpoint: Path | None) -> Iterator[Site]:
    """A cluster, for the time of the block.

    Args:
        checkpoint: of the CLIP; None for none.
    """
    folder = Path(tempfile.mkdtemp(prefix="argus-"))  # short: unix sockets lie below it
    try:
        path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {"ARGUS_RUN_DIR": str(folder), "PYTHONPATH": path, **replica_ports(29_000)}
        site = Site(folder, cluster_file(clip=None if checkpoint is None else str(checkpoint)), environment)
        site.write_code(1)
        site.write()
        command = [sys.executable, "-m", "serve", "up", "--config", str(site.file)]
        with server(NAME, command, up(NAME, folder), site.environment):
            yield site
    finally:
        shutil.rmtree(folder, ignore_errors=True)
