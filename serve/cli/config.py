"""`argus config`: check, show, schema, hash-key."""

from __future__ import annotations

import json
import secrets

import typer
import yaml
from rich.table import Table

from deployments.gpu import CONTEXT_GB
from serve.auth import hash_key
from serve.cli.console import ConfigOption, ProfileOption, cluster_file, errors, output
from serve.config.budget import PoolBudget, budgets, packing_notes, problems
from serve.config.cluster import ClusterFile
from serve.config.memory import BITS, ModelMemory, memory
from serve.config.placement_checks import placement_notes
from serve.config.provider_checks import provider_notes
from serve.config.reference import markdown

app = typer.Typer(help="Check and show cluster files.", no_args_is_help=True)


@app.command()
def check(profile: ProfileOption = None, config: ConfigOption = None) -> None:
    """Say what is wrong with a cluster file, and print the GPU sum of each node pool. Exit 1 when it cannot run."""
    cluster = cluster_file(profile, config)
    found = problems(cluster)
    output.print(_budget_table(budgets(cluster)))
    if generating := memory(cluster):
        output.print(_memory_table(generating))
    for note in (*packing_notes(cluster), *placement_notes(cluster), *provider_notes(cluster)):
        output.print(f"Note: {note}", highlight=False)
    for problem in found:
        errors.print(f"[red]error[/red] {problem}", highlight=False)
    if found:
        raise typer.Exit(1)
    output.print(f"[green]{cluster.name} is valid.[/green]")


@app.command()
def show(profile: ProfileOption = None, config: ConfigOption = None) -> None:
    """Print the cluster file with every default filled in, as YAML."""
    cluster = cluster_file(profile, config)
    typer.echo(yaml.safe_dump(cluster.model_dump(mode="json"), sort_keys=False), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON schema of a cluster file, for editors and CI."""
    typer.echo(json.dumps(ClusterFile.model_json_schema(), indent=2))


@app.command()
def reference() -> None:
    """Print the reference of all keys, as Markdown."""
    typer.echo(markdown(), nl=False)


@app.command("hash-key")
def hash_key_command(
    key: str | None = typer.Argument(None, help="The key; a new random one when left out. '-' reads standard input."),
) -> None:
    """Print an API key's hash for `auth.keys`. The key itself is never stored."""
    if key == "-":
        key = typer.get_text_stream("stdin").readline().strip()
    if key is None:
        key = secrets.token_urlsafe(32)
        typer.echo(f"key:    {key}", err=True)
    typer.echo(hash_key(key))


def _memory_table(models: list[ModelMemory]) -> Table:
    title = "Generating models: weights + activations, and the KV cache that the rest of the budget holds"
    table = Table("model", "budget", *BITS.values(), title=title, caption="bold: as configured")
    for one in models:
        cells = (one.cell(way) if way != one.chosen else f"[bold]{one.cell(way)}[/bold]" for way in BITS)
        table.add_row(one.model, f"{one.budget / 1e9 + CONTEXT_GB:g} GB" if one.budget else "CPU", *cells)
    return table


def _budget_table(pools: list[PoolBudget]) -> Table:
    table = Table("node pool", "GPU memory", "fullest GPU", "CPU cores", title="What must fit on the fewest nodes")
    for pool in pools:
        fullest = f"{max(pool.packing.used_gb):.1f} GB" if pool.packing.used_gb else "no GPU"
        asked, available = pool.cpus
        table.add_row(pool.pool, pool.sum_line(), fullest, f"{asked:g} of {available:g}")
    return table
