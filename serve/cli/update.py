"""`argus update`: another cluster file, or other code, for a cluster that runs, without a request that fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.table import Table

from serve.cli.console import ConfigOption, ProfileOption, cluster_file, errors, output
from serve.cli.progress import Progress
from serve.cli.up import check_exposure, deployed, with_server
from serve.config.budget import problems
from serve.config.cluster import ClusterFile
from serve.config.load import ConfigErrors
from serve.errors import Unavailable
from serve.rollout import Change, Mark, changes, surge_percent
from serve.runtime import state
from serve.runtime.local import LocalCluster, apply_environment, cores

_NEEDED = {"num_cpus": "CPU", "num_gpus": "GPU"}


def update(
    profile: ProfileOption = None,
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="As `argus up` was given it.")] = None,
    http_port: Annotated[int | None, typer.Option(help="As `argus up` was given it.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="As `argus up` was given it.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="As `argus up` was given it.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow a public address without API keys.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
) -> None:
    """Roll a changed cluster file, or changed code, out on a running cluster; requests go on."""
    cluster = with_server(
        cluster_file(profile, config), host=host, http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port
    )
    check_exposure(cluster, insecure)
    if found := problems(cluster):
        raise ConfigErrors("; ".join(found), tuple(found))
    folder = state.run_dir(cluster.name)
    running, before = state.load(folder), state.load_deployed(folder)
    if running is None or running.phase != "ready" or before is None:
        raise Unavailable(f"Cluster {cluster.name!r} does not run; start it with: argus up")
    check_same_server(before, cluster)
    apply_environment(running.environment)
    after = deployed(cluster)
    planned = changes(before.marks, after.marks)
    output.print(_table(planned))
    if dry_run:
        return
    local = LocalCluster(cluster, folder)
    with _joined(local, running.ray_address):
        check_room(cluster, planned, after.marks, local.free())
        Progress(errors, threading.Event()).deployments(local.deploy())
    state.save_deployed(folder, after)
    output.print(f"Cluster {cluster.name!r} is up to date.")


def check_same_server(before: state.Deployed, cluster: ClusterFile) -> None:
    """What a cluster was started with stays as long as it runs.

    Raises:
        ConfigErrors: another address, or more cores than Ray was told of.
    """
    now = cluster.server.model_dump(mode="json")
    wrong = [
        f"server.{key}: runs with {before.server.get(key)!r}, the file has {value!r}; "
        "this changes only with argus down and argus up"
        for key, value in now.items()
        if before.server.get(key) != value
    ]
    if cores(cluster) > before.cpus:
        wrong.append(
            f"node_pools: Ray was started with {before.cpus} cores, the file has {cores(cluster)}; "
            "more come only with argus down and argus up"
        )
    if wrong:
        raise ConfigErrors("; ".join(wrong), tuple(wrong))


def check_room(
    cluster: ClusterFile, planned: Sequence[Change], marks: Mapping[str, Mark], free: Mapping[str, float]
) -> None:
    """A new replica starts before an old one stops, so that there must be room for one more.

    Args:
        free: cores and GPUs that nothing has reserved, by Ray's names.

    Raises:
        ConfigErrors: there is none; the update would wait for ever.
    """
    wrong = []
    for name in (change.name for change in planned if change.what in ("replaced", "new")):
        if not surge_percent(cluster.models.get(name)) and name in cluster.models:
            continue
        asked: Mapping[str, Any] = marks[name].actors
        wrong += [
            f"{name}: a new replica needs {asked[key]:g} {resource} beside the old ones; {free.get(resource, 0):g} are "
            "free. Give the node pool more, or stop and start the cluster"
            for key, resource in _NEEDED.items()
            if asked.get(key, 0) > free.get(resource, 0) + 1e-6
        ]
    if wrong:
        raise ConfigErrors("; ".join(wrong), tuple(wrong))


@contextmanager
def _joined(local: LocalCluster, address: str) -> Iterator[None]:
    try:
        local.join(address)
    except (ConnectionError, RuntimeError) as error:
        raise Unavailable(f"Ray does not answer at {address}: {error}") from error
    try:
        yield
    finally:
        local.leave()


def _table(planned: Sequence[Change]) -> Table:
    table = Table("deployment", "what becomes of it")
    for change in planned:
        table.add_row(change.name, change.what)
    return table
