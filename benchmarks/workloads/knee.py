"""How much the demo holds on this machine: each workload's knee, and goals for targets.yaml that follow from it.

    python -m benchmarks.workloads.knee --write
    python -m benchmarks.workloads.knee moderation llava_chat
    python -m benchmarks.workloads.knee --host http://127.0.0.1:8000 --grpc 127.0.0.1:9000 classification

A rate is held when the generator kept up, nothing failed, answers kept pace with requests (but for three, which may be
under way at the end), and the 95th percentile stayed within a few times of what a light load has; in one of two runs,
since a slow moment of the machine says nothing of the server. Where the goal leaves the 95th percentile out, because it
lies between two ways to an answer, the median stands for it. The knee is the greatest rate that was held. A goal is 70
% of it, with latency bounds of twice what a longer run at that rate measured, as reserve for slow minutes; both are
converted from the pace that the cores had to the one that all goals are stated for.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from rich.console import Console

from benchmarks.capacity.pace import pacing
from benchmarks.loadtest.run import run_load
from benchmarks.loadtest.settings import Settings
from benchmarks.loadtest.verdict import Figures, figures
from benchmarks.servers import ROOT
from benchmarks.targets import SHIPPED, Goal, Workload, load_targets
from benchmarks.workloads.goals import HARDWARE, RESERVE, goal_of, written
from benchmarks.workloads.serving import serving
from serve.errors import ArgusError, ConfigError, Unavailable

_PACE = 0.95
# Requests that may be under way when a run ends, of which a slow workload has few altogether.
_UNDER_WAY = 3
# Of the percentile that is looked at, over the one under a light load.
_STRETCH = 5.0
_STEP, _REFINE = 1.6, 2
_MOST_STEPS = 16
_TRIES = 2
_WARM_UP_S, _LONG = 3.0, 4.0
# A light load: this share of the present goal, and at least so many requests a second.
_LIGHT_SHARE, _LEAST_LIGHT = 0.25, 2.0

Measure = Callable[[float, float], Figures]
"""Loads at a rate for some seconds."""


def held(found: Figures, light: Figures, seconds: float, percentile: str = "p95_ms") -> bool:
    """Whether a rate was held for so many seconds, beside what a light load showed."""
    return (
        found.valid
        and found.failed_share == 0
        and found.paced_per_s >= _PACE * found.offered_per_s - _UNDER_WAY / seconds
        and getattr(found, percentile) <= _STRETCH * getattr(light, percentile)
    )


def search(is_held: Callable[[float], bool], first: float) -> float:
    """The greatest rate that is held: by steps of 60 % from `first`, then by bisection between the last two.

    Returns:
        0 when `first` is not held.
    """
    low, high = 0.0, first
    for _ in range(_MOST_STEPS):
        if not is_held(high):
            break
        low, high = high, high * _STEP
    for _ in range(_REFINE if low else 0):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if is_held(middle) else (low, middle)
    return low


def measure_with(
    name: str, workload: Workload, http: str, grpc: str, key_env: str, on_run: Callable[[str], None]
) -> Measure:
    """Loads a server with a workload."""

    def measure(rate: float, seconds: float) -> Figures:
        settings = Settings(
            workload=name,
            host=http,
            grpc=grpc,
            key_env=key_env,
            arrivals=workload.arrivals.scaled(rate),
            seconds=seconds,
            warm_up_s=_WARM_UP_S,
            grace_s=10,
        )
        record = run_load(settings, _file(name, workload))
        found = figures(record)
        faults = "".join(f"; {fault}" for fault in record.generator.faults)
        errors = "".join(f"; {one.count} {code}" for code, one in record.errors.items())
        on_run(
            f"{name} {rate:.3g}/s: {found.paced_per_s:.3g}/s answered, mean {found.mean_ms:.0f}, "
            f"P50 {found.p50_ms:.0f}, P95 {found.p95_ms:.0f}, P99 {found.p99_ms:.0f} ms, "
            f"escalated {found.escalated_share:.1%}{errors}{faults}"
        )
        return found

    return measure


def knee(measure: Measure, first: float, seconds: float, percentile: str = "p95_ms") -> float:
    """The greatest rate that is held; `first` is the light load. 0 when that is not held."""
    light = measure(first, seconds)

    def is_held(rate: float) -> bool:
        if rate == first:
            return held(light, light, seconds, percentile)
        return any(held(measure(rate, seconds), light, seconds, percentile) for _ in range(_TRIES))

    return search(is_held, first)


def reserved(present: Goal | None, measure: Measure, seconds: float, first: float | None) -> tuple[float, Figures]:
    """A workload's knee, and what a longer run at `RESERVE` of it gave.

    Args:
        first: the light load, in requests a second; None for a share of the present goal.

    Raises:
        Unavailable: a load that had to be held was not.
    """
    light = first or max(_LEAST_LIGHT, _LIGHT_SHARE * (present.qps if present else 0.0))
    percentile = "p95_ms" if present is None or present.p95_ms is not None else "p50_ms"
    found = knee(measure, light, seconds, percentile)
    rate = RESERVE * found
    if not rate:
        raise Unavailable(f"{light:g}/s is not held")
    for _ in range(_TRIES):
        at_goal = measure(rate, _LONG * seconds)
        if held(at_goal, at_goal, _LONG * seconds, percentile):
            return found, at_goal
    raise Unavailable(f"{rate:.3g}/s, {RESERVE:.0%} of the knee, is not held for longer")


def _file(name: str, workload: Workload) -> Path:
    return ROOT / "benchmarks" / "workloads" / f"{workload.user or name}.py"


@contextmanager
def _target(name: str, workload: Workload, host: str | None, grpc: str) -> Iterator[tuple[str, str]]:
    if host is not None:
        yield host, grpc
        return
    with serving(f"knee-{name.replace('_', '-')}", workload.place(HARDWARE)) as addresses:
        yield addresses


def main() -> None:
    """Command line; prints goals as YAML."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", help="all of targets.yaml when left out")
    parser.add_argument("--write", action="store_true", help="put each goal into targets.yaml as soon as it is found")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of a run; the one at the goal is longer")
    parser.add_argument(
        "--first", type=float, help="light load, requests a second; by default 25%% of the present goal"
    )
    parser.add_argument("--host", help="URL of a server; by default each workload's own is started")
    parser.add_argument("--grpc", default="", help="host:port of its gRPC")
    parser.add_argument("--key-env", default="", help="environment variable with the API key")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    targets = load_targets()
    try:
        chosen = {name: targets.workload(name) for name in arguments.workloads or targets.workloads}
    except ConfigError as error:
        raise SystemExit(f"error {error.message}") from None
    missing = 0
    for name, workload in chosen.items():
        try:
            with _target(name, workload, arguments.host, arguments.grpc) as (http, grpc):
                measure = measure_with(name, workload, http, grpc, arguments.key_env, console.print)
                present, start = workload.goal(HARDWARE), time.monotonic()
                with pacing() as pace:
                    found, at_goal = reserved(present, measure, arguments.seconds, arguments.first)
                    end = time.monotonic()
                goal = goal_of(name, present, found, at_goal, pace.between(start, end))
        except ArgusError as error:
            console.print(f"{name}: {error.message}")
            missing += 1
            continue
        print(yaml.safe_dump({name: {HARDWARE: goal}}, sort_keys=False), flush=True)
        if arguments.write:
            SHIPPED.write_text(written(SHIPPED.read_text(encoding="utf-8"), name, goal), encoding="utf-8")
    if missing:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
