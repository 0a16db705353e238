"""A Ray Serve of a test module's own, with one deployment that is asked as the router asks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig

from serve.app import _AFFINITY

ROOT = Path(__file__).parents[2]


@contextmanager
def served(name: str, replica: type, *arguments: Any, replicas: int, num_cpus: float) -> Iterator[None]:
    """Runs replicas of a class as the application `name` until the end of the block.

    Args:
        arguments: what each replica is made with.
        num_cpus: of each.
    """
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80_000_000,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
        _temp_dir=tempfile.mkdtemp(prefix="argus-"),  # short: unix sockets lie below it
    )
    serve.start(proxy_location="Disabled")
    deployment = serve.deployment(
        replica,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": num_cpus},
        max_ongoing_requests=100,
        health_check_period_s=1,
        request_router_config=RequestRouterConfig(request_router_class=_AFFINITY),
    )
    serve.run(deployment.bind(*arguments), name=name, route_prefix=None)
    yield
    serve.shutdown()
    ray.shutdown()
