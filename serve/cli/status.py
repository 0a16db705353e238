"""`argus status` and `argus models`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import typer
from rich.table import Table

from serve.cli.console import JsonOption, NameOption, output
from serve.errors import ArgusError, Unavailable
from serve.runtime import state
from serve.runtime.local import APPLICATION, DeploymentState, apply_environment, states

_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Status:
    """What `argus status --json` prints."""

    name: str
    phase: str
    http: str
    grpc: str
    metrics: str
    application: str
    deployments: list[DeploymentState]


def status(name: NameOption = "demo", as_json: JsonOption = False) -> None:
    """Show a running cluster: its addresses, and each deployment with its replicas. Exit 1 when it does not run."""
    running = state.load(state.run_dir(name))
    if running is None:
        if as_json:
            typer.echo(json.dumps({"name": name, "phase": "stopped"}))
        else:
            output.print(f"Cluster {name!r} does not run.")
        raise typer.Exit(1)
    found = _read(running)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
        return
    output.print(
        f"[bold]{found.name}[/bold] {found.phase}, application {found.application}\n"
        f"HTTP {found.http}  gRPC {found.grpc}  metrics {found.metrics}",
        highlight=False,
    )
    table = Table("deployment", "status", "replicas", "message")
    for one in found.deployments:
        table.add_row(one.name, one.status, f"{one.running} of {one.wanted}", one.message)
    output.print(table)


def models(name: NameOption = "demo", as_json: JsonOption = False) -> None:
    """List the models of a running cluster, as its API does."""
    cards = asked(address(name), "/v1/models").json()["data"]
    if as_json:
        typer.echo(json.dumps(cards, indent=2))
        return
    table = Table("model", "kind", "tasks", "checkpoint")
    for card in cards:
        table.add_row(card["id"], card["kind"], ", ".join(card["tasks"]), card["checkpoint"] or "")
    output.print(table)


def address(name: str) -> str:
    """HTTP address of a running cluster.

    Raises:
        Unavailable: it does not run.
    """
    running = state.load(state.run_dir(name))
    if running is None or running.phase != "ready":
        raise Unavailable(f"Cluster {name!r} does not run; start it with: argus up --detach")
    return running.http


def asked(where: str, path: str, method: str = "GET", **options: Any) -> httpx.Response:
    """What a cluster answers, with the key of the environment.

    Raises:
        Unavailable: nobody answers there, or somebody who is no Argus.
        ArgusError: the cluster's own error.
    """
    options |= {"timeout": _TIMEOUT_S, "headers": auth_headers(), "trust_env": False}
    try:
        answer = httpx.request(method, f"{where.rstrip('/')}{path}", **options)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"{where} does not answer: {error}.") from None
    if answer.is_error:
        try:
            said = answer.json()["error"]
            told = ArgusError(said["message"], code=said["code"], param=said["param"])
        except (ValueError, LookupError, TypeError):
            raise Unavailable(f"{where} answers {answer.status_code}, and not as a cluster does.") from None
        raise told
    return answer


def auth_headers() -> dict[str, str]:
    """The key in `ARGUS_API_KEY`, if any."""
    import os

    key = os.environ.get("ARGUS_API_KEY")
    return {"X-API-Key": key} if key else {}


def _read(running: state.Instance) -> Status:
    """Asks Ray Serve's controller, as a driver of the running cluster."""
    if running.phase == "starting" or not running.ray_address:
        return Status(running.name, running.phase, running.http, running.grpc, running.metrics, "STARTING", [])
    apply_environment(running.environment)
    import logging

    import ray
    from ray import serve

    ray.init(address=running.ray_address, log_to_driver=False, logging_level=logging.ERROR)
    application: Any = serve.status().applications.get(APPLICATION)
    shutdown: Any = ray.shutdown
    found = [] if application is None else states(application)
    label = "NOT_DEPLOYED" if application is None else application.status.value
    shutdown()
    return Status(running.name, running.phase, running.http, running.grpc, running.metrics, label, found)
