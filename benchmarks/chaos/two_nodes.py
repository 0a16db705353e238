"""Two nodes of one Ray cluster on this machine, with Argus on it: `python -m benchmarks.chaos.two_nodes FILE FOLDER`.

`ray.cluster_utils.Cluster` starts, for each node, the processes that a machine of its own would have. The program does
what `argus up` does on the first node, then what it is told, one JSON object a line: `{"do": "drain"}`.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Final

from benchmarks.chaos.site import NotMade
from benchmarks.servers import ROOT, cache_dir, stop
from serve.errors import Unavailable

_NODE_CPUS: Final = 2
_NODE_BYTES: Final = 150 * 1024 * 1024
# Time that a node has before it goes, once it was told so.
NOTICE_S: Final = 20.0


class Control:
    """The parent's side.

    Attributes:
        pid: of the program, from which the processes of both nodes descend.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def do(self, name: str) -> Any:
        """Does one of `_Nodes`' things and waits for its end.

        Raises:
            NotMade: it went wrong.
        """
        assert self._process.stdin is not None, "it was started with pipes"
        self._process.stdin.write(json.dumps({"do": name}) + "\n")
        self._process.stdin.flush()
        answer = self.read()
        if "error" in answer:
            raise NotMade(f"{name}: {answer['error']}")
        return answer["done"]

    def read(self) -> dict[str, Any]:
        """The next line."""
        assert self._process.stdout is not None, "it was started with pipes"
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable("the program of the two nodes has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def two_nodes(path: Path, folder: Path, environment: Mapping[str, str]) -> Iterator[Control]:
    """The cluster for the time of the block.

    Raises:
        Unavailable: it did not start; its log, whose path is in the message, says why.
    """
    log_path = cache_dir() / "chaos-nodes.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.chaos.two_nodes", str(path), str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            control = Control(process)
            try:
                control.read()
            except Unavailable:
                raise Unavailable(f"the two nodes did not start; see {log_path}") from None
            yield control
        finally:
            if process.stdin is not None:
                process.stdin.close()  # its end is the program's end
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                stop(process)


class _Nodes:
    """What can be done to them."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._worker = self._new_worker()

    def where(self) -> list[str]:
        """Names of the deployments that have a replica on the second node."""
        from ray.serve.context import _get_global_client

        client: Any = _get_global_client()
        applications = client.get_serve_details()["applications"].values()
        return [
            name
            for application in applications
            for name, deployment in application["deployments"].items()
            for replica in deployment["replicas"]
            if replica["node_id"] == self._worker.node_id
        ]

    def remove(self) -> None:
        """The second node goes without a word, as a machine that loses its power."""
        self._cluster.remove_node(self._worker, allow_graceful=False)

    def drain(self) -> None:
        """The second node is told that it will go (what `ray drain-node` tells it), and goes when its time is over."""
        import ray
        from ray.core.generated import autoscaler_pb2

        # Neither module tells its types what it has.
        client = getattr(ray._raylet, "GcsClient")(address=self._cluster.gcs_address)  # noqa: B009
        reason = getattr(autoscaler_pb2, "DrainNodeReason").Value("DRAIN_NODE_REASON_PREEMPTION")  # noqa: B009
        ends_ms = int((time.time() + NOTICE_S) * 1000)
        accepted, why = client.drain_node(self._worker.node_id, reason, "the machine is needed", ends_ms)
        if not accepted:
            raise RuntimeError(why)
        time.sleep(NOTICE_S)
        self.remove()

    def add(self) -> None:
        """A second node again."""
        self._worker = self._new_worker()

    def kill_gcs(self) -> None:
        """The process that holds the cluster's tables ends."""
        self._cluster.head_node.kill_gcs_server()

    def start_gcs(self) -> None:
        """It is started again, and finds its tables in Redis."""
        self._cluster.head_node.start_gcs_server()

    def _new_worker(self) -> Any:
        return self._cluster.add_node(num_cpus=_NODE_CPUS, object_store_memory=_NODE_BYTES)


def _start(path: Path, folder: Path) -> tuple[_Nodes, Callable[[], None]]:
    from serve.config.load import load_file
    from serve.runtime import ingress, state
    from serve.runtime.local import LocalCluster, apply_environment

    file = load_file(path)
    run = folder / "run"
    run.mkdir(mode=0o700)
    state.write_token(run)
    apply_environment(ingress.environment(run, ingress.haproxy_binary()))

    import ray
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": _NODE_CPUS,
        "object_store_memory": _NODE_BYTES,
        "include_dashboard": False,
        "temp_dir": str(run / "ray"),
        "metrics_export_port": file.server.metrics_port,
    }
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    nodes = _Nodes(cluster)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    local = LocalCluster(file, run)
    local.start_ingress()
    for _ in local.deploy():
        pass

    def end() -> None:
        local.stop()
        cluster.shutdown()

    return nodes, end


def _serve(path: Path, folder: Path) -> None:
    # Ray prints as it likes; the parent reads JSON.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    with redirect_stdout(sys.stderr):
        nodes, end = _start(path, folder)
        try:
            print(json.dumps({"done": "started"}), file=out, flush=True)
            for line in sys.stdin:
                try:
                    answer = {"done": getattr(nodes, json.loads(line)["do"])()}
                except Exception as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                print(json.dumps(answer), file=out, flush=True)
        finally:
            end()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]))
