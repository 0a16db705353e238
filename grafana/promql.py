"""Pieces of PromQL: selectors of one cluster's series, and the names that may stand in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from grafana.inventory import by_series

RAYS: Final[Mapping[str, str]] = {
    "ray_serve_autoscaling_target_replicas": "replicas that Ray Serve wants of a deployment",
    "ray_serve_deployment_replica_healthy": "1 for each healthy replica of a deployment",
    "ray_serve_proxy_status": "1 to 5 for each ingress: starting, healthy, unhealthy, draining, drained",
}
"""Series of Ray's own that rules read: Ray Serve 2.60 exports them, with the labels `application` and `deployment`, or
`node_ip_address` for the last one."""


class Cluster:
    """Selects series of one cluster: those labelled with its name, and those without such a label.

    A Prometheus of several clusters must give each its label (`labels: {cluster: NAME}` beside the targets); one that
    has a single cluster need not.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def raw(self, series: str, *matchers: str) -> str:
        """A scraped series; `matchers` are such as `fault="server"`.

        Raises:
            ValueError: nothing exports a series of this name.
        """
        if series not in by_series() and series not in RAYS and series != "up":
            raise ValueError(f"{series} is neither one of ours nor one of Ray's that rules read")
        # A dot is the one character of a name that means another thing in a regular expression.
        name = self.name.replace(".", "[.]")
        return _selector(series, f'cluster=~"{name}|"', *matchers)

    def recorded(self, name: str, *matchers: str) -> str:
        """A series that a rule of this cluster records."""
        return _selector(name, f'cluster="{self.name}"', *matchers)


def _selector(name: str, *matchers: str) -> str:
    return f"{name}{{{','.join(matchers)}}}"
