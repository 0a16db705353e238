"""`argus simulate`: what a cluster would do under some traffic, in a thousandth of the time."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from serve.cli.console import ConfigOption, ProfileOption, check_output, cluster_file, errors, output
from serve.errors import ConfigError

if TYPE_CHECKING:
    from benchmarks.capacity.outcome import Outcome, Summary
    from benchmarks.capacity.profiles import HardwareClass
    from benchmarks.capacity.scenario import Flow
    from benchmarks.traffic.arrivals import Arrivals
    from serve.config.cluster import ClusterFile

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|)")
# Ray's names of accelerators, where they are not our classes of hardware.
_CLASSES = {"A10G": "a10"}
_WIDTH_IN_A_FILE = 140


def simulate(
    profile: ProfileOption = None,
    config: ConfigOption = None,
    workload: Annotated[
        str | None, typer.Option(help="Of benchmarks/targets.yaml: its cluster, flows and arrivals.")
    ] = None,
    flow: Annotated[
        list[str] | None,
        typer.Option(help="In place of a workload: ENTRY, or name=search,entry=clip,share=0.5,escalated.screen=0.05."),
    ] = None,
    arrivals: Annotated[
        str | None, typer.Option(help="Arrival process: poisson:100, gamma:100,cv=2, mmpp:..., trace:FILE,rate=100.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=1e-6, max=1e6, help="Requests a second; by default the goal's.")
    ] = None,
    duration: Annotated[str, typer.Option(help="How long requests arrive: 90, 90s, 10m, 1h.")] = "10m",
    warm_up: Annotated[str, typer.Option(help="Part of it that does not count.")] = "0s",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of arrivals and of all draws.")] = 1,
    hardware: Annotated[
        list[str] | None,
        typer.Option(help="A workload's place (cpu-demo, t4, ...), or POOL=CLASS for a pool of the cluster file."),
    ] = None,
    hardware_profile: Annotated[
        list[Path] | None, typer.Option(help="Hardware profile in place of the shipped one of its class.")
    ] = None,
    autoscale: Annotated[
        bool, typer.Option("--autoscale", help="Replicas follow the load; otherwise each model has its fewest.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Write settings and figures to a file.")
    ] = None,
) -> None:
    """Simulate a cluster under an arrival process: latencies, refusals, cost, and how busy each model is."""
    # Compiled code and the profiles are slow to load, and no other command needs them.
    from benchmarks.capacity.planner.question import check_tokens
    from benchmarks.capacity.planner.sharing import shared
    from benchmarks.capacity.profiles import load_profile, shipped_profiles
    from benchmarks.capacity.scenario import scenario
    from benchmarks.capacity.simulator import load
    from benchmarks.capacity.simulator import simulate as run
    from benchmarks.report import rounded

    seconds, start_s = read_seconds(duration, "duration"), read_seconds(warm_up, "warm-up")
    if not 0 <= start_s < seconds:
        raise ConfigError(f"got {warm_up!r}; it must be shorter than the duration, {duration}", param="warm-up")
    cluster, flows, process, pools = _asked(workload, profile, config, flow, hardware or [])
    process = _process(process, arrivals, rate)
    profiles = dict(shipped_profiles())
    profiles |= {own.hardware: own for own in map(load_profile, hardware_profile or ())}
    for pool, kind in pools.items():
        if kind not in profiles:
            raise ConfigError(
                f"pool {pool!r} is {kind!r}; there are profiles of {', '.join(profiles)}", param="hardware"
            )
    made = scenario(cluster, {pool: profiles[kind] for pool, kind in pools.items()}, flows, autoscale=autoscale)
    times, tokens = process.times(seconds, seed), process.tokens(seconds, seed)
    if tokens is None or not tokens[1].all():
        check_tokens(cluster, flows, {kind: profiles[kind] for kind in pools.values()})
    made = shared(made, cluster, process.mean_rate(seconds), tokens)
    check_output(json_file, "json")
    load(lambda: errors.print("Compiling the simulator, once: about half a minute.", style="dim"))
    began = time.perf_counter()
    outcome = run(made, times, seed=seed, start_s=start_s, end_s=seconds, tokens=tokens)
    took = time.perf_counter() - began
    _show(outcome, made.providers.keys(), seconds, took)
    assumed = ", ".join(f"{pool} as {kind}" for pool, kind in pools.items())
    shared_cores = f"; everything shares {made.cores:g} cores" if made.cores else ""
    output.print(f"Hardware: {assumed}{shared_cores}", highlight=False)
    if json_file is not None:
        settings = {
            "workload": workload,
            "cluster": cluster.name,
            "flows": [one.model_dump(mode="json") for one in flows],
            "arrivals": process.model_dump(mode="json"),
            "seconds": seconds,
            "warm_up_s": start_s,
            "seed": seed,
            "hardware": pools,
            "hardware_profiles": [str(path) for path in hardware_profile or ()],
            "config": None if config is None else str(config),
            "autoscale": autoscale,
        }
        json_file.write_text(json.dumps(rounded(_record(outcome, settings, took)), indent=1) + "\n", encoding="utf-8")
        output.print(f"Record: {json_file}", highlight=False)


def read_seconds(text: str, what: str) -> float:
    """`90`, `90s`, `10m` or `1h` in seconds.

    Raises:
        ConfigError: it is none of these, or too long to be meant.
    """
    found = _DURATION.fullmatch(text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else -1.0
    if not 0 <= seconds <= 31 * 86_400:
        raise ConfigError(f"got {text!r}; write a time of at most 31 days, such as 90s, 10m or 1h", param=what)
    return seconds


def _asked(
    workload: str | None, profile: str | None, config: Path | None, flow: list[str] | None, hardware: list[str]
) -> tuple[ClusterFile, tuple[Flow, ...], Arrivals | None, dict[str, HardwareClass]]:
    """Cluster, flows, their own arrivals if they have any, and the class of each pool.

    Raises:
        ConfigError: neither a workload nor flows are given, or both are, or something named does not exist.
    """
    from benchmarks.capacity.planner.question import of_cluster
    from benchmarks.targets import load_targets

    if (workload is None) == (not flow):
        raise ConfigError("give either --workload, or --flow (with --profile or --config)", param="workload")
    named = dict(one.split("=", 1) for one in hardware if "=" in one)
    places = [one for one in hardware if "=" not in one]
    if workload is None:
        if places:
            raise ConfigError(f"got {places[0]!r}; with --flow write POOL=CLASS", param="hardware")
        cluster = cluster_file(profile, config)
        traffic = of_cluster(cluster, flow or (), None)
        return cluster, traffic.flows, None, _pools(cluster, named)
    declared = load_targets().workload(workload)
    if len(places) > 1:
        raise ConfigError(f"got places {', '.join(places)}; a run has one", param="hardware")
    place_name = places[0] if places else next(iter(declared.places))
    place = declared.place(place_name)
    goal = declared.goal(place_name)
    own = declared.arrivals if goal is None else declared.arrivals.scaled(goal.qps)
    if profile is None and config is None:
        cluster = place.cluster()
        return cluster, place.flows, own, {**place.pools, **_pools(cluster, named, guess=False)}
    cluster = cluster_file(profile, config)
    return cluster, place.flows, own, _pools(cluster, named)


def _pools(cluster: ClusterFile, named: dict[str, str], *, guess: bool = True) -> dict[str, HardwareClass]:
    """The class of each pool: as stated, else by the name of its accelerator.

    Without one it is the demo's machine, where no pool has any; beside others it is for what no profile tells of.
    """
    from typing import get_args

    from benchmarks.capacity.profiles import HardwareClass

    known: tuple[HardwareClass, ...] = get_args(HardwareClass)
    for pool, stated in named.items():
        if pool not in cluster.node_pools:
            raise ConfigError(
                f"there is no node pool {pool!r}; there are {', '.join(cluster.node_pools)}", param="hardware"
            )
        if stated not in known:
            raise ConfigError(f"pool {pool!r}: got {stated!r}; it must be one of {', '.join(known)}", param="hardware")
    found: dict[str, HardwareClass] = {}
    bare = "" if any(section.gpus for section in cluster.node_pools.values()) else "cpu-demo"
    for pool, section in cluster.node_pools.items():
        gpu = section.gpu or ""
        kind = named.get(pool) or (_CLASSES.get(gpu, gpu.lower()) or bare if guess else None)
        match = next((one for one in known if one == kind), None)
        if match is not None:
            found[pool] = match
    return found


def _process(own: Arrivals | None, text: str | None, rate: float | None) -> Arrivals:
    from benchmarks.traffic.arrivals import Poisson, parse_arrivals

    if text is not None:
        process = parse_arrivals(text)
    elif own is not None:
        process = own
    elif rate is not None:
        process = Poisson(rate_per_s=rate)
    else:
        raise ConfigError("no rate is known; give --rate, or --arrivals with one", param="rate")
    return process if rate is None else process.scaled(rate)


def _show(outcome: Outcome, hosted: Collection[str], seconds: float, took: float) -> None:
    console = output if output.is_terminal else Console(file=output.file, width=_WIDTH_IN_A_FILE)
    table = Table(
        "flow", "requests", "answers/s", "failed", "mean ms", "p50 ms", "p95 ms", "p99 ms", "$/1000", "answered by"
    )
    flows = (None, *outcome.flows) if len(outcome.flows) > 1 else (None,)
    for name in flows:
        table.add_row(*_cells(name or "all", outcome.summary(name), outcome.answers_per_s(name)))
    console.print(table)
    stages = Table("model", "busy", "mean batch", "queue wait ms", "replicas")
    for name, use in outcome.stages.items():
        stages.add_row(
            name,
            f"{use.busy_share:.1%}",
            "-" if name in hosted else f"{use.mean_batch:.2f}",
            f"{1e3 * use.queue_wait_s:.2f}",
            "hosted" if name in hosted else f"{use.replicas:.2f}",
        )
    console.print(stages)
    count = outcome.arrived_s.size
    output.print(
        f"{count:,} requests, {seconds:g} s simulated in {took:.2f} s ({seconds / took:,.0f} times real time)",
        highlight=False,
    )


def _cells(name: str, one: Summary, answers_per_s: float) -> list[str]:
    shares = ", ".join(f"{path} {share:.1%}" for path, share in one.path_share.items() if share)
    return [
        name,
        f"{one.requests:,}",
        f"{answers_per_s:.2f}",
        f"{one.failed_share:.2%}",
        *(_milliseconds(value) for value in (one.mean_s, one.p50_s, one.p95_s, one.p99_s)),
        f"{one.usd_per_1000:.4f}",
        shares,
    ]


def _milliseconds(seconds: float) -> str:
    """`-` where no request was answered."""
    return "-" if math.isnan(seconds) else f"{1e3 * seconds:.1f}"


def _figures(outcome: Outcome, flow: str | None) -> dict[str, Any]:
    return asdict(outcome.summary(flow)) | {"answers_per_s": outcome.answers_per_s(flow)}


def _record(outcome: Outcome, settings: dict[str, Any], took: float) -> dict[str, Any]:
    return {
        "settings": settings,
        "all": _figures(outcome, None),
        "flows": {name: _figures(outcome, name) for name in outcome.flows},
        "stages": {name: asdict(use) for name, use in outcome.stages.items()},
        "simulated_in_s": took,
    }
