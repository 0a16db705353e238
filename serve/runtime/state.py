"""What `argus up` leaves for `status`, `down` and `call`: one small file in a private folder."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from serve.config.load import ConfigErrors
from serve.config.model_base import NAME_PATTERN
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
    """The private folder of a cluster: below `ARGUS_RUN_DIR`, else below one in the system's temporary folder.

    What is made here is open to its owner only. What exists already stays as it is: it may be somebody's home.

    Raises:
        ConfigErrors: that is no name of a cluster.
        ConfigError: the folder belongs to somebody else, or others may look into it.
    """
    if re.fullmatch(NAME_PATTERN, name) is None:
        problem = f"{name!r} is no name of a cluster; it must match {NAME_PATTERN}."
        raise ConfigErrors(problem, (problem,))
    base = Path(os.environ.get("ARGUS_RUN_DIR") or Path(tempfile.gettempdir()) / f"argus-{os.getuid()}")
    base.parent.mkdir(parents=True, exist_ok=True)
    folder = base / name
    for path in (base, folder):
        path.mkdir(exist_ok=True, mode=0o700)
    # A link's own owner, too: where others may write, one of them may have put a link there. Whoever owns the base
    # could put another folder in the place of ours; the system itself is trusted.
    for path, owners in ((base, {0, os.getuid()}), (folder, {os.getuid()})):
        if not {path.stat().st_uid, path.lstat().st_uid} <= owners:
            raise ConfigError(f"{path} belongs to another user; set ARGUS_RUN_DIR to a folder of your own.")
    if folder.stat().st_mode & 0o077:
        raise ConfigError(f"{folder} is open to other users; make it private: chmod 700 {folder}")
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
