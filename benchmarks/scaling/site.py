"""A cluster of several nodes on this machine, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.scaling.state import State
from benchmarks.servers import ROOT, answers, replica_ports
from serve.config.load import parse
from serve.errors import Unavailable
from serve.runtime.ingress import free_ports

_POLL_S = 0.5
_END_S = 20.0


class Site:
    """A running cluster. Made by `site`."""

    def __init__(self, connection: Connection, folder: Path, server: Mapping[str, Any]) -> None:
        self.http = f"http://127.0.0.1:{server['http_port']}"
        self._connection = connection
        self._server = server
        self._folder = folder

    def add(self, pool: str) -> str:
        """Adds a node; its id."""
        return str(self._call("add", pool))

    def remove(self, node_id: str) -> None:
        """Kills a node at once."""
        self._call("remove", node_id)

    def deploy(self, content: Mapping[str, Any]) -> None:
        """Deploys a cluster file given as its content; returns before it runs, or fails.

        Raises:
            ConfigErrors: it is wrong. Whether its models fit is found out where the application is built.
        """
        self._call("deploy", parse({**content, "server": self._server}))

    def deployed(self, content: Mapping[str, Any], *, seconds: float) -> State:
        """Deploys and waits until each model has its fewest replicas, and there is nothing else.

        Raises:
            Unavailable: it is not so in time.
        """
        fewest = {name: one["autoscaling"]["min_replicas"] for name, one in content["models"].items()}

        def settled(state: State) -> bool:
            there = {name: len(one.replicas) for name, one in state.deployments.items() if name in fewest}
            return len(state.deployments) == len(fewest) + 1 and there == fewest and state.all_run()

        self.deploy(content)
        return self.until("everything runs, and nothing else", settled, seconds=seconds)

    def state(self) -> State:
        """What is where now."""
        found: State = self._call("state")
        return found

    def until(self, what: str, test: Callable[[State], bool], *, seconds: float) -> State:
        """Waits until the state passes a test.

        Raises:
            Unavailable: it has not in time; with the last state.
        """
        deadline = time.monotonic() + seconds
        while True:
            found = self.state()
            if test(found):
                return found
            if time.monotonic() > deadline:
                raise Unavailable(f"{what}: not within {seconds:g} s; {found}\n{self.log()}")
            time.sleep(_POLL_S)

    def until_ready(self, *, seconds: float) -> None:
        """Waits until the ingress, which hears of routers a moment after they run, passes requests on.

        Raises:
            Unavailable: it does not in time.
        """
        deadline, test = time.monotonic() + seconds, answers(f"{self.http}/v1/readyz")
        while not test():
            if time.monotonic() > deadline:
                raise Unavailable(f"{self.http} is not ready within {seconds:g} s; {self.state()}")
            time.sleep(_POLL_S)

    def log(self) -> str:
        """The end of what the cluster's first process wrote."""
        return "\n".join((self._folder / "host.log").read_text(errors="replace").splitlines()[-15:])

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            self._connection.send((name, arguments))
            result, error = self._connection.recv()
        except (EOFError, OSError):
            raise Unavailable(f"The cluster's first process has ended:\n{self.log()}") from None
        if error is not None:
            raise Unavailable(error)
        return result


@contextmanager
def site(
    content: Mapping[str, Any], nodes: Mapping[str, int] | None = None, *, boot_s: float | None = None
) -> Iterator[Site]:
    """A cluster with a head and `nodes` of each pool; with `boot_s`, with Ray's autoscaler instead.

    Args:
        content: of a cluster file, without `server`; nothing of it is deployed yet.
        nodes: how many of each pool.
        boot_s: seconds until a node that the autoscaler orders comes up.

    Raises:
        ConfigErrors: the cluster file is wrong.
        Unavailable: it does not start.
    """
    http_port, grpc_port = free_ports(2)
    server = {"http_port": http_port, "grpc_port": grpc_port}
    served = {**content, "server": server}
    parse(served)
    # Short: Ray's unix sockets lie below it.
    folder = Path(tempfile.mkdtemp(prefix="argus-n"))
    try:
        with _host(folder, served, autoscaled=boot_s is not None) as connection:
            found = Site(connection, folder, server)
            found._call("start", boot_s)
            for pool, count in (nodes or {}).items():
                for _ in range(count):
                    found.add(pool)
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _host(folder: Path, content: Mapping[str, Any], *, autoscaled: bool) -> Iterator[Connection]:
    cluster_file = folder / "given.yaml"
    cluster_file.write_text(yaml.safe_dump(dict(content)), encoding="utf-8")
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "benchmarks.scaling.host", str(folder), str(cluster_file), str(int(autoscaled))]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    (first_port, *_) = free_ports(1)
    environment = {**os.environ, "PYTHONPATH": path, **replica_ports(_block(first_port))}
    with (folder / "host.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, str(theirs.fileno())],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    theirs.close()
    connection = Connection(ours.detach())
    try:
        yield connection
    finally:
        _end(process, connection)


def _end(process: subprocess.Popen[bytes], connection: Connection) -> None:
    """Ends the first process, and all that it started: nodes of the autoscaler lose their parents with it."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    with contextlib.suppress(OSError, EOFError):
        connection.send(("stop", ()))
        if connection.poll(_END_S):
            connection.recv()
    connection.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for left in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    psutil.wait_procs(family, timeout=_END_S)


def _block(port: int) -> int:
    """The first of two hundred ports for replicas that listen, away from those that systems give out by themselves."""
    return 20_000 + port % 40 * 200
