"""`argus observability`: what Prometheus and Grafana are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from serve.cli.console import ConfigOption, NameOption, ProfileOption, cluster_file, output
from serve.errors import ConfigError, Unavailable
from serve.runtime import state

app = typer.Typer(help="Make the files of Prometheus and Grafana from a cluster file.", no_args_is_help=True)

OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to write to; by default it is printed.")]


@app.command()
def rules(profile: ProfileOption = None, config: ConfigOption = None, out: OutOption = None) -> None:
    """Make the recording rules and alerts of a cluster file's objectives, for `rule_files` of Prometheus."""
    from grafana.rules import text

    cluster = cluster_file(profile, config)
    given = f"--profile {profile or 'demo'}" if config is None else f"--config {config.name}"
    made = text(cluster, f"argus observability rules {given}")
    if out is None:
        typer.echo(made, nl=False)
        return
    path = out / f"{cluster.name}.rules.yaml"
    _write(path, made)
    output.print(f"{path}: the rules of cluster {cluster.name}.", highlight=False)


@app.command()
def dashboards(
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")] = Path("grafana/dashboards"),
    docs: Annotated[
        str | None, typer.Option("--docs", help="Address of the folder docs, to which panels then link.")
    ] = None,
) -> None:
    """Make Grafana's dashboards, one JSON file each; those of this version lie in grafana/dashboards."""
    try:
        from grafana.render import files
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing; install it with: pip install 'argus-serve[dev]'") from None
    for name, text in files(docs).items():
        _write(out / name, text)
        output.print(f"{out / name}", highlight=False)


@app.command()
def metrics() -> None:
    """Print the reference of all metrics, as Markdown: names, labels, meaning, and the panels that show them."""
    from grafana.reference import text

    typer.echo(text(), nl=False)


@app.command()
def targets(name: NameOption = "demo", out: OutOption = None) -> None:
    """List what Prometheus scrapes of a running cluster, for `file_sd_configs`: some ports change with each start."""
    running = state.load(state.run_dir(name))
    if running is None:
        raise Unavailable(f"Cluster {name!r} does not run; start it with: argus up --detach")
    made = json.dumps(scrape_targets(running), indent=1) + "\n"
    if out is None:
        typer.echo(made, nl=False)
        return
    path = out / f"{name}.json"
    _write(path, made)
    output.print(f"{path}: what is scraped of cluster {name}.", highlight=False)


def scrape_targets(running: state.Instance) -> list[dict[str, Any]]:
    """What Prometheus' `file_sd_configs` reads: the node's metrics and, where there is one, the ingress'."""
    found = {"argus": urlsplit(running.metrics).netloc}
    if port := running.environment.get("RAY_SERVE_HAPROXY_METRICS_PORT"):
        found["argus-ingress"] = f"127.0.0.1:{port}"
    return [{"targets": [target], "labels": {"job": job, "cluster": running.name}} for job, target in found.items()]


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.", param="--out") from None
