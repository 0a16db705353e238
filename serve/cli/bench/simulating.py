"""Benchmarks of the simulator, and in it."""

from __future__ import annotations

from typing import Annotated

import typer

from serve.cli.bench.command import Check, JsonFile, Quick, app, finish


@app.command()
def simulator(
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of arrivals and draws.")] = 1,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """The simulator's speed, and its error where queueing theory knows the answer (about a minute)."""
    from benchmarks import simulator as benchmark

    finish(benchmark.run(quick=quick, seed=seed), json, check)


@app.command()
def autoscaling(
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of arrivals and draws.")] = 1,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """A cascade under ramps in the simulator: Ray Serve's autoscaling policy beside the one for cascades."""
    from benchmarks import autoscaling as benchmark

    finish(benchmark.run(quick=quick, seed=seed), json, check)
