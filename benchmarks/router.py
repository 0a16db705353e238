"""`argus bench router`: what the router's decisions cost a request, part by part, and what a cascade costs over HTTP.

First in this process, without a network: each part of the path alone, on the configuration that a cluster file without
further settings gives. Then the no-op model of `argus bench overhead` over HTTP, asked directly and through a cascade
of one step, in turn and in one run, so that their ratio holds whatever else the machine does.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import numpy as np

from benchmarks import material, overhead, wrk
from benchmarks.report import Column, Report, this_command
from benchmarks.servers import argus
from deployments.generation.messages import ImagePart, Message
from deployments.messages import ClassifyRequest, ClassifyResult, EncodedImage, Scores
from serve.calls import Called, Calls, Usage
from serve.cascade.gears import GearBox
from serve.cascade.run import Runner
from serve.cascade.steps import StepCaller
from serve.cascade.types import Asked
from serve.config.cluster import ClusterFile
from serve.config.load import parse
from serve.context import RequestContext
from serve.resilience.admission import build_admission, lane_of
from serve.resilience.build import build_guard
from serve.resilience.guard import Attempted, Job
from serve.resilience.recorder import Silent
from serve.services import image_limits

MOST_US, LEAST_RATIO = 200.0, 0.75
GOAL = (
    f"all decisions together take <= {MOST_US:g} us a request (median), and a cascade of one step serves >= "
    f"{LEAST_RATIO:.0%} of the requests a second of its model asked directly"
)
_IMAGE_BYTES: Final = 10_000
_CASCADE: Final = "one"
_COLUMNS = (
    Column("part", "part"),
    Column("us", "us/request", ".1f"),
    Column("worst_us", "slowest round, us", ".1f"),
    Column("per_s", "requests/s", ".0f"),
    Column("ratio", "of direct", ".2f"),
    Column("p50_ms", "p50 ms", ".2f"),
    Column("p99_ms", "p99 ms", ".2f"),
    Column("failed", "failed", "d"),
)
_RESULT = ClassifyResult((Scores(np.array([0.9, 0.1], np.float32), np.log(np.array([0.9, 0.1], np.float32))),), 1.0)
_REQUEST = ClassifyRequest((EncodedImage(b"image"),), ("red", "green"))


def cluster(key: str) -> dict[str, Any]:
    """The cluster of `argus bench overhead` with a cascade of one step over its model, which has a gear."""
    step = {"name": "screen", "use": "noop", "task": "classify", "accept": {"rule": "confidence", "at_least": 0.0}}
    gear = {"name": "fast", "above_queue_wait_ms": 10_000, "thresholds": {"screen": 0.0}}
    cascade = {"answer": "label", "labels": ["red", "green", "blue"], "steps": [step], "gears": [gear]}
    return {**overhead.cluster(key), "cascades": {_CASCADE: cascade}, "resilience": {"cache": {"enabled": False}}}


def run(*, rounds: int, calls: int, seconds: float, connections: int) -> Report:
    """Measures the parts `calls` times a round, then loads both routes in turn.

    Raises:
        Unavailable: wrk is missing, or Argus did not start.
    """
    wrk.wrk_path()
    report = Report(
        this_command(),
        f"Router decisions: medians of {rounds} rounds of {calls} requests; HTTP with {connections} connections",
        GOAL,
        _COLUMNS,
        {"rounds": rounds, "calls": calls, "seconds": seconds, "connections": connections, "image_bytes": _IMAGE_BYTES},
    )
    report.rows = asyncio.run(_parts(rounds, calls))
    decided = sum(row["us"] for row in report.rows)
    report.rows.append({"part": "together", "us": decided})
    report.rows += _over_http(rounds, seconds, connections)
    ratio = report.rows[-1]["ratio"]
    if decided > MOST_US:
        report.misses.append(f"decisions take {decided:.0f} us a request")
    if ratio < LEAST_RATIO:
        report.misses.append(f"the cascade serves {ratio:.0%} of what its model serves directly")
    report.misses += [f"{row['part']}: {row['failed']} requests failed" for row in report.rows if row.get("failed")]
    report.notes = [
        "Parts: in one process, no network, models that answer at once, metrics silent. `guard` holds deadline, "
        "budget, rates, places, breaker, hedge and retry around one attempt; `cascade` holds the step's deadline, "
        "request, decision and trace around one answer, its gear aside.",
        "HTTP: wrk, one thread, a closed loop; both routes in turn on one cluster, order shuffled every round.",
    ]
    return report


async def _parts(rounds: int, calls: int) -> list[dict[str, Any]]:
    config = parse({"name": "bench", **cluster(secrets.token_urlsafe(32))})
    context = RequestContext("r-1", "bench", time.monotonic() + 3600)
    parts: dict[str, Callable[[int], Awaitable[None]]] = {
        "admission and shedding": _admission(config, context),
        "gear": _gear(config),
        "cascade": _cascade(config, context),
        "guard": _guard(config, context),
    }
    took: dict[str, list[float]] = {name: [] for name in parts}
    for part in parts.values():
        await part(max(1, calls // 10))
    for _ in range(rounds):
        for name, part in parts.items():
            began = time.perf_counter()
            await part(calls)
            took[name].append(1e6 * (time.perf_counter() - began) / calls)
    return [{"part": name, "us": statistics.median(some), "worst_us": max(some)} for name, some in took.items()]


def _admission(config: ClusterFile, context: RequestContext) -> Callable[[int], Awaitable[None]]:
    """Class, lane, cut and place, in a lane whose calls report their waits."""
    admission = build_admission(config, lambda count: None)
    path = f"/v1/cascades/{_CASCADE}"
    with admission.enter(context, lane_of(path)):
        admission.waited(0.001)

    async def part(count: int) -> None:
        for _ in range(count):
            admission.priority(context.client, None)
            with admission.enter(context, lane_of(path)):
                admission.waited(0.001)

    return part


def _gear(config: ClusterFile) -> Callable[[int], Awaitable[None]]:
    """The load, and the gear that it asks for."""
    admission = build_admission(config, lambda count: None)
    cascade = config.cascades[_CASCADE]
    box = GearBox(cascade.gears, cascade.gear_hold_s)

    async def part(count: int) -> None:
        for _ in range(count):
            box.shift(admission.load(), time.monotonic())

    return part


class _AtOnce:
    """`Calls` whose models have answered already."""

    async def classify(
        self, name: str, request: ClassifyRequest, context: RequestContext, *, fallback: bool = False
    ) -> Called[ClassifyResult]:
        """The same answer every time."""
        return Called(_RESULT, Usage(), 0.0)


def _cascade(config: ClusterFile, context: RequestContext) -> Callable[[int], Awaitable[None]]:
    """One step: its deadline, its request, the decision on its answer, the trace."""
    cascade = config.cascades[_CASCADE].model_copy(update={"labels": _REQUEST.labels})
    caller = StepCaller(config, cascade, cast(Calls, _AtOnce()), image_limits(config))
    runner = Runner(_CASCADE, cascade, caller, {}, frozenset())
    asked = Asked((Message("user", (ImagePart(EncodedImage(b"image")),)),))

    async def part(count: int) -> None:
        for _ in range(count):
            await runner.run(asked, context, None)

    return part


def _guard(config: ClusterFile, context: RequestContext) -> Callable[[int], Awaitable[None]]:
    """Every stage around an attempt that is answered at once."""
    guard = build_guard(config, Silent(), lambda seconds, usual_s: None)

    async def attempt(timeout_s: float) -> Attempted[ClassifyResult]:
        return Attempted(_RESULT, Usage())

    async def part(count: int) -> None:
        for _ in range(count):
            await guard.run(Job("noop", attempt), context)

    return part


def _over_http(rounds: int, seconds: float, connections: int) -> list[dict[str, Any]]:
    key = secrets.token_urlsafe(32)
    headers = {"Authorization": f"Bearer {key}", "X-Argus-Timeout-Ms": "10000", "Content-Type": "image/jpeg"}
    files = material.jpegs(1, _IMAGE_BYTES, long_side=320)
    paths = {
        "HTTP, model asked directly": "/v1/classify?labels=red,green,blue",
        "HTTP, cascade of one step": f"/v1/cascades/{_CASCADE}",
    }
    loads: dict[str, list[wrk.Load]] = {name: [] for name in paths}
    with argus("bench-router", cluster(key)) as (http, _):

        def load(path: str, lasting: float) -> wrk.Load:
            return wrk.post(http + path, files, headers, connections=connections, seconds=lasting)

        for path in paths.values():
            load(path, 2.0)
        order = list(paths)
        for number in range(rounds):
            random.Random(number).shuffle(order)
            for name in order:
                loads[name].append(load(paths[name], seconds))
    rates = {name: statistics.median(one.per_s for one in some) for name, some in loads.items()}
    direct = next(iter(rates.values()))
    return [
        {
            "part": name,
            "us": 1e6 / rates[name],
            "per_s": rates[name],
            "ratio": rates[name] / direct,
            "p50_ms": 1e3 * statistics.median(one.p50_s for one in some),
            "p99_ms": 1e3 * statistics.median(one.p99_s for one in some),
            "failed": sum(one.failed for one in some),
        }
        for name, some in loads.items()
    ]
