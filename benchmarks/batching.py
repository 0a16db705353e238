"""`argus bench batching`: our batcher beside Ray's `@serve.batch`, on simulated forward passes.

Both run in replicas of one Ray Serve instance. The arrivals are made inside the replica and call the batched method
directly, so that the figures are about the batcher and not about how fast a request reaches it: 1,600 requests a
second, what 32 items every 20 ms make, is more than a handle carries on a small machine. The forward pass is a sleep
of a fixed time whatever the batch size, like a GPU that a batch does not fill.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.load import open_loop, poisson_arrivals, quantile
from benchmarks.report import Column, Report, this_command
from serve.config.load import parse
from serve.runtime import ingress, state
from serve.runtime.local import LocalCluster, apply_environment

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

MAX_ITEMS = 32
LOADS = (0.25, 0.50, 0.75, 0.95)
LEAST_DONE = 0.95
MOST_PASSES = 2.5
# The latency goal holds up to this load: beyond it any queue of fixed service times grows long.
MOST_LOAD = 0.75
NAMES = {"argus": "Argus batcher", "ray": "@serve.batch"}
GOAL = (
    f"Argus completes >= {LEAST_DONE:.0%} of the offered load at every load, with p99 <= {MOST_PASSES} forward passes "
    f"up to {MOST_LOAD:.0%} of capacity"
)
_GRACE_PASSES = 10
_COLUMNS = (
    Column("forward_ms", "forward ms", ".0f"),
    Column("load", "load", ".0%"),
    Column("batcher", "batcher"),
    Column("offered_per_s", "offered/s", ".1f"),
    Column("done_share", "done/offered", ".3f"),
    Column("p50_passes", "p50 passes", ".2f"),
    Column("p99_passes", "p99 passes", ".2f"),
    Column("mean_batch", "mean batch", ".1f"),
    Column("unanswered", "unanswered", "d"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement: forward pass in seconds, offered share of capacity, window in seconds."""

    forward_s: float
    load: float
    seconds: float

    @property
    def rate_per_s(self) -> float:
        """Offered requests a second."""
        return self.load * MAX_ITEMS / self.forward_s

    @property
    def warm_up_s(self) -> float:
        """Sent and not measured: at least ten passes, so that the queue is in its steady state."""
        return max(1.0, 10 * self.forward_s)


class Probe:
    """A deployment with a batched method and its own load driver. Subclasses say how they batch."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._forward_s = 0.0
        self._sizes: list[int] = []

    async def _forward(self, items: list[int]) -> list[int]:
        self._sizes.append(len(items))
        await asyncio.sleep(self._forward_s)
        return items

    async def submit(self, item: int) -> int:
        """Runs one item in some batch."""
        raise NotImplementedError

    async def drive(self, cell: Cell, seed: int) -> dict[str, Any]:
        """One measurement, in this process."""
        self._forward_s, self._sizes = cell.forward_s, []
        seconds = cell.warm_up_s + cell.seconds
        run = await open_loop(
            self.submit,
            poisson_arrivals(cell.rate_per_s, seconds, seed),
            warm_up_s=cell.warm_up_s,
            seconds=seconds,
            grace_s=_GRACE_PASSES * cell.forward_s,
        )
        latencies = run.latencies()
        offered, done = run.offered_per_s(), run.done_per_s()
        return {
            "forward_ms": cell.forward_s * 1e3,
            "load": cell.load,
            "offered_per_s": offered,
            "done_per_s": done,
            "done_share": done / offered,
            "p50_passes": quantile(latencies, 0.50) / cell.forward_s,
            "p99_passes": quantile(latencies, 0.99) / cell.forward_s,
            "mean_batch": sum(self._sizes) / len(self._sizes),
            "samples": len(latencies),
            "unanswered": run.unanswered(),
            "errors": run.errors(),
        }


def misses(rows: list[dict[str, Any]]) -> list[str]:
    """Where Argus misses the goal."""
    found = []
    for row in rows:
        if row["batcher"] != NAMES["argus"]:
            continue
        where = f"forward {row['forward_ms']:.0f} ms at {row['load']:.0%}"
        if row["done_share"] < LEAST_DONE:
            found.append(f"{where}: completes {row['done_share']:.1%} of the offered load")
        if row["load"] <= MOST_LOAD and row["p99_passes"] > MOST_PASSES:
            found.append(f"{where}: p99 is {row['p99_passes']:.2f} forward passes")
    return found


def run(*, quick: bool, wait_ms: float, seed: int) -> Report:
    """Measures every cell with both batchers, in a shuffled order, each cell with the same arrivals for both."""
    cells = [
        Cell(forward_s, load, 1.0 if quick else seconds)
        for forward_s, seconds in ((0.02, 6.0), (0.08, 10.0), (0.2, 14.0))
        for load in (LOADS[2:3] if quick else LOADS)
    ]
    report = Report(
        this_command(),
        f"Batching, at most {MAX_ITEMS} items, wait at most {wait_ms:g} ms",
        GOAL,
        _COLUMNS,
        {
            "max_items": MAX_ITEMS,
            "wait_ms": wait_ms,
            "seed": seed,
            "window_s": {f"{c.forward_s * 1e3:g} ms": c.seconds for c in cells},
        },
    )
    jobs = [(cell, kind) for cell in cells for kind in NAMES]
    random.Random(seed).shuffle(jobs)
    with _probes(wait_ms / 1e3) as handles:
        report.rows = asyncio.run(_measure(handles, jobs, seed))
    report.rows.sort(key=lambda row: (row["forward_ms"], row["load"], row["batcher"]))
    report.notes = [
        "Open-loop Poisson arrivals made inside the replica, latency from the intended send time; same arrivals for "
        "both batchers.",
        f"A request unanswered {_GRACE_PASSES} passes after the window counts with the time it had waited: its p99 is "
        "then a lower bound.",
    ]
    report.misses = misses(report.rows)
    return report


async def _measure(
    handles: dict[str, DeploymentHandle[Any]], jobs: list[tuple[Cell, str]], seed: int
) -> list[dict[str, Any]]:
    """One row a job. In one event loop, which the handles of a throughput-optimised Ray Serve need."""
    return [{"batcher": NAMES[kind], **await handles[kind].drive.remote(cell, seed)} for cell, kind in jobs]


@contextmanager
def _probes(wait_s: float) -> Iterator[dict[str, DeploymentHandle[Any]]]:
    """A Ray Serve instance without HTTP, with one deployment for each batcher."""
    name = "bench-batching"
    folder = state.run_dir(name)
    state.write_token(folder)
    apply_environment(ingress.environment(folder, None))
    metrics_port = ingress.free_ports(1)[0]
    cluster = parse(
        {
            "name": name,
            "node_pools": {"local": {}},
            "models": {"noop": {"kind": "custom", "implementation": "benchmarks.noop:NoopModel", "tasks": ["embed"]}},
            "server": {"metrics_port": metrics_port},
        }
    )
    local = LocalCluster(cluster, folder)
    try:
        local.start_ray()
        from ray import serve

        from benchmarks.probes import ArgusProbe, RayProbe

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled")
        options = {"max_ongoing_requests": 10_000, "ray_actor_options": {"num_cpus": 0.5}}
        yield {
            kind: serve.run(serve.deployment(probe, name=kind, **options).bind(wait_s), name=kind, route_prefix=None)
            for kind, probe in (("argus", ArgusProbe), ("ray", RayProbe))
        }
    finally:
        local.stop()
