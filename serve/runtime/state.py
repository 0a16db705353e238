"""What `argus up` leaves for `status`, `down` and `call`: one small file in a private folder."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from serve.errors import ConfigError
from serve.rollout import Mark


class Instance(BaseModel):
    """A cluster that runs, or starts, on this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    phase: Literal["starting", "ready"]
    pid: int
    pid_started: float
    http: str
    grpc: str
    metrics: str
    ray_address: str = ""
    environment: Mapping[str, str]

    def alive(self) -> bool:
        """Whether its process still runs; a reused pid does not count."""
        return _started(self.pid) == self.pid_started


class Deployed(BaseModel):
    """What runs on a cluster, for whoever changes it.

    Attributes:
        server: that section of its cluster file, which holds as long as the cluster runs.
        cpus: cores that Ray was started with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    server: dict[str, Any]
    cpus: int
    marks: dict[str, Mark]


def this_process() -> tuple[int, float]:
    """Pid and start time, by which `Instance` recognises a process."""
    return os.getpid(), _started(os.getpid())


def _started(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return -1.0


def run_dir(name: str) -> Path:
    """The private folder of a cluster: `ARGUS_RUN_DIR`, else one below the system's folder for temporary files.

    Raises:
        ConfigError: the folder belongs to somebody else.
    """
    base = Path(os.environ.get("ARGUS_RUN_DIR") or Path(tempfile.gettempdir()) / f"argus-{os.getuid()}")
    folder = base / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in (base, folder):
        if path.stat().st_uid != os.getuid():
            raise ConfigError(f"{path} belongs to another user; set ARGUS_RUN_DIR to a folder of your own.")
        path.chmod(0o700)
    return folder


def write_token(folder: Path) -> None:
    """A fresh secret for Ray's own servers, readable by this user only."""
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32), encoding="ascii")


def save(folder: Path, instance: Instance) -> None:
    """Writes the file in one step, so that a reader never sees half of it."""
    fresh = folder / "instance.json.new"
    fresh.write_text(instance.model_dump_json(indent=1), encoding="utf-8")
    fresh.replace(folder / "instance.json")


def save_deployed(folder: Path, deployed: Deployed) -> None:
    """Notes what has been deployed; in one step, like `save`."""
    fresh = folder / "deployed.json.new"
    fresh.write_text(deployed.model_dump_json(), encoding="utf-8")
    fresh.replace(folder / "deployed.json")


def load_deployed(folder: Path) -> Deployed | None:
    """What was deployed last."""
    try:
        return Deployed.model_validate_json((folder / "deployed.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def load(folder: Path) -> Instance | None:
    """The running instance, or None."""
    try:
        instance = Instance.model_validate_json((folder / "instance.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None
    return instance if instance.alive() else None


def forget(folder: Path) -> None:
    """Removes the file; the cluster has stopped."""
    for name in ("instance.json", "deployed.json"):
        (folder / name).unlink(missing_ok=True)
