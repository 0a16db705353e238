"""A deployment asked by concurrent callers beside a loop of plain transformers over ready batches: the shared part.

Both sides answer the same requests, in turns in one run. The loop takes them in ready batches, as a script over a
folder does; the deployment gets single requests through a Ray handle and makes its batches from them, at most as large
as the loop's.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

from benchmarks.report import Column
from serve.config.cluster import ClusterFile
from serve.config.load import parse
from serve.runtime import ingress, state
from serve.runtime.local import LocalCluster, apply_environment

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

T = TypeVar("T")

LEAST_SHARE = 0.9
TIMEOUT_S = 600.0
COLUMNS = (
    Column("batch", "batch", "d"),
    Column("callers", "callers", "d"),
    Column("loop_per_s", "loop answers/s", ".2f"),
    Column("served_per_s", "served answers/s", ".2f"),
    Column("share", "share", ".2f"),
    Column("lowest", "lowest round", ".2f"),
    Column("highest", "highest round", ".2f"),
)
_GPU_GB = 16.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same for both sides."""

    checkpoint: str
    device: str
    dtype: str
    batch: int
    callers: int


async def all_of(asked: Sequence[T], callers: int, ask: Callable[[T], Awaitable[None]]) -> None:
    """Asks everything, so many at a time."""
    waiting = iter(asked)

    async def caller() -> None:
        for one in waiting:
            await ask(one)

    await asyncio.gather(*(caller() for _ in range(callers)))


async def compared(
    setting: Setting,
    count: int,
    rounds: int,
    loop: Callable[[], None],
    served: Callable[[], Awaitable[None]],
    name: str,
    progress: Console,
) -> dict[str, Any]:
    """A row of `COLUMNS`: medians over rounds, in each of which both sides answer `count` requests."""
    pairs = []
    for number in range(rounds):
        started = time.monotonic()
        loop()
        between = time.monotonic()
        await served()
        pairs.append((between - started, time.monotonic() - between))
        progress.print(f"  {name}, round {number + 1}: loop {pairs[-1][0]:.1f} s, served {pairs[-1][1]:.1f} s")
    shares = [looped / through for looped, through in pairs]
    return {
        "batch": setting.batch,
        "callers": setting.callers,
        "loop_per_s": statistics.median(count / looped for looped, _ in pairs),
        "served_per_s": statistics.median(count / through for _, through in pairs),
        "share": statistics.median(shares),
        "lowest": min(shares),
        "highest": max(shares),
    }


def pickled(handle: DeploymentHandle[Any]) -> DeploymentHandle[Any]:
    """The handle as the router uses it; called where a loop runs, as Ray Serve wants it."""
    return handle.options(request_serialization="pickle", response_serialization="pickle")


@contextmanager
def deployed(
    setting: Setting, kind: str, implementation: Callable[[ClusterFile], tuple[type, tuple[Any, ...]]]
) -> Iterator[DeploymentHandle[Any]]:
    """A model's deployment alone in a Ray Serve instance without HTTP.

    Args:
        kind: of the model; it is also its name.
        implementation: its replica class and that one's arguments, for the cluster file that holds it.
    """
    folder = state.run_dir(f"bench-{kind.replace('_', '-')}")
    state.write_token(folder)
    apply_environment(ingress.environment(folder, None))
    cluster = _cluster(setting, kind)
    local = LocalCluster(cluster, folder)
    try:
        local.start_ray()
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled")
        replica, arguments = implementation(cluster)
        deployment = serve.deployment(
            name=kind,
            max_ongoing_requests=4 * setting.callers,
            ray_actor_options={
                "num_cpus": 1,
                "num_gpus": 0.5 if setting.device == "cuda" else 0,
                "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}},
            },
        )(replica)
        yield serve.run(deployment.bind(*arguments), name=kind, route_prefix=None)
    finally:
        local.stop()


def _cluster(setting: Setting, kind: str) -> ClusterFile:
    on_gpu = setting.device == "cuda"
    model = {
        "kind": kind,
        "checkpoint": setting.checkpoint,
        "dtype": setting.dtype,
        "gpu_memory_gb": _GPU_GB if on_gpu else 0,
        "batching": {"max_items": setting.batch, "max_wait_ms": 10},
    }
    pool = {"gpu": "any", "gpus": 1, "gpu_memory_gb": 2 * _GPU_GB} if on_gpu else {}
    return parse(
        {
            "name": f"bench-{kind.replace('_', '-')}",
            "node_pools": {"local": pool},
            "models": {kind: model},
            "server": {"metrics_port": ingress.free_ports(1)[0]},
        }
    )
