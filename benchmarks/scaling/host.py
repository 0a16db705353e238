"""The process that a cluster of several nodes descends from: `python -m benchmarks.scaling.host FOLDER CLUSTER 0|1 FD`.

Its settings must be in the environment before Ray is imported, and Ray's test cluster starts its nodes as children of
whoever asks: hence a process of its own, which does what it is told over a socket and ends when that is closed.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.scaling import nodes
from benchmarks.scaling.models import FOLDER
from benchmarks.scaling.state import Deployment, Node, Replica, State
from serve.config.cluster import ClusterFile
from serve.config.load import load_file
from serve.kubernetes.settings import POOL_LABEL
from serve.placement import controller_environment
from serve.runtime import ingress
from serve.runtime.local import APPLICATION, apply_environment
from serve.runtime.state import write_token

HEAD_ID = "f" * 51 + "00000"
# A node whose processes are gone is dead after five refused calls, a second apart instead of Ray's three: tests wait
# for it. One that is only slow to answer has ten seconds for each of the five, as by default.
_DEAD_AFTER = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "5"}
# Each node would otherwise start one idle worker a core.
_NO_SPARE_WORKERS = {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}


def environment(folder: Path, cluster: ClusterFile, *, autoscaled: bool) -> dict[str, str]:
    """Settings of every process of the cluster."""
    found = dict(ingress.environment(folder, ingress.haproxy_binary())) | _DEAD_AFTER | _NO_SPARE_WORKERS
    found |= controller_environment(cluster) | {
        FOLDER: str(folder / "places"),
        # Ray's note of which cluster on this machine is the last lies here, where no other cluster's driver finds it.
        "RAY_TMPDIR": str(folder),
        "RAY_SERVE_SLOW_STARTUP_WARNING_S": "5",
        "RAY_SERVE_SLOW_STARTUP_WARNING_PERIOD_S": "2",
    }
    if autoscaled:
        found |= {
            "RAY_enable_autoscaler_v2": "1",
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        }
    return found


class Host:
    """Starts nodes and the application, and tells what is where.

    Args:
        folder: private; its path must be short.
        cluster: the cluster file.
    """

    def __init__(self, folder: Path, cluster: ClusterFile) -> None:
        from ray.cluster_utils import Cluster

        self._folder, self._file = folder, cluster
        self._shapes = nodes.shapes(cluster)
        self._cluster = Cluster(initialize_head=False)
        self._client: Any = None

    def start(self, boot_s: float | None) -> None:
        """Starts the head, which takes no work, and Ray Serve; with `boot_s`, Ray's autoscaler too."""
        import ray
        from ray.serve._private.api import serve_start

        from serve.protocol.grpc_server import SERVICER_FUNCTIONS

        options: dict[str, Any] = {"no_monitor": True}
        (port,) = ingress.free_ports(1)
        if boot_s is not None:
            path = self._folder / "autoscaling.json"
            config = nodes.autoscaling(self._file, f"127.0.0.1:{port}", HEAD_ID, boot_s)
            path.write_text(json.dumps(config), encoding="utf-8")
            options = {"autoscaling_config": str(path)}
        self._cluster.add_node(
            num_cpus=0,
            include_dashboard=False,
            dashboard_agent_listen_port=0,
            gcs_server_port=port,
            temp_dir=str(self._folder / "ray"),
            object_store_memory=nodes.OBJECT_STORE_BYTES,
            **options,
        )
        ray.init(address=self._cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        server = self._file.server
        self._client = serve_start(
            proxy_location="HeadOnly",
            http_options={"host": server.host, "port": server.http_port},
            grpc_options={"port": server.grpc_port, "grpc_servicer_functions": list(SERVICER_FUNCTIONS)},
        )

    def add(self, pool: str) -> str:
        """Adds a node of the pool; its id."""
        shape = self._shapes[pool]
        node = self._cluster.add_node(
            num_cpus=shape.cpus,
            num_gpus=shape.gpus,
            resources=dict(shape.resources),
            labels=dict(shape.labels),
            object_store_memory=nodes.OBJECT_STORE_BYTES,
        )
        return str(node.node_id)

    def remove(self, node_id: str) -> None:
        """Kills the node's processes, as when its machine is gone."""
        (node,) = [one for one in self._cluster.worker_nodes if one.node_id == node_id]
        self._cluster.remove_node(node, allow_graceful=False)

    def deploy(self, cluster: ClusterFile) -> None:
        """Asks Ray Serve for the application, as KubeRay does; does not wait for it."""
        from ray.serve.schema import ServeDeploySchema

        self._client.deploy_apps(ServeDeploySchema.model_validate(nodes.serve_schema(cluster, self._folder)))

    def state(self) -> State:
        """What is where now."""
        import ray

        found = tuple(
            Node(one["NodeID"], one.get("Labels", {}).get(POOL_LABEL, "")) for one in ray.nodes() if one["Alive"]
        )
        pools = {node.id: node.pool for node in found}
        details = self._client.get_serve_details()["applications"].get(APPLICATION)
        if details is None:
            return State(time.time(), found, "NOT_DEPLOYED", "", {})
        deployments = {
            name: Deployment(
                name,
                _word(one["status"]),
                one.get("message", ""),
                one["target_num_replicas"],
                tuple(self._replica(replica, pools) for replica in one["replicas"]),
            )
            for name, one in details["deployments"].items()
        }
        return State(time.time(), found, _word(details["status"]), details.get("message", ""), deployments)

    def stop(self) -> None:
        """Ends all of it; nodes that the autoscaler started are ended by `Site`."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()

    def _replica(self, one: dict[str, Any], pools: dict[str, str]) -> Replica:
        node, pid = one.get("node_id") or "", one.get("pid")
        try:
            place = json.loads((self._folder / "places" / f"{pid}.json").read_text(encoding="utf-8"))
        except OSError:
            place = {"gpus": []}  # the router, or a replica that has not started yet
        gpus = tuple(place["gpus"])
        return Replica(
            one["replica_id"], _word(one["state"]), node, pools.get(node, ""), gpus, pid, one["start_time_s"]
        )


def _word(value: Any) -> str:
    """Of a status, which Ray Serve gives as a text or as a member of an enumeration."""
    return str(getattr(value, "value", value))


def obey(host: Host, connection: Connection) -> None:
    """Does what the other end says, a call at a time, until it hangs up: (name, arguments) -> (result, error)."""
    calls: dict[str, Callable[..., Any]] = {
        "start": host.start,
        "add": host.add,
        "remove": host.remove,
        "deploy": host.deploy,
        "state": host.state,
        "stop": host.stop,
    }
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send((calls[name](*arguments), None))
        except Exception:
            connection.send((None, traceback.format_exc()))


def main(arguments: list[str]) -> None:
    """See the module."""
    folder, cluster, autoscaled, descriptor = Path(arguments[0]), Path(arguments[1]), arguments[2] == "1", arguments[3]
    (folder / "places").mkdir(exist_ok=True)
    # Of earlier runs in the same folder; Ray would find their sockets.
    shutil.rmtree(folder / "ray", ignore_errors=True)
    write_token(folder)
    content = load_file(cluster)
    settings = environment(folder, content, autoscaled=autoscaled)
    os.environ.update(settings)
    apply_environment(settings)
    obey(Host(folder, content), Connection(int(descriptor)))


if __name__ == "__main__":
    main(sys.argv[1:])
