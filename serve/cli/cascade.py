"""`argus cascade`: which cascades a cluster file has, and one of them drawn as text."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from serve.cascade import rules
from serve.cascade.explain import explain as drawn
from serve.cli.console import ConfigOption, JsonOption, ProfileOption, cluster_file, output
from serve.errors import NotFound

app = typer.Typer(help="Show the cascades of a cluster file.", no_args_is_help=True)


@app.command("list")
def list_cascades(profile: ProfileOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List cascades with their steps, and whether their thresholds are certified."""
    found = cluster_file(profile, config).cascades
    rows = [
        {
            "name": name,
            "answer": cascade.answer,
            "steps": [f"{step.name} ({step.use})" for step in cascade.steps],
            "calibrated": rules.is_calibrated(cascade),
        }
        for name, cascade in found.items()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("cascade", "answer", "steps", "calibrated")
    for name, cascade in found.items():
        steps = " -> ".join(f"{step.name} ({step.use})" for step in cascade.steps)
        decided = any(step.accept.rule in ("confidence", "margin") for step in cascade.steps)
        certified = "yes" if rules.is_calibrated(cascade) else "no"
        table.add_row(name, cascade.answer, steps, certified if decided else "no thresholds")
    output.print(table)


@app.command()
def explain(
    name: Annotated[str, typer.Argument(help="Name of the cascade.")],
    profile: ProfileOption = None,
    config: ConfigOption = None,
) -> None:
    """Draw a cascade as text: steps, thresholds and where they come from, fallbacks, gears and what those cost."""
    found = cluster_file(profile, config).cascades
    if name not in found:
        known = ", ".join(found) or "none"
        raise NotFound(f"Cascade {name!r} does not exist; there are {known}.", code="cascade_not_found", param="name")
    typer.echo(drawn(name, found[name]), nl=False)
