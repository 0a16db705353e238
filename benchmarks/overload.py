"""`argus bench overload`: three times what a model can do for a minute, from three classes of clients.

A scripted model of known capacity (`benchmarks.scripted`) behind the whole of Argus: HAProxy, keys, admission, guard,
batcher. Arrivals are Poisson and do not wait for answers. First calls go straight to the model, then through a cascade
whose screen leaves most of its requests to that model, with gears off and on.
"""

from __future__ import annotations

import asyncio
import io
import random
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx
from PIL import Image
from rich.console import Console

from benchmarks.load import Run, Sample, open_loop, poisson_arrivals, quantile
from benchmarks.report import Column, Report, this_command
from benchmarks.scripted import CAPACITY_PER_S, LEAST, PASS_S, SLOTS
from benchmarks.servers import argus
from serve.auth import hash_key
from serve.config.overload import PRIORITIES, Priority

OVERLOAD: Final = 3.0
# Of the capacity, in the order of `PRIORITIES`: the top class alone fits.
SHARES: Final[Mapping[Priority, float]] = {"high": 0.6, "normal": 1.0, "low": 1.4}
DEADLINE_S: Final = 4.0
TOP_GOODPUT, MOST_RECOVERY_S, MOST_LOST = 0.95, 5.0, 0.001
GOAL = (
    f"at {OVERLOAD:g}x capacity >= {TOP_GOODPUT:.0%} of the top class, which alone would fit, is answered in time; "
    f"p99 of answers within the deadline of {DEADLINE_S:g} s; everybody is served as before within {MOST_RECOVERY_S:g} "
    f"s of the load's end; of requests that are not turned away <= {MOST_LOST:.1%} get no answer in time"
)
# The screen of the cascade keeps what it is surer of than this, in normal and in high gear.
_NORMAL, _GEARED = 0.9, 0.77
_CALM = 0.5
_BEFORE_S, _AFTER_S = 20.0, 20.0
# As before: all are answered, with a P95 of at most this many times what it was; judged over at least so many seconds.
_AS_BEFORE, _JUDGED_S, _STEP_S = 1.25, 8.0, 0.5
_COLUMNS = (
    Column("setup", "setup"),
    Column("priority", "class"),
    Column("offered_per_s", "offered/s", ".1f"),
    Column("goodput_per_s", "in time/s", ".1f"),
    Column("goodput", "in time", ".1%"),
    Column("shed", "shed", ".1%"),
    Column("shed_p99_ms", "shed after p99 ms", ".0f"),
    Column("lost", "kept, no answer", ".2%"),
    Column("p50_ms", "p50 ms", ".0f"),
    Column("p99_ms", "p99 ms", ".0f"),
    Column("recovery_s", "recovery s", ".1f"),
)


class Shed(Exception):
    """429 with Retry-After: turned away at once."""


class Late(Exception):
    """Accepted and then not answered in time."""


class Failed(Exception):
    """Anything else."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One thing to overload.

    Attributes:
        capacity_per_s: requests a second that it can answer as configured.
        path: where it is asked.
    """

    title: str
    path: str
    capacity_per_s: float


def setups() -> list[Setup]:
    """The model itself, and cascades over it."""
    escalated = (_NORMAL - LEAST) / (1 - LEAST)
    capacity = CAPACITY_PER_S / escalated
    return [
        Setup("model", "/v1/classify?model=slow&labels=safe,unsafe", CAPACITY_PER_S),
        Setup("cascade, gears off", "/v1/cascades/plain", capacity),
        Setup("cascade, gears on", "/v1/cascades/geared", capacity),
    ]


def cluster(keys: Mapping[Priority, str]) -> dict[str, Any]:
    """Argus with both scripted models, the cascade twice, and one tenant of each class."""

    def model(kind: str, max_items: int) -> dict[str, Any]:
        return {
            "kind": "custom",
            "implementation": f"benchmarks.scripted:{kind}",
            "tasks": ["classify"],
            "batching": {"max_items": max_items},
            "placement": {"num_cpus": 0.1},
        }

    def cascade(*gears: dict[str, Any]) -> dict[str, Any]:
        return {
            "answer": "label",
            "labels": ["safe", "unsafe"],
            "deadline_s": DEADLINE_S,
            "on_failure": "error",
            "steps": [
                {
                    "name": "screen",
                    "use": "sure",
                    "task": "classify",
                    "accept": {"rule": "confidence", "at_least": _NORMAL},
                },
                {"name": "analyse", "use": "slow", "task": "classify"},
            ],
            "gears": list(gears),
        }

    geared = {"name": "fast", "above_queue_wait_ms": 1e3 * PASS_S / 2, "thresholds": {"screen": _GEARED}}
    return {
        "node_pools": {"local": {"cpus": 2}},
        "models": {"sure": model("Sure", 32), "slow": model("Slow", SLOTS)},
        "cascades": {"plain": cascade(), "geared": cascade(geared)},
        "resilience": {"cache": {"enabled": False}},
        "router": {"num_cpus": 0.1},
        "auth": {"keys": [{"name": priority, "sha256": hash_key(key)} for priority, key in keys.items()]},
        "tenants": {priority: {"priority": priority} for priority in keys},
    }


@dataclass(frozen=True, slots=True)
class Plan:
    """Who sends when.

    Attributes:
        times: sorted, in seconds.
        classes: of each request.
        start, end: of the overload.
    """

    times: Sequence[float]
    classes: Sequence[Priority]
    start: float
    end: float


def plan(capacity_per_s: float, seconds: float, seed: int) -> Plan:
    """Calm, then `seconds` of overload, then calm again."""
    start, end = _BEFORE_S, _BEFORE_S + seconds
    drawn: list[tuple[float, Priority]] = []
    for number, priority in enumerate(PRIORITIES):
        peak = SHARES[priority] * capacity_per_s
        calm = _CALM * peak / OVERLOAD
        for piece, (since, lasts, rate) in enumerate(((0, start, calm), (start, seconds, peak), (end, _AFTER_S, calm))):
            times = poisson_arrivals(rate, lasts, seed=100 * seed + 10 * number + piece)
            drawn += [(since + time, priority) for time in times]
    drawn.sort()
    return Plan([time for time, _ in drawn], [priority for _, priority in drawn], start, end)


def run(*, seconds: float, seed: int, progress: Console) -> Report:
    """Overloads one setup after the other."""
    keys: dict[Priority, str] = {priority: secrets.token_urlsafe(32) for priority in PRIORITIES}
    report = Report(
        this_command(),
        f"Overload: {OVERLOAD:g}x capacity for {seconds:g} s, three classes, deadline {DEADLINE_S:g} s",
        GOAL,
        _COLUMNS,
        {
            "seconds": seconds,
            "seed": seed,
            "shares_of_capacity": dict(SHARES),
            "calm_share_of_capacity": _CALM,
            "thresholds": {"normal": _NORMAL, "gear": _GEARED},
        },
    )
    with argus("bench-overload", cluster(keys)) as (http, _):
        for setup in setups():
            progress.print(f"  {setup.title}: {OVERLOAD * setup.capacity_per_s:.0f} requests/s", highlight=False)
            schedule = plan(setup.capacity_per_s, seconds, seed)
            gears: list[str] = []
            done = asyncio.run(_drive(http + setup.path, keys, schedule, gears))
            report.rows += rows(setup.title, schedule, done)
            in_gear = sum(gear != "normal" for gear in gears) / max(1, len(gears))
            report.rows[-1]["in_gear"] = in_gear
            report.notes.append(f"{setup.title}: {in_gear:.0%} of the answers came from a gear (x-argus-gear).")
    report.misses = judge(report.rows)
    report.notes.append(
        f"Capacity: {CAPACITY_PER_S:g} calls/s of the slow model. `in time`: answered within {DEADLINE_S:g} s of the "
        "intended time of sending, of all that were due during the overload; `kept`: not turned away with a 429. "
        "`recovery`: from the end of the overload until all that came were answered, their P95 at most "
        f"{_AS_BEFORE:g} times that of the {_BEFORE_S:g} s of calm before."
    )
    return report


async def _drive(url: str, keys: Mapping[Priority, str], schedule: Plan, gears: list[str]) -> Run:
    bodies = _pictures(len(schedule.times))
    timeout = f"{1e3 * DEADLINE_S:.0f}"
    headers = {
        priority: {"authorization": f"Bearer {key}", "content-type": "image/png", "x-argus-timeout-ms": timeout}
        for priority, key in keys.items()
    }
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    async with httpx.AsyncClient(timeout=2 * DEADLINE_S + 10, limits=limits, trust_env=False) as client:

        async def call(number: int) -> None:
            try:
                answer = await client.post(url, content=bodies[number], headers=headers[schedule.classes[number]])
            except httpx.HTTPError as error:
                raise Failed(str(error)) from error
            if answer.status_code == httpx.codes.TOO_MANY_REQUESTS and "retry-after" in answer.headers:
                raise Shed
            if answer.status_code == httpx.codes.GATEWAY_TIMEOUT:
                raise Late
            if not answer.is_success:
                raise Failed(answer.text)
            gears.append(answer.headers.get("x-argus-gear", "normal"))

        seconds = schedule.end + _AFTER_S
        return await open_loop(call, schedule.times, warm_up_s=0.0, seconds=seconds, grace_s=2 * DEADLINE_S)


def _pictures(count: int) -> list[bytes]:
    """Small images, all different, so that no cache answers for a model."""
    draw = random.Random(1)
    made = []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.frombytes("RGB", (8, 8), draw.randbytes(192)).save(buffer, "PNG")
        made.append(buffer.getvalue())
    return made


def rows(title: str, schedule: Plan, done: Run) -> list[dict[str, Any]]:
    """One row a class, and one for all together, which has the recovery time."""
    by_class: dict[str, list[Sample]] = {priority: [] for priority in PRIORITIES}
    for sample, priority in zip(done.samples, schedule.classes, strict=False):
        by_class[priority].append(sample)
    return [
        *({"setup": title, "priority": name, **_figures(some, schedule)} for name, some in by_class.items()),
        {
            "setup": title,
            "priority": "all",
            **_figures(done.samples, schedule),
            "recovery_s": recovery_s(done.samples, schedule),
        },
    ]


def _figures(samples: Iterable[Sample], schedule: Plan) -> dict[str, Any]:
    due = [sample for sample in samples if schedule.start <= sample.intended < schedule.end]
    shed = sorted(_latency(sample) for sample in due if sample.error == Shed.__name__)
    times = sorted(_latency(sample) for sample in due if _answered(sample))
    in_time = sum(time <= DEADLINE_S for time in times)
    accepted = len(due) - len(shed)
    seconds = schedule.end - schedule.start
    return {
        "offered_per_s": len(due) / seconds,
        "goodput_per_s": in_time / seconds,
        "goodput": in_time / max(1, len(due)),
        "shed": len(shed) / max(1, len(due)),
        "shed_p99_ms": 1e3 * quantile(shed, 0.99),
        "lost": (accepted - len(times)) / max(1, accepted),
        "p50_ms": 1e3 * quantile(times, 0.5),
        "p99_ms": 1e3 * quantile(times, 0.99),
    }


def recovery_s(samples: Sequence[Sample], schedule: Plan) -> float:
    """Seconds from the end of the overload after which everybody was served as before it; all that was measured when
    that never came."""
    calm = sorted(_latency(one) for one in samples if one.intended < schedule.start and _answered(one))
    usual = quantile(calm, 0.95)
    after = [one for one in samples if one.intended >= schedule.end]
    for step in range(int((_AFTER_S - _JUDGED_S) / _STEP_S) + 1):
        rest = [one for one in after if one.intended >= schedule.end + step * _STEP_S]
        times = sorted(_latency(one) for one in rest if _answered(one))
        if len(times) == len(rest) and quantile(times, 0.95) <= _AS_BEFORE * usual:
            return step * _STEP_S
    return _AFTER_S


def _answered(sample: Sample) -> bool:
    return sample.ended is not None and sample.error is None


def _latency(sample: Sample) -> float:
    assert sample.ended is not None, "only of what was answered"
    return sample.ended - sample.intended


def judge(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the goal is missed."""
    misses = []
    for row in found:
        where = f"{row['setup']}, {row['priority']}"
        if row["priority"] == PRIORITIES[0] and row["goodput"] < TOP_GOODPUT:
            misses.append(f"{where}: {row['goodput']:.1%} answered in time")
        if row["p99_ms"] > 1e3 * DEADLINE_S:
            misses.append(f"{where}: p99 of {row['p99_ms']:.0f} ms")
        if row["lost"] > MOST_LOST:
            misses.append(f"{where}: {row['lost']:.2%} of the accepted got no answer")
        if row.get("recovery_s", 0.0) > MOST_RECOVERY_S:
            misses.append(f"{where}: recovered after {row['recovery_s']:.1f} s")
    return misses
