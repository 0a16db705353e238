"""`argus validate`: the simulator against this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from serve.cli.bench.command import Check, JsonFile, finish
from serve.cli.console import errors
from serve.errors import ConfigError

if TYPE_CHECKING:
    from benchmarks.capacity.planner.plan import Plan
    from benchmarks.capacity.scenario import Flow, Scenario
    from benchmarks.capacity.validate import Trial
    from benchmarks.loadtest.messages import Progress as LoadProgress
    from benchmarks.loadtest.target import Target
    from benchmarks.targets import Workload
    from benchmarks.traffic.arrivals import Arrivals
    from serve.config.cluster import ClusterFile

_LOADS = "30,60,85"


@dataclass(frozen=True, slots=True)
class _Subject:
    """A workload on a cluster that can run here.

    Attributes:
        pools: class of hardware of each of its node pools.
        content: cluster file without `name` and `server`; None to take the workload's own place.
        rate_per_s: the planned one, of which loads are shares; None to take the cluster's capacity.
    """

    cluster: ClusterFile
    pools: Mapping[str, str]
    flows: tuple[Flow, ...]
    arrivals: Arrivals
    content: dict[str, Any] | None = None
    rate_per_s: float | None = None


def validate(
    workload: Annotated[list[str], typer.Argument(help="Workloads of benchmarks/targets.yaml.")],
    hardware: Annotated[str, typer.Option(help="Class of hardware that this machine is.")] = "cpu-demo",
    hardware_profile: Annotated[
        Path | None, typer.Option("--profile", help="Hardware profile; by default the shipped one.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="Folder that `argus plan --out` wrote: its cluster at its rate.")
    ] = None,
    loads: Annotated[str, typer.Option(help="Shares of the capacity, in per cent.")] = _LOADS,
    capacity: Annotated[float | None, typer.Option(help="Requests a second at 100 %; by default simulated.")] = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Real runs at each load.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Measured part of a run.")] = 60,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds before it.")] = 5,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Run workloads for real and print what the simulator says of the same requests at the same times."""
    from benchmarks.capacity import validate as validation
    from benchmarks.capacity.pace import pace_now
    from benchmarks.capacity.planner.sharing import shared
    from benchmarks.capacity.profiles import at_pace, load_profile, shipped_profiles
    from benchmarks.capacity.scenario import scenario
    from benchmarks.capacity.simulator import simulate
    from benchmarks.targets import load_targets

    shares = _shares(loads)
    if capacity is not None and not capacity > 0:
        raise ConfigError(f"got {capacity:g}; it must be above 0", param="capacity")
    profiles = {str(kind): shipped for kind, shipped in shipped_profiles().items()}
    if hardware_profile is not None:
        own = load_profile(hardware_profile)
        profiles[own.hardware] = own
    targets = load_targets()
    if plan is not None and len(workload) != 1:
        raise ConfigError("a plan is validated with one workload", param="plan")
    trials, rows, misses = [], [], []
    for name in workload:
        declared = targets.workload(name)
        subject = _planned(plan, hardware) if plan is not None else _declared(declared, hardware)

        def made(pace: float, subject: _Subject = subject) -> Scenario:
            pools = {pool: at_pace(profiles[kind], pace) for pool, kind in subject.pools.items()}
            found = scenario(subject.cluster, pools, subject.flows)
            return found if subject.rate_per_s is None else shared(found, subject.cluster, subject.rate_per_s)

        most = capacity or subject.rate_per_s or validation.capacity(made(pace_now()), subject.arrivals, simulate)
        as_planned = subject.rate_per_s is not None and capacity is None
        trial = validation.Trial(
            workload=name,
            scenario=made,
            arrivals=subject.arrivals,
            capacity_per_s=most,
            loads=(1.0,) if as_planned and loads == _LOADS else shares,
            seeds=range(1, seeds + 1),
            seconds=seconds,
            planned=as_planned,
        )
        trials.append(trial)
        with (
            _serving(name, declared, hardware, subject.content) as target,
            _runs(trial, target, hardware, warm_up) as run,
        ):
            found = validation.measure(trial, run, simulate)
        rows += found[0]
        misses += found[1]
    finish(validation.report(trials, rows, misses), json, check)


def _shares(text: str) -> tuple[float, ...]:
    """Raises `ConfigError` for what is no list of per cent."""
    try:
        shares = tuple(float(one) / 100 for one in text.split(","))
    except ValueError:
        shares = ()
    if not shares or not all(0 < one <= 1.5 for one in shares):
        raise ConfigError(f"got {text!r}; write shares of the capacity in per cent, such as {_LOADS}", param="loads")
    return shares


def _declared(workload: Workload, hardware: str) -> _Subject:
    place = workload.place(hardware)
    return _Subject(place.cluster(), place.pools, place.flows, workload.arrivals)


def _planned(folder: Path, hardware: str) -> _Subject:
    """A plan's cluster, flows and arrivals. This machine stands for every node pool of it.

    Raises:
        ConfigError: the folder has no plan, or one that is not for this machine.
    """
    from serve.config.load import load_file

    plan, path = _plan(folder / "plan.json"), folder / "cluster.yaml"
    if not plan.feasible:
        raise ConfigError(f"{folder}: nothing was found to hold the objectives; there is no cluster", param="plan")
    cluster = load_file(path)
    if any(pool.gpus for pool in cluster.node_pools.values()) and hardware == "cpu-demo":
        raise ConfigError(f"{path} needs GPUs, this machine is {hardware}; validate it there", param="plan")
    # As it was checked: paths in it are absolute, since it is served from a file elsewhere.
    content = cluster.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    own = {key: value for key, value in content.items() if key not in ("name", "server")}
    pools = dict.fromkeys(cluster.node_pools, hardware)
    return _Subject(cluster, pools, plan.flows, plan.process, own, plan.rate_per_s)


def _plan(path: Path) -> Plan:
    """Raises `ConfigError` where there is no file, or one that is no plan."""
    from benchmarks.capacity.planner.plan import Plan

    try:
        return Plan.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", param="plan") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise ConfigError(f"{path}: is no plan of this version: {where}: {first['msg']}", param="plan") from None


@contextmanager
def _serving(name: str, workload: Workload, hardware: str, content: dict[str, Any] | None) -> Iterator[Target]:
    from benchmarks.loadtest.target import Target, started
    from benchmarks.servers import argus
    from benchmarks.workloads.serving import stand_in

    errors.print(f"Starting the cluster of {name} ...", highlight=False)
    with ExitStack() as stack:
        if content is None:
            yield stack.enter_context(started(name, workload, hardware))
            return
        providers = content.get("providers", {})
        for provider in workload.place(hardware).stand_ins:
            if provider in providers:
                there = stack.enter_context(stand_in(providers[provider]["model"]))
                providers[provider] = providers[provider] | there
        http, grpc = stack.enter_context(argus(f"plan-{name.replace('_', '-')}", content))
        yield Target(http, grpc)


@contextmanager
def _runs(trial: Trial, target: Target, hardware: str, warm_up_s: float) -> Iterator[Any]:
    """What runs the workload for real, with its progress, and says at which pace."""
    from benchmarks.capacity.pace import pacing
    from benchmarks.capacity.validate import Real
    from benchmarks.loadtest import subject as subjects
    from benchmarks.loadtest.run import run_load
    from benchmarks.loadtest.settings import checked
    from benchmarks.targets import load_targets

    file = subjects.find(trial.workload, hardware, load_targets()).file
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task(trial.workload)

        def run(arrivals: Arrivals, seed: int) -> Any:
            rate = arrivals.mean_rate(trial.seconds)
            progress.update(task, description=f"{trial.workload}: {rate:.1f}/s for {trial.seconds:g} s, seed {seed}")
            settings = checked(
                workload=trial.workload,
                host=target.http,
                grpc=target.grpc,
                arrivals=arrivals,
                seconds=trial.seconds,
                warm_up_s=warm_up_s,
                seed=seed,
            )
            began: list[float] = []

            def tell(now: LoadProgress) -> None:
                began.append(time.monotonic() - now.elapsed_s)

            with pacing() as pace:
                record = run_load(settings, file, on_progress=tell)
            start = min(began, default=time.monotonic() - settings.end_s)
            window = start + settings.warm_up_s, start + settings.end_s
            return Real(record, pace.between(*window), pace.each_second(start, settings.end_s))

        yield run
