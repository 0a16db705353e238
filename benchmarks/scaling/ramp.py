"""A ramp of requests to CLIP of which a share goes on to LLaVA: when LLaVA's replicas are asked for, and who waits.

A cascade over two scripted models on nodes that Ray's autoscaler starts. Each further LLaVA replica needs a node of its
own, which takes a while, and then loads its weights: whoever asks for it when LLaVA's queue has grown is late.
"""

from __future__ import annotations

import asyncio
import io
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import httpx
import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.load import Run, open_loop, quantile
from benchmarks.report import Column, Report, this_command
from benchmarks.scaling.files import file, model
from benchmarks.scaling.models import ANALYSE_ITEMS, ANALYSE_PER_S, ANALYSE_START_S, LEAST, SCREEN_ITEMS
from benchmarks.scaling.site import Site, site
from benchmarks.scaling.state import State
from benchmarks.traffic.arrivals import Poisson, Ramp
from serve.errors import Unavailable

POLICIES: Final = ("queue", "cascade")
SLO_S: Final = 2.5
GOAL = (
    f"with the cascade's policy LLaVA's replicas are asked for earlier than with the queue's, and fewer requests take "
    f"more than {SLO_S:g} s or fail"
)
ESCALATED: Final = 0.3
BOOT_S: Final = 5.0
RAY_START_S: Final = 6.0
"""Of Ray on a new node, and of a replica's process, roughly; the policy measures what it really takes."""
_SHED: Final = "Http429"
_WAIT_S, _POLL_S, _GRACE_S = 150.0, 0.5, 15.0
_COLUMNS = (
    Column("policy", "policy"),
    Column("requests", "requests", "d"),
    Column("shed", "shed", "d"),
    Column("failed", "failed", "d"),
    Column("late", f"> {SLO_S:g} s", "d"),
    Column("over", "all three", "d"),
    Column("over_share", "share", ".1%"),
    Column("p95_ms", "p95 ms", ".0f"),
    Column("p99_ms", "p99 ms", ".0f"),
    Column("second_asked_s", "2nd asked, s", ".1f"),
    Column("second_runs_s", "runs, s", ".1f"),
    Column("third_asked_s", "3rd asked, s", ".1f"),
    Column("third_runs_s", "runs, s", ".1f"),
    Column("node_seconds", "node s", ".0f"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The requests.

    By default such that a right policy can succeed: twice the calm is 0.36 of what one LLaVA replica does; the ramp
    passes what one does after 37 s and what two do after 83 s, about twice and four times what a replica takes to start
    with its node; and the peak is 0.72 of what all three do.

    Attributes:
        from_per_s, to_per_s: rates before and after the ramp.
        calm_s, ramp_s, hold_s: how long the first, the ramp and the second last.
    """

    from_per_s: float = 3.0
    to_per_s: float = 36.0
    calm_s: float = 20.0
    ramp_s: float = 90.0
    hold_s: float = 20.0
    seed: int = 1

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.calm_s + self.ramp_s + self.hold_s

    def times(self) -> list[float]:
        """When requests are sent."""
        calm = Poisson(rate_per_s=self.from_per_s).times(self.calm_s, self.seed)
        ramp = Ramp(from_per_s=self.from_per_s, to_per_s=self.to_per_s).times(self.ramp_s, self.seed + 1)
        hold = Poisson(rate_per_s=self.to_per_s).times(self.hold_s, self.seed + 2)
        return [*calm.tolist(), *(self.calm_s + ramp).tolist(), *(self.calm_s + self.ramp_s + hold).tolist()]


@dataclass(slots=True)
class Watch:
    """LLaVA's replicas and its nodes over time, in seconds since the ramp began.

    Attributes:
        wanted, running: (when, how many), at each change and at the end.
        nodes: of its pool.
    """

    wanted: list[tuple[float, int]] = field(default_factory=list)
    running: list[tuple[float, int]] = field(default_factory=list)
    nodes: list[tuple[float, int]] = field(default_factory=list)

    def note(self, at: float, state: State) -> None:
        """Adds what has changed."""
        llava = state.deployments["llava"]
        for series, value in (
            (self.wanted, llava.wanted),
            (self.running, len(llava.running)),
            (self.nodes, state.count("a100")),
        ):
            if not series or series[-1][1] != value:
                series.append((at, value))


def first(series: Sequence[tuple[float, int]], least: int) -> float | None:
    """When a series first reached a value; None when it never did."""
    return next((at for at, value in series if value >= least), None)


def area(series: Sequence[tuple[float, int]], end: float) -> float:
    """The integral of a series of steps up to `end`."""
    bounds = [at for at, _ in series] + [end]
    return sum(value * max(0.0, until - at) for (_, value), at, until in zip(series, bounds, bounds[1:], strict=False))


def over_by(done: Run, width_s: float) -> list[int]:
    """Requests that failed, were shed or took more than `SLO_S`, by when they were due: one count each `width_s`."""
    counts = [0] * math.ceil(done.end / width_s)
    for one in done.samples:
        took = (done.closed if one.ended is None else one.ended) - one.intended
        if one.error is not None or took > SLO_S:
            counts[int(one.intended / width_s)] += 1
    return counts


def cluster(policy: str) -> dict[str, Any]:
    """The cascade, and node groups of one node at least and three at most."""
    bounds = {"min_nodes": 1, "kubernetes": {"idle_timeout_s": 60}}
    t4 = {"gpu": "T4", "gpus": 1, "gpu_memory_gb": 16, "cpus": 4, "memory_gb": 8, **bounds, "max_nodes": 1}
    a100 = {"gpu": "A100", "gpus": 1, "gpu_memory_gb": 40, "cpus": 4, "memory_gb": 8, **bounds, "max_nodes": 3}
    clip = model(4, "t4", kind="Screen", batching={"max_items": SCREEN_ITEMS})
    llava = model(24, "a100", kind="Analyse", batching={"max_items": ANALYSE_ITEMS})
    # In progress at a replica: as many as a pass takes. The delay is a third of Ray's own.
    llava["autoscaling"] = {
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": ANALYSE_ITEMS,
        "upscale_delay_s": 10,
        "start_s": BOOT_S + ANALYSE_START_S + RAY_START_S,
    }
    threshold = LEAST + ESCALATED * (1 - LEAST)
    steps = [
        {"name": "screen", "use": "clip", "task": "classify", "accept": {"rule": "confidence", "at_least": threshold}},
        {"name": "analyse", "use": "llava", "task": "classify"},
    ]
    cascade = {"answer": "label", "labels": ["safe", "unsafe"], "deadline_s": 10, "on_failure": "error", "steps": steps}
    content = file({"clip": clip, "llava": llava}, {"t4": t4, "a100": a100}, cascades={"moderation": cascade})
    return content | {"autoscaling": {"policy": policy}}


def run(plan: Plan, policies: Sequence[str], progress: Console) -> Report:
    """One cluster after the other, each under the same requests."""
    report = Report(
        this_command(),
        f"{plan.calm_s:g} s of {plan.from_per_s:g} requests/s to CLIP, then in {plan.ramp_s:g} s up to "
        f"{plan.to_per_s:g}/s, and {plan.hold_s:g} s more; {ESCALATED:.0%} go on to LLaVA, of which a replica does "
        f"{ANALYSE_PER_S:g}/s. Times of the second and third LLaVA are since the ramp began",
        GOAL,
        _COLUMNS,
        {"plan": asdict(plan), "escalated": ESCALATED}
        | {"slo_s": SLO_S, "boot_s": BOOT_S, "start_s": ANALYSE_START_S, "cluster": cluster("queue")},
    )
    for policy in policies:
        progress.print(f"  policy {policy}: {plan.seconds:g} s of requests", highlight=False)
        done, watch = _measure(cluster(policy), plan)
        report.rows.append(_row(policy, plan, done, watch))
        report.notes += [
            f"{policy}: LLaVA replicas wanted {_told(watch.wanted)}; running {_told(watch.running)}; "
            f"A100 nodes {_told(watch.nodes)}",
            f"{policy}: over the objective in each 10 s of the run: {', '.join(map(str, over_by(done, 10.0)))}",
        ]
    report.notes += [
        f"A node of the autoscaler comes up after {BOOT_S:g} s and Ray's own start; a LLaVA replica loads for "
        f"{ANALYSE_START_S:g} s. Passes and starts are waits; router, batcher, Ray Serve and autoscaler are real. "
        f"Moments are seen every {_POLL_S:g} s. While LLaVA's calls wait too long, the router sheds requests (429). "
        "Node seconds are those of A100 nodes over the run.",
    ]
    _judge(report, policies)
    return report


def _measure(content: Mapping[str, Any], plan: Plan) -> tuple[Run, Watch]:
    with site(content, boot_s=BOOT_S) as nodes:
        nodes.deploy(content)
        nodes.until("everything runs", lambda state: state.all_run(), seconds=_WAIT_S)
        nodes.until_ready(seconds=_WAIT_S)
        asyncio.run(_warm(nodes.http))
        watch, stop, began = Watch(), threading.Event(), time.time() + plan.calm_s
        thread = threading.Thread(target=_follow, args=(nodes, watch, stop, began))
        thread.start()
        try:
            return asyncio.run(_load(nodes.http, plan)), watch
        finally:
            stop.set()
            thread.join()


def _follow(nodes: Site, watch: Watch, stop: threading.Event, began: float) -> None:
    while not stop.wait(_POLL_S):
        found = nodes.state()
        watch.note(found.at - began, found)


async def _warm(http: str) -> None:
    """A few requests, until a whole cascade has been answered."""
    async with _client(http) as client:
        for number in range(20):
            await _ask(client, _image(-1 - number))


async def _load(http: str, plan: Plan) -> Run:
    async with _client(http) as client:
        images = [_image(number) for number in range(len(plan.times()))]

        async def call(number: int) -> None:
            await _ask(client, images[number])

        return await open_loop(call, plan.times(), warm_up_s=0.0, seconds=plan.seconds, grace_s=_GRACE_S)


def _client(http: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx.AsyncClient(base_url=http, timeout=30, limits=limits, trust_env=False)


async def _ask(client: httpx.AsyncClient, image: bytes) -> None:
    response = await client.post("/v1/cascades/moderation", files={"image": ("image.png", image, "image/png")})
    if not response.is_success:
        raise _failure(response)


def _failure(response: httpx.Response) -> Exception:
    """An exception named after the status, which the report counts by name."""
    return type(f"Http{response.status_code}", (Exception,), {})(response.text[:200])


def _image(number: int) -> bytes:
    """Small, and like no other."""
    pixels = np.random.default_rng([7, number + 1000]).integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _row(policy: str, plan: Plan, done: Run, watch: Watch) -> dict[str, Any]:
    took = done.latencies()
    errors = done.errors()
    if not took:
        raise Unavailable(f"policy {policy}: no request was answered: {errors}")
    late = sum(seconds > SLO_S for seconds in took)
    over = late + sum(errors.values())
    return {
        "policy": policy,
        "requests": len(done.samples),
        "shed": errors.get(_SHED, 0),
        "failed": sum(errors.values()) - errors.get(_SHED, 0),
        "late": late,
        "errors": errors,
        "over": over,
        "over_by_10_s": over_by(done, 10.0),
        "over_share": over / len(done.samples),
        "p50_ms": 1e3 * quantile(took, 0.5),
        "p95_ms": 1e3 * quantile(took, 0.95),
        "p99_ms": 1e3 * quantile(took, 0.99),
        "second_asked_s": first(watch.wanted, 2),
        "second_runs_s": first(watch.running, 2),
        "third_asked_s": first(watch.wanted, 3),
        "third_runs_s": first(watch.running, 3),
        "node_seconds": area(watch.nodes, plan.ramp_s + plan.hold_s),
        "wanted": watch.wanted,
        "running": watch.running,
        "nodes": watch.nodes,
    }


def _told(series: Sequence[tuple[float, int]]) -> str:
    return ", ".join(f"{value} at {at:.1f} s" for at, value in series) or "never"


def _judge(report: Report, policies: Sequence[str]) -> None:
    rows = {row["policy"]: row for row in report.rows}
    if set(policies) != set(POLICIES):
        report.notes.append("One policy alone was measured, so there is nothing to compare.")
        return
    ours, plain = rows["cascade"], rows["queue"]
    asked, other = ours["second_asked_s"], plain["second_asked_s"]
    if asked is None or (other is not None and asked >= other):
        report.misses.append(
            f"the second LLaVA replica was asked for at {asked} s; with the queue's policy at {other} s"
        )
    if ours["over"] >= plain["over"]:
        report.misses.append(f"{ours['over']} requests over the objective; with the queue's policy {plain['over']}")
