"""Benchmarks of a cluster of several nodes."""

from __future__ import annotations

from typing import Annotated

import typer

from serve.cli.bench.command import Check, JsonFile, Quick, app, finish, one_of
from serve.cli.console import errors


@app.command()
def scaling(
    part: Annotated[str, typer.Argument(help="placement, or ramp.")] = "ramp",
    policy: Annotated[list[str] | None, typer.Option(help="Of the ramp: queue or cascade; both by default.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the ramp's arrivals.")] = 1,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Several nodes on this machine: where replicas go (2 minutes), or when a ramp makes LLaVA grow (6 minutes)."""
    from benchmarks.scaling import placement, ramp

    one_of("part", part, ("placement", "ramp"))
    if part == "placement":
        finish(placement.run(errors), json, check)
        return
    policies = tuple(policy or ramp.POLICIES)
    for one in policies:
        one_of("--policy", one, ramp.POLICIES)
    plan = ramp.Plan(calm_s=5, ramp_s=15, hold_s=10, seed=seed) if quick else ramp.Plan(seed=seed)
    finish(ramp.run(plan, policies, errors), json, check)
