"""Benchmarks of what a cluster withstands: attempts on its security, and updates under load."""

from __future__ import annotations

from typing import Annotated

import typer

from serve.cli.bench.command import Check, JsonFile, Quick, app, finish
from serve.cli.console import errors


@app.command("rolling-update")
def rolling_update(
    requests: Annotated[int, typer.Option(min=100, help="Fewest requests in all.")] = 10_000,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 50.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the arrivals.")] = 1,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Code, a model's revision and settings rolled out under load: no request fails (about 5 minutes)."""
    from benchmarks.rolling_update import run as benchmark

    count = 600 if quick else requests
    report = benchmark.run(requests=count, rate_per_s=rate, seed=seed, clip=not quick, progress=errors)
    finish(report, json, check)


@app.command()
def security(
    only: Annotated[list[str] | None, typer.Option(help="This group alone; may be given several times.")] = None,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Attempts on a cluster's keys, addresses, files, names and secrets, each with what was got (about 3 minutes)."""
    from benchmarks.security import run as benchmark

    finish(benchmark.run(only=only or (), progress=errors), json, check)
