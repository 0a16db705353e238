"""`argus up` and `argus down`."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import psutil
import typer
from pydantic import ValidationError

from serve.cli.console import ConfigOption, NameOption, ProfileOption, cluster_file, errors, output
from serve.cli.progress import Progress
from serve.config.budget import problems
from serve.config.cluster import ClusterFile
from serve.config.load import ConfigErrors
from serve.errors import ArgusError, ConfigError, Unavailable
from serve.rollout import drain_s
from serve.runtime import ingress, state
from serve.runtime.local import LocalCluster, apply_environment, cores

_STOP_S = 60.0
_DETACHED_START_S = 600.0


def up(
    profile: ProfileOption = None,
    config: ConfigOption = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready; `argus down` stops it.")] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of the cluster file's.")] = None,
    http_port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="HTTP port, instead of the cluster file's.")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="gRPC port, instead of the cluster file's.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Port of the metrics, instead of the cluster file's.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow a public address without API keys.")] = False,
) -> None:
    """Start a cluster on this machine and serve until Ctrl-C."""
    cluster = with_server(
        cluster_file(profile, config), host=host, http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port
    )
    check_exposure(cluster, insecure)
    if found := problems(cluster):
        raise ConfigErrors("; ".join(found), tuple(found))
    folder = state.run_dir(cluster.name)
    if running := state.load(folder):
        raise ConfigError(
            f"Cluster {cluster.name!r} runs already (pid {running.pid}, {running.http}); "
            f"change it with argus update, stop it with: argus down --name {cluster.name}"
        )
    _check_ports(cluster)
    if detach:
        _detach(cluster, folder)
    else:
        _serve(cluster, folder)


def down(name: NameOption = "demo") -> None:
    """Stop a cluster that `argus up` started."""
    folder = state.run_dir(name)
    running = state.load(folder)
    if running is None:
        output.print(f"Cluster {name!r} does not run.")
        return
    process = psutil.Process(running.pid)
    children = process.children(recursive=True)
    process.terminate()
    _, alive = psutil.wait_procs([process], timeout=_STOP_S)
    # Ray's processes are children of that one and have ended with it; one that hangs is not left behind.
    for left in [*alive, *(child for child in children if child.is_running())]:
        left.kill()
    state.forget(folder)
    output.print(f"Cluster {name!r} has stopped.")


def check_exposure(cluster: ClusterFile, insecure: bool) -> None:
    """Whoever can reach an address without keys can use the GPUs behind it.

    Raises:
        ConfigError: a public address, no keys, and not `--insecure`.
    """
    host = cluster.server.host
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and not cluster.auth.keys and not insecure:
        raise ConfigError(
            f"server.host is {host}, which others can reach, and auth.keys is empty; "
            "add keys (argus config hash-key), or say --insecure.",
            param="server.host",
        )


def with_server(cluster: ClusterFile, **given: str | int | None) -> ClusterFile:
    """The file with what is given, and not None, in place of its own `server` keys.

    Raises:
        ConfigError: they do not go together.
    """
    changes = {key: value for key, value in given.items() if value is not None}
    try:
        server = type(cluster.server).model_validate(cluster.server.model_dump() | changes)
    except ValidationError as error:
        raise ConfigError(error.errors()[0]["msg"].removeprefix("Value error, "), param="server") from None
    return cluster.model_copy(update={"server": server})


def _check_ports(cluster: ClusterFile) -> None:
    server = cluster.server
    wanted = {
        "http_port": (server.host, server.http_port),
        "grpc_port": (server.host, server.grpc_port),
        "metrics_port": ("127.0.0.1", server.metrics_port),
    }
    taken = [
        f"server.{key}: {port} is taken on {host}; choose another"
        for key, (host, port) in wanted.items()
        if not ingress.port_is_free(host, port)
    ]
    if taken:
        raise ConfigErrors("; ".join(taken), tuple(taken))


def _detach(cluster: ClusterFile, folder: Path) -> None:
    """Starts the same command in a session of its own and waits until it reports ready."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--detach"]
    log_path = folder / "argus.log"
    with log_path.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + _DETACHED_START_S
    with errors.status(f"Starting {cluster.name} (log: {log_path})"):
        while time.monotonic() < deadline:
            running = state.load(folder)
            if running is not None and running.phase == "ready":
                output.print(f"Cluster {cluster.name!r} is ready: {running.http}, gRPC {running.grpc}")
                return
            if child.poll() is not None:
                tail = "\n".join(log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
                raise Unavailable(f"The cluster did not start:\n{tail}")
            time.sleep(0.2)
    child.terminate()
    raise Unavailable(f"The cluster was not ready after {_DETACHED_START_S:.0f} s; see {log_path}.")


def _serve(cluster: ClusterFile, folder: Path) -> None:
    """The foreground: start, report, wait for a signal, stop."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    binary = ingress.haproxy_binary() if cluster.server.tuned_ingress else None
    state.write_token(folder)
    server = cluster.server
    public = (server.host, (server.http_port, server.grpc_port))
    settings = ingress.environment(folder, binary, drain_s=drain_s(cluster), public=public)
    apply_environment(settings)
    progress = Progress(errors, stop)
    if binary is None:
        progress.note("HAProxy is not used: Ray Serve's own proxy serves, at a fraction of the throughput.")
    instance = _instance(cluster, settings)
    state.save(folder, instance)
    local = LocalCluster(cluster, folder)
    try:
        with progress.step("Ray"):
            address = local.start_ray()
        instance = instance.model_copy(update={"ray_address": address})
        # Ray puts its own handlers in place of ours.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        with progress.step("Ingress"):
            local.start_ingress()
        progress.deployments(local.deploy())
        if not stop.is_set():
            state.save_deployed(folder, deployed(cluster))
            state.save(folder, instance.model_copy(update={"phase": "ready"}))
            _announce(cluster, instance)
            stop.wait()
    except ArgusError as error:
        if not stop.is_set():
            raise error
    finally:
        with progress.step("Stopping"):
            local.stop()
        state.forget(folder)


def deployed(cluster: ClusterFile) -> state.Deployed:
    """What runs once this file has been deployed. Imports Ray."""
    from serve.app import marks

    return state.Deployed(server=cluster.server.model_dump(mode="json"), cpus=cores(cluster), marks=marks(cluster))


def _instance(cluster: ClusterFile, settings: Mapping[str, str]) -> state.Instance:
    server = cluster.server
    reachable = "127.0.0.1" if server.host in ("0.0.0.0", "::") else server.host
    reachable = f"[{reachable}]" if ":" in reachable else reachable
    pid, started = state.this_process()
    return state.Instance(
        name=cluster.name,
        phase="starting",
        pid=pid,
        pid_started=started,
        http=f"http://{reachable}:{server.http_port}",
        grpc=f"{reachable}:{server.grpc_port}",
        metrics=f"http://127.0.0.1:{server.metrics_port}/metrics",
        environment={name: os.environ[name] for name in settings},
    )


def _announce(cluster: ClusterFile, instance: state.Instance) -> None:
    from serve.cli.example import show_example

    output.print(
        f"\n[bold]Argus is ready.[/bold] HTTP {instance.http} (API: {instance.http}/docs), gRPC {instance.grpc}, "
        f"metrics {instance.metrics}",
        highlight=False,
    )
    show_example(cluster, instance.http)
    output.print("Ctrl-C stops it." if sys.stdout.isatty() else "")
