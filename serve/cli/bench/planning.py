"""Benchmarks of the capacity planner and of the targets that it plans for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serve.cli.bench.command import Check, JsonFile, Quick, app, finish
from serve.cli.console import errors


@app.command()
def planner(
    instances: Annotated[
        int, typer.Option(min=0, help="Random small problems that exhaustive search solves too.")
    ] = 12,
    seed: Annotated[int, typer.Option(help="Seed of the first problem.")] = 1,
    plans: Annotated[
        bool, typer.Option("--plans/--no-plans", help="Plans of the requirements' targets as well.")
    ] = True,
    trace: Annotated[Path | None, typer.Option(help="Recorded arrivals for those plans, such as Azure's.")] = None,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Plans against exhaustive search and held-out seeds, and those of the requirements (about 5 minutes)."""
    from benchmarks import planner as benchmark

    instances, plans = (2, False) if quick else (instances, plans)
    report = benchmark.run(instances=instances, seed=seed, plans=plans, trace=trace, tell=errors.print)
    finish(report, json, check)


@app.command()
def targets(
    workload: Annotated[list[str] | None, typer.Argument(help="Workloads; by default all that have a target.")] = None,
    hardware: Annotated[str, typer.Option(help="Class of hardware that this machine is.")] = "cpu-demo",
    seconds: Annotated[float, typer.Option(min=1, help="Measured part of each run.")] = 60,
    html: Annotated[Path | None, typer.Option(help="Folder for each run's report.")] = None,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """All targets of benchmarks/targets.yaml for this machine, one cluster after the other (about 20 minutes)."""
    from benchmarks import target_runs as benchmark
    from benchmarks.targets import load_targets

    declared = load_targets()
    chosen = workload or benchmark.declared(declared, hardware)
    seconds = min(seconds, 10.0) if quick else seconds
    report = benchmark.run(declared, chosen, hardware=hardware, seconds=seconds, html=html, tell=errors.print)
    finish(report, json, check)
