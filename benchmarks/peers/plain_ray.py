"""A plain Ray Serve instance for a peer, with Argus' own ingress settings or with Ray Serve's defaults.

Import nothing that imports Ray before `run`: the settings must be in the environment first.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from serve.config.load import parse
from serve.errors import Unavailable
from serve.runtime import ingress, state
from serve.runtime.local import LocalCluster, apply_environment

# What every instance on this machine has, tuned or not: loopback only, and no telemetry.
_DEFAULTS = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


def run(name: str, port: int, *, tuned: bool, applications: Callable[[], dict[str, Any]]) -> None:
    """Serves until SIGTERM.

    Args:
        tuned: HAProxy and the throughput flags, exactly as `argus up` sets them; else Ray Serve as it comes.
        applications: called when Ray may be imported; applications by route prefix.
    """
    folder = state.run_dir(name)
    if tuned:
        binary = ingress.haproxy_binary()
        if binary is None:
            raise Unavailable("HAProxy does not run here, so there is no tuned ingress to compare with.")
        state.write_token(folder)
        apply_environment(ingress.environment(folder, binary))
    else:
        apply_environment(_DEFAULTS)
    noop = {"kind": "custom", "implementation": "benchmarks.noop:NoopModel", "tasks": ["embed"]}
    server = {"http_port": port, "metrics_port": ingress.free_ports(1)[0]}
    cluster = parse({"name": name, "node_pools": {"local": {}}, "models": {"noop": noop}, "server": server})
    local = LocalCluster(cluster, folder)
    stop = threading.Event()
    try:
        local.start_ray()
        from ray import serve

        from serve.app import logging_config

        logging = logging_config(cluster)
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port}, logging_config=logging)
        for prefix, application in applications().items():
            serve.run(application, name=prefix.strip("/") or "app", route_prefix=prefix, logging_config=logging)
        # Ray puts its own handlers in place, so ours come after its start.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        stop.wait()
    finally:
        local.stop()
