"""How a changed cluster file, or changed code, reaches an application that runs.

Ray Serve compares three things of a deployment with what runs: its version, the options of its actors, and its
`user_config`. Another version, or other options, means new replicas: each starts and becomes healthy before an old one
stops, which first ends what it has begun. Another `user_config` is handed to the replicas that run. What is the same
in all three is left alone.

So a version is made of everything that a replica is built from, and of nothing else. What replicas can take while they
run (`LIVE`) is left out of it and goes into the `user_config` instead.

No Ray here: the manifests of Kubernetes are made with the same numbers. There Ray Serve makes versions itself, one for
the whole application.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from serve.config.checkpoints import checkpoint_mark
from serve.config.cluster import ClusterFile
from serve.config.model_base import ModelBase, StoreModel
from serve.config.models import Model
from serve.resilience.settings import all_settings

What = Literal["new", "gone", "replaced", "changed in place", "scaled", "unchanged"]

RECONFIGURE: Final = "reconfigure"
LIVE: Final = frozenset({"batching"})
"""Keys of a model that its replicas take while they run, where their class has a method `reconfigure`."""

SURGE_PERCENT: Final = 25
"""Replicas that may run beyond the wanted number during an update, as a share of it; rounded up to whole ones. Where
there is no room for one more, the old ones go on serving and the update waits."""

# Ray Serve scales by these; replicas never read them.
_SCALING: Final = frozenset({"autoscaling"})
_SLACK_S: Final = 15.0
_ROOT: Final = Path(__file__).parents[1]
_PACKAGES: Final = ("serve", "deployments")


class Mark(BaseModel):
    """What Ray Serve compares of one deployment."""

    model_config = ConfigDict(frozen=True)

    version: str
    actors: dict[str, Any]
    live: dict[str, Any] | None
    scaling: dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one deployment.

    Attributes:
        what: `replaced` by new replicas, one after the other; `changed in place`: the same replicas, set otherwise.
    """

    name: str
    what: What


def changes(before: Mapping[str, Mark], after: Mapping[str, Mark]) -> list[Change]:
    """Of each deployment, by name, in the order of `after`."""
    return [
        *(Change(name, _what(before.get(name), mark)) for name, mark in after.items()),
        *(Change(name, "gone") for name in before if name not in after),
    ]


def _what(before: Mark | None, after: Mark) -> What:
    if before is None:
        return "new"
    if (before.version, before.actors) != (after.version, after.actors):
        return "replaced"
    if before.live != after.live:
        return "changed in place"
    return "unchanged" if before.scaling == after.scaling else "scaled"


def drain_s(cluster: ClusterFile) -> int:
    """Seconds that a replica may go on with what it has begun: longer than the longest request."""
    return int(-(-cluster.limits.max_timeout_s // 1) + _SLACK_S)


def surge_percent(model: Model | None) -> int:
    """`SURGE_PERCENT`, for the router (None) too; a store's folder has one writer, so its old replica stops first."""
    return 0 if isinstance(model, StoreModel) else SURGE_PERCENT


def live_settings(model: Model, factory: Callable[..., Any]) -> dict[str, Any] | None:
    """`user_config` of a model's deployment; None where its replicas cannot change while they run."""
    return model.model_dump(mode="json", include=set(LIVE)) if hasattr(factory, RECONFIGURE) else None


def router_live_settings(cluster: ClusterFile) -> dict[str, Any]:
    """`user_config` of the router: whose keys are known, and how many calls of each model may be in progress."""
    limits_of_all = ((name, settings.concurrency) for name, settings in all_settings(cluster).items())
    return {
        "auth": cluster.auth.model_dump(mode="json"),
        "concurrency": {name: limits and list(limits) for name, limits in limits_of_all},
    }


def version(cluster: ClusterFile, name: str, factory: Callable[..., Any], arguments: Sequence[object]) -> str:
    """Of a model's deployment.

    Args:
        factory: the class of its replicas.
        arguments: what they are made with.
    """
    live = LIVE if hasattr(factory, RECONFIGURE) else frozenset()
    # A folder's weights may change under one name.
    parts = [checkpoint_mark(cluster, name), cluster.name, _plain(cluster.tracing, frozenset())]
    return _digest(code_of(factory), f"{factory.__module__}:{factory.__qualname__}", parts, arguments, live)


def router_version(cluster: ClusterFile, factory: Callable[..., Any]) -> str:
    """Of the router, which is made with the whole file."""
    content = cluster.model_dump(mode="json", exclude={"auth": True, "models": {"__all__": set(LIVE)}})
    marks = {name: checkpoint_mark(cluster, name) for name in (*cluster.models, *cluster.providers)}
    return _digest(code_of(factory), factory.__qualname__, [content, marks], (), frozenset())


def code_of(factory: Callable[..., Any]) -> str:
    """A digest of the code that a replica runs: our packages, and the file of a class that is not in them."""
    digest = hashlib.sha256(_our_code().encode())
    file = inspect.getsourcefile(inspect.unwrap(factory))
    if file is not None and not any(Path(file).is_relative_to(_ROOT / package) for package in _PACKAGES):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


@lru_cache(1)
def _our_code() -> str:
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(_ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _digest(code: str, kind: str, parts: Sequence[object], arguments: Sequence[object], live: frozenset[str]) -> str:
    described = [code, kind, *parts, *(_plain(argument, live) for argument in arguments)]
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _plain(argument: object, live: frozenset[str]) -> object:
    """What a digest is made of."""
    if isinstance(argument, ModelBase):
        return argument.model_dump(mode="json", exclude=set(live | _SCALING))
    if isinstance(argument, BaseModel):
        return argument.model_dump(mode="json")
    if dataclasses.is_dataclass(argument) and not isinstance(argument, type):
        return dataclasses.asdict(argument)
    return argument
