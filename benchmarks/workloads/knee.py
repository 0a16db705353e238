"""How much the demo holds on this machine: each workload's knee, and goals for targets.yaml that follow from it.

    python -m benchmarks.workloads.knee moderation llava_chat
    python -m benchmarks.workloads.knee --host http://127.0.0.1:8000 --grpc 127.0.0.1:9000 classification

A rate is held when the generator kept up, nothing failed, answers kept pace with requests, and the 95th percentile
stayed within a few times of what a light load has. The knee is the greatest rate that was held. A goal is 70 % of it,
with latency bounds of twice what a longer run at that rate measured: reserve for slower machines and slow minutes.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import yaml
from rich.console import Console

from benchmarks.loadtest.run import run_load
from benchmarks.loadtest.settings import Settings
from benchmarks.loadtest.verdict import Figures, figures
from benchmarks.servers import ROOT
from benchmarks.targets import Goal, Workload, load_targets
from benchmarks.workloads.serving import serving
from serve.errors import ArgusError

HARDWARE = "cpu-demo"
RESERVE = 0.7
_SLACK = 2.0
_PACE = 0.95
# Of the 95th percentile over the one under a light load.
_STRETCH = 5.0
_STEP, _REFINE = 1.6, 2
_MOST_STEPS = 16
_WARM_UP_S, _LONG = 3.0, 4.0
_LATENCIES = ("mean_ms", "p50_ms", "p95_ms", "p99_ms")

Measure = Callable[[float, float], Figures]
"""Loads at a rate for some seconds."""


def held(found: Figures, light: Figures) -> bool:
    """Whether a rate was held, beside what a light load showed."""
    return (
        found.valid
        and found.failed_share == 0
        and found.paced_per_s >= _PACE * found.offered_per_s
        and found.p95_ms <= _STRETCH * light.p95_ms
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


def rounded(value: float, up: bool) -> float:
    """To two digits; up or down."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    steps = value / unit
    return round((math.ceil if up else math.floor)(round(steps, 6)) * unit, 6)


def goal_of(name: str, shipped: Goal | None, knee: float, rate: float, at_goal: Figures) -> dict[str, object]:
    """A goal as targets.yaml has it: the shipped one with what was measured; latencies that it leaves out stay out."""
    kept = shipped.model_dump(mode="json", exclude_unset=True) if shipped else dict.fromkeys(_LATENCIES)
    source = (
        f"measured: {RESERVE:.0%} of the knee of {knee:.3g}/s, latencies twice what was measured there; "
        f"python -m benchmarks.workloads.knee {name}, {date.today()}, {os.cpu_count()} cores, no accelerator; "
        f"check with argus load {name}"
    )
    latencies = {key: rounded(_SLACK * getattr(at_goal, key), up=True) for key in _LATENCIES if key in kept}
    return {**kept, "qps": rate, **latencies, "source": source}


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


def knee(measure: Measure, first: float, seconds: float) -> float:
    """The greatest rate that is held; `first` is the light load. 0 when that is not held."""
    light = measure(first, seconds)
    return search(lambda rate: held(light if rate == first else measure(rate, seconds), light), first)


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
    parser.add_argument("--seconds", type=float, default=12.0, help="length of a run; the one at the goal is longer")
    parser.add_argument("--first", type=float, default=2.0, help="light load, requests a second")
    parser.add_argument("--host", help="URL of a server; by default each workload's own is started")
    parser.add_argument("--grpc", default="", help="host:port of its gRPC")
    parser.add_argument("--key-env", default="", help="environment variable with the API key")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    targets = load_targets()
    try:
        for name in arguments.workloads or list(targets.workloads):
            workload = targets.workload(name)
            with _target(name, workload, arguments.host, arguments.grpc) as (http, grpc):
                measure = measure_with(name, workload, http, grpc, arguments.key_env, console.print)
                found = knee(measure, arguments.first, arguments.seconds)
                rate = rounded(RESERVE * found, up=False)
                if not rate:
                    console.print(f"{name}: {arguments.first:g}/s is not held")
                    continue
                at_goal = measure(rate, _LONG * arguments.seconds)
                if not held(at_goal, at_goal):
                    console.print(f"{name}: {rate:g}/s, {RESERVE:.0%} of the knee, is not held for longer")
                    continue
            goal = goal_of(name, workload.goal(HARDWARE), found, rate, at_goal)
            print(yaml.safe_dump({name: {HARDWARE: goal}}, sort_keys=False), flush=True)
    except ArgusError as error:
        raise SystemExit(f"error {error.message}") from None


if __name__ == "__main__":
    main()
