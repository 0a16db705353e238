"""`argus bench rolling-update`: code, a model's revision, settings of the router, and settings that need no restart."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import httpx
from rich.console import Console

from benchmarks import material
from benchmarks.report import Column, Report, this_command
from benchmarks.rolling_update.site import Site, running
from benchmarks.rolling_update.traffic import LONG_S, Traffic, drive, picture

REQUESTS: Final = 10_000
GOAL: Final = (
    f"of >= {REQUESTS:,} requests during and around the updates none fails; afterwards only new replicas answer, and "
    "what needs no restart restarts nothing"
)
# Traffic before an update begins, and after it is through, in seconds.
_BEFORE_S, _AFTER_S = 2.0, 2.0
_ANSWER_S: Final = 60.0
_COLUMNS: Final = (
    Column("kind", "update"),
    Column("replaced", "deployments replaced"),
    Column("requests", "requests", ",d"),
    Column("failed", "failed", "d"),
    Column("stall_ms", "longest without an answer, ms", ".0f"),
    Column("slowest_ms", "slowest answer, ms", ".0f"),
    Column("p99_ms", "p99 ms", ".0f"),
    Column("update_s", "until all are new, s", ".1f"),
)


@dataclass(frozen=True, slots=True)
class Update:
    """One change.

    Attributes:
        change: of the site's files.
        replaced: deployments whose replicas must be others afterwards; those of all others must be the same.
        arrived: whether the change is there, asked once it has been rolled out.
    """

    kind: str
    change: Callable[[Site], None]
    replaced: frozenset[str]
    arrived: Callable[[Site], bool]


def updates(*, clip: bool) -> list[Update]:
    """Every kind, in the order in which they are rolled out."""
    found = [
        Update("code version", lambda site: site.write_code(2), frozenset({"telling"}), _tells("code", 2)),
        Update("user_config only", _larger_batches, frozenset(), _tells("max_items", 16)),
        Update("router's settings", _fewer_labels, frozenset({"router"}), _refuses_four_labels),
    ]
    if clip:
        revision = Update("model revision", _other_checkpoint, frozenset({"clip", "router"}), _names_the_copy)
        found.insert(1, revision)
    return found


def _larger_batches(site: Site) -> None:
    for model in site.content["models"].values():
        model["batching"] = {"max_items": 16, "max_queue": 600}
    site.write()


def _other_checkpoint(site: Site) -> None:
    model = site.content["models"]["clip"]
    copy = site.folder / "clip-2"
    shutil.copytree(model["checkpoint"], copy)
    model["checkpoint"] = str(copy)
    site.write()


def _fewer_labels(site: Site) -> None:
    site.content["limits"] = {"max_labels": 3}
    site.write()


def _tells(what: str, wanted: int) -> Callable[[Site], bool]:
    def test(site: Site) -> bool:
        return {_ask(site, "code,max_items,process").get(what) for _ in range(20)} == {wanted}

    return test


def _ask(site: Site, labels: str) -> dict[str, int]:
    """Each question on a connection of its own, so that every router is met."""
    answer = httpx.post(
        f"{site.http}/v1/classify",
        params={"model": "telling", "labels": labels},
        content=picture(),
        headers={"content-type": "image/png"},
        trust_env=False,
        timeout=_ANSWER_S,
    )
    if not answer.is_success:
        return {"status": answer.status_code}
    return {one["label"]: int(one["probability"]) for one in answer.json()["results"][0]["scores"]}


def _refuses_four_labels(site: Site) -> bool:
    return all(_ask(site, "code,max_items,process,more").get("status") == 400 for _ in range(20))


def _names_the_copy(site: Site) -> bool:
    def checkpoint() -> str | None:
        cards = httpx.get(f"{site.http}/v1/models", trust_env=False, timeout=_ANSWER_S).json()["data"]
        return next((card["checkpoint"] for card in cards if card["id"] == "clip"), None)

    return {checkpoint() for _ in range(20)} == {"clip-2"}


def run(*, requests: int, rate_per_s: float, seed: int, clip: bool, progress: Console) -> Report:
    """Rolls out one change after the other.

    Args:
        requests: fewest in all.
        clip: with a CLIP and its change of revision; without, the cluster starts within seconds.
    """
    report = Report(
        this_command(),
        f"Rolling updates under {rate_per_s:g} requests/s, one in twenty of which takes {LONG_S:g} s",
        GOAL,
        _COLUMNS,
        {"requests": requests, "rate_per_s": rate_per_s, "seed": seed, "clip": clip},
    )
    planned = updates(clip=clip)
    with running(checkpoint=material.DEMO_CLIP if clip else None) as site:
        for number, one in enumerate(planned):
            progress.print(f"  {one.kind}", highlight=False)
            row, misses = _roll(site, one, -(-requests // len(planned)), rate_per_s, seed + number)
            report.rows.append(row)
            report.misses += misses
    total = sum(row["requests"] for row in report.rows)
    if total < requests:
        report.misses.append(f"{total:,} requests were sent, not {requests:,}")
    report.notes.append(
        f"{total:,} requests in all: HTTP and gRPC, two routers, two replicas of each model; sent when they are due, "
        "whether or not earlier ones were answered. `failed`: anything but a good answer. `until all are new`: how "
        "long argus update took, its own start included."
    )
    return report


def _roll(site: Site, one: Update, least: int, rate_per_s: float, seed: int) -> tuple[dict[str, Any], list[str]]:
    before = site.processes()
    traffic, took_s = asyncio.run(under_load(site, one, least, rate_per_s, seed))
    after = site.processes()
    row = {
        "kind": one.kind,
        "replaced": ", ".join(sorted(one.replaced)) or "none",
        "requests": len(traffic.samples),
        "failed": len(traffic.failed()),
        "stall_ms": 1e3 * traffic.stall_s(),
        "slowest_ms": 1e3 * max(traffic.latencies(), default=0.0),
        "p99_ms": 1e3 * traffic.p99_s(),
        "update_s": took_s,
    }
    return row, misses(one, traffic, before, after, arrived=one.arrived(site))


async def under_load(site: Site, one: Update, least: int, rate_per_s: float, seed: int) -> tuple[Traffic, float]:
    """The traffic, and how long the update took in seconds."""
    loop, through = asyncio.get_running_loop(), 0.0

    def enough(sent: int) -> bool:
        return bool(through) and sent >= least and time.monotonic() > through + _AFTER_S

    async def update() -> float:
        nonlocal through
        await asyncio.sleep(_BEFORE_S)
        began = time.monotonic()
        try:
            with ThreadPoolExecutor(1) as pool:
                await loop.run_in_executor(pool, lambda: (one.change(site), site.update()))
            return time.monotonic() - began
        finally:
            through = time.monotonic()  # also when it failed: the traffic must end

    clip = "clip" in site.content["models"]
    return await asyncio.gather(
        drive(site.http, site.grpc, clip=clip, rate_per_s=rate_per_s, seed=seed, enough=enough), update()
    )


def misses(
    one: Update,
    traffic: Traffic,
    before: Mapping[str, set[int]],
    after: Mapping[str, set[int]],
    *,
    arrived: bool,
) -> list[str]:
    """Where an update falls short of the goal."""
    found = []
    if failed := traffic.failed():
        reasons = sorted({f"{sample.kind}: {sample.error or 'no answer'}" for sample in failed})
        found.append(f"{one.kind}: {len(failed)} requests failed: {'; '.join(reasons[:3])}")
    if not arrived:
        found.append(f"{one.kind}: old answers after the update")
    for name in before:
        kept = before[name] & after.get(name, set())
        if name in one.replaced and kept:
            found.append(f"{one.kind}: {len(kept)} old replicas of {name} still run")
        if name not in one.replaced and before[name] != after.get(name):
            found.append(f"{one.kind}: replicas of {name} were replaced")
    return found
