"""What a load test is sent to: a server somewhere, a cluster that runs here, or the workload's own, started for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.targets import Workload
from benchmarks.workloads.serving import serving
from serve.errors import Unavailable
from serve.runtime import state


@dataclass(frozen=True, slots=True)
class Target:
    """Addresses.

    Attributes:
        pid: of the cluster's first process where it runs on this machine; None elsewhere.
    """

    http: str
    grpc: str = ""
    pid: int | None = None


def running(name: str) -> Target:
    """A cluster that runs on this machine, by its name.

    Raises:
        Unavailable: it does not run.
    """
    found = state.load(state.run_dir(name))
    if found is None or found.phase != "ready":
        raise Unavailable(f"Cluster {name!r} does not run; start it with: argus up --detach")
    return Target(found.http, found.grpc, found.pid)


@contextmanager
def started(name: str, workload: Workload, hardware: str) -> Iterator[Target]:
    """The workload's own cluster, for the time of the block.

    Raises:
        ConfigError: the workload has no place on this class of hardware.
        Unavailable: it did not start; the message has the end of its log.
    """
    cluster = f"load-{name.replace('_', '-')}"
    with serving(cluster, workload.place(hardware)) as (http, grpc):
        found = state.load(state.run_dir(cluster))
        yield Target(http, grpc, found.pid if found else None)
