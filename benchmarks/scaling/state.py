"""What is where in a cluster of several nodes, at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is alive.

    Attributes:
        pool: its pool's name; empty of the head.
    """

    id: str
    pool: str


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica of a deployment.

    Attributes:
        state: Ray Serve's word, such as STARTING or RUNNING.
        pool: of its node; empty while it has none.
        gpus: numbers of the GPUs that Ray gave it, as counted on its node.
        asked: when Ray Serve wanted it, in seconds since the epoch.
    """

    id: str
    state: str
    node: str
    pool: str
    gpus: tuple[int, ...]
    pid: int | None
    asked: float


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment.

    Attributes:
        message: what Ray Serve says of it.
        wanted: replicas that it should have.
    """

    name: str
    status: str
    message: str
    wanted: int
    replicas: tuple[Replica, ...]

    @property
    def running(self) -> tuple[Replica, ...]:
        """Replicas that answer."""
        return tuple(one for one in self.replicas if one.state == "RUNNING")


@dataclass(frozen=True, slots=True)
class State:
    """All of it.

    Attributes:
        at: when, in seconds since the epoch.
        application, message: status of the application, and what Ray Serve says of it.
    """

    at: float
    nodes: tuple[Node, ...]
    application: str
    message: str
    deployments: dict[str, Deployment]

    def count(self, pool: str) -> int:
        """Nodes of a pool."""
        return sum(node.pool == pool for node in self.nodes)

    def all_run(self) -> bool:
        """Whether every deployment has the replicas that it should have, on nodes that are alive."""
        alive = {node.id for node in self.nodes}
        return self.application == "RUNNING" and all(
            len([one for one in deployment.running if one.node in alive]) == deployment.wanted
            for deployment in self.deployments.values()
        )
