"""`argus k8s`: the objects of Kubernetes, and what their pods run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve.cli.console import ConfigOption, ProfileOption, cluster_file, errors, output
from serve.errors import ConfigError

if TYPE_CHECKING:
    from serve.kubernetes.settings import Settings

app = typer.Typer(help="Make the objects of Kubernetes from a cluster file.", no_args_is_help=True)


class Upgrade(StrEnum):
    """How a new version takes over."""

    NEW_CLUSTER = "new-cluster"
    INCREMENTAL = "incremental"


@app.command()
def render(
    profile: ProfileOption = None,
    config: ConfigOption = None,
    plan: Annotated[Path | None, typer.Option(help="Folder of `argus plan --out`: its cluster.yaml is taken.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("k8s"),
    overlay: Annotated[str | None, typer.Option(help="Name of the overlay; by default the cluster's.")] = None,
    image: Annotated[
        str | None, typer.Option(help="Image of all pods that serve, pinned: NAME:1.2.3 or NAME@sha256:...")
    ] = None,
    load_image: Annotated[str | None, typer.Option(help="Image of the load test, pinned.")] = None,
    redis: Annotated[str | None, typer.Option(help="redis://HOST:PORT of your own for Ray's GCS.")] = None,
    upgrade: Annotated[Upgrade, typer.Option(help="`incremental` moves HTTP in steps; it knows no gRPC.")] = (
        Upgrade.NEW_CLUSTER
    ),
    gateway_class: Annotated[str, typer.Option(help="GatewayClass of your Gateway's implementation.")] = "istio",
    keys_revision: Annotated[str, typer.Option(help="Another one when the keys in the Secret have changed.")] = "1",
    local: Annotated[bool, typer.Option("--local", help="One machine (kind): no keys, no Gateway, no alerts.")] = False,
) -> None:
    """Write files for kustomize: a base, and an overlay for a cluster file. Without one, all overlays that we ship."""
    from serve.kubernetes import render as tree
    from serve.kubernetes import shipped

    changes: dict[str, Any] = {
        "redis": redis,
        "upgrade": upgrade.value,
        "gateway_class": gateway_class,
        "keys_revision": keys_revision,
    }
    changes |= {key: given for key, given in (("image", image), ("load_image", load_image)) if given is not None}
    if profile is None and config is None and plan is None:
        if overlay is not None or local:
            raise ConfigError("--overlay and --local are of one cluster file: give --profile, --config or --plan.")
        chosen: Iterable[Settings] = [shipped.settings(name) for name in shipped.SHIPPED]
    else:
        chosen = [_one(profile, config, plan, overlay, local)]
    files = tree.base()
    for settings in chosen:
        files |= tree.overlay(dataclasses.replace(settings, **changes))
    for path in tree.write(tree.texts(files), out):
        output.print(f"{path}", highlight=False)


@app.command(hidden=True)
def prepare(
    ingress: Annotated[Path | None, typer.Option(help="Folder for HAProxy's files.")] = None,
    stats_port: Annotated[int, typer.Option(help="HAProxy's port that stays on loopback.")] = 8404,
    weights: Annotated[Path | None, typer.Option(help="File that says that the weights are there.")] = None,
    wait: Annotated[float, typer.Option(help="Longest wait for it, in seconds.")] = 14_400,
) -> None:
    """What a pod does before Ray starts in it."""
    from serve.kubernetes.prepare import await_file, write_ingress

    if ingress is not None:
        errors.print(f"{write_ingress(ingress, stats_port)} is written.", highlight=False)
    if weights is not None:
        await_file(weights, wait)


@app.command(hidden=True)
def pull(
    config: Annotated[Path, typer.Option("--config", help="The cluster file.")],
    into: Annotated[Path, typer.Option(help="Where the volume of weights is mounted.")],
) -> None:
    """Fetch the weights that a cluster file names."""
    from serve.kubernetes.weights import pull as fetch

    # Calibrations are judged by the weights that are fetched here.
    output.print(f"{fetch(cluster_file(None, config, calibrations=False), into)}: all are there.", highlight=False)


@app.command(hidden=True)
def drain(seconds: Annotated[float, typer.Option(min=0, help="Longest wait.")]) -> None:
    """Move this node's replicas away before its pod ends."""
    from serve.kubernetes.drain import drain as move

    if left := move(seconds):
        errors.print(f"{left} replicas are left.", highlight=False)
        raise typer.Exit(1)


def _one(profile: str | None, config: Path | None, plan: Path | None, overlay: str | None, local: bool) -> Settings:
    """One overlay. With a plan, its file is the cluster file; the other one only names the overlay."""
    from serve.kubernetes import shipped
    from serve.kubernetes.settings import Settings

    cluster = None if profile is None and config is None else cluster_file(profile, config)
    if plan is not None:
        file = plan / "cluster.yaml"
        if not file.is_file():
            raise ConfigError(
                f"{file} does not exist: `argus plan --out` writes it when it finds a cluster.", param="plan"
            )
        planned = cluster_file(None, file)
        cluster = cluster or planned
    else:
        assert cluster is not None, "one of the three is given"
        planned = cluster
    name = overlay or (cluster.name if profile is None else shipped.overlay_of(profile))
    local = local or (name in shipped.SHIPPED and shipped.SHIPPED[name].local)
    found = shipped.SHIPPED.get(name)
    image = shipped.IMAGE if any(pool.gpus for pool in planned.node_pools.values()) else shipped.CPU_IMAGE
    load = ("classification", "t4", 4) if found is None else found.load
    return Settings(planned, name, image, shipped.LOAD_IMAGE, local=local, load=load)
