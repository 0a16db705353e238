"""A Ray cluster of this process, the application on it, and their clean end.

Ray is imported inside the functions: its settings must be in the environment first (see `ingress`).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from serve.config.cluster import ClusterFile
from serve.errors import ConfigError, Unavailable
from serve.runtime.ingress import inner_host

APPLICATION = "argus"
_OBJECT_STORE_BYTES = 256 * 1024 * 1024
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Starting:
    """One deployment while it starts; `status` is Ray Serve's, such as `HEALTHY`."""

    name: str
    status: str
    message: str


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """One deployment as it runs."""

    name: str
    status: str
    message: str
    running: int
    wanted: int


class LocalCluster:
    """Starts and stops everything. One a process.

    Args:
        cluster: the cluster file.
        folder: private folder for Ray's session; logs lie below it.
    """

    def __init__(self, cluster: ClusterFile, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder

    def start_ray(self) -> str:
        """Starts Ray in this process; its address."""
        import ray

        # Ray makes its folder open to all; ours, around it, stays private. Logs of earlier runs go.
        session = self._folder / "ray"
        shutil.rmtree(session, ignore_errors=True)
        context: Any = ray.init(
            address="local",  # a new cluster, whatever RAY_ADDRESS names
            num_cpus=cores(self._cluster),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=str(session),
            _metrics_export_port=self._cluster.server.metrics_port,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        return str(context["address"])

    def start_ingress(self) -> None:
        """Starts HTTP and gRPC, without an application yet."""
        from ray import serve

        from serve.app import logging_config
        from serve.protocol.grpc_server import SERVICER_FUNCTIONS

        # Progress is ours to tell; warnings still come through.
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        server = self._cluster.server
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": inner_host(server.host), "port": server.http_port},
            grpc_options={"port": server.grpc_port, "grpc_servicer_functions": list(SERVICER_FUNCTIONS)},
            logging_config=logging_config(self._cluster),
        )

    def join(self, address: str) -> None:
        """Makes this process a driver of a cluster that runs."""
        import ray

        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)

    def leave(self) -> None:
        """Undoes `join`; the cluster goes on."""
        import ray

        leave = cast("Callable[[], None]", ray.shutdown)
        leave()

    def free(self) -> Mapping[str, float]:
        """Cores (`CPU`) and GPUs (`GPU`) that nothing has reserved."""
        import ray

        free = cast("Callable[[], Mapping[str, float]]", ray.available_resources)
        return free()

    def deploy(self) -> Iterator[list[Starting]]:
        """Deploys the application, in place of the one that runs, and yields its deployments' states until all run.

        Raises:
            Unavailable: the application cannot start; the message is Ray Serve's.
            ConfigError: the models do not fit onto the nodes.
        """
        from ray import serve
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ApplicationStatus

        from serve.app import build, logging_config

        target = serve.RunTarget(
            target=build(self._cluster),
            name=APPLICATION,
            route_prefix="/",
            logging_config=logging_config(self._cluster),
        )
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        # Not `serve.status()`: it pickles the class of every deployment's request router at each call, which took a
        # third of a core for as long as the models loaded.
        client: Any = _get_global_client()
        while True:
            seen = client.get_serve_status(APPLICATION)
            yield [Starting(one.name, one.status.value, one.message) for one in seen.deployment_statuses]
            if seen.app_status.status == ApplicationStatus.RUNNING:
                return
            if seen.app_status.status == ApplicationStatus.DEPLOY_FAILED:
                raise Unavailable(seen.app_status.message or "The application failed to start.")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """Drains and stops the application, then Ray. What has not started is not an error."""
        import ray
        from ray import serve

        shut_serve, shut_ray = cast("Callable[[], None]", serve.shutdown), cast("Callable[[], None]", ray.shutdown)
        # Ray reports the end of its own controller as a failed task of that controller.
        with contextlib.redirect_stderr(io.StringIO()):
            with contextlib.suppress(Exception):
                shut_serve()
            shut_ray()


def cores(cluster: ClusterFile) -> int:
    """What Ray is told that this machine has: cores are shared, and a file may ask for more than there are."""
    return max(os.cpu_count() or 1, *(pool.cpus for pool in cluster.node_pools.values()))


def states(application: Any) -> list[DeploymentState]:
    """Deployments of one of `serve.status()`'s applications."""
    return [
        DeploymentState(
            name,
            deployment.status.value,
            deployment.message,
            deployment.replica_states.get("RUNNING", 0),
            sum(deployment.replica_states.values()),
        )
        for name, deployment in application.deployments.items()
    ]


def apply_environment(settings: Mapping[str, str]) -> None:
    """Sets variables for this process and those that it starts; must run before Ray is imported.

    Raises:
        ConfigError: Ray is imported already, so that settings would be in part ignored.
    """
    import sys

    if "ray" in sys.modules:
        raise ConfigError("Ray was imported before its settings were made.")
    for name, value in settings.items():
        os.environ.setdefault(name, value)
