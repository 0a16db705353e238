"""The settings of one model or provider, with nothing left open."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from serve.config.cluster import ClusterFile
from serve.config.models import Model
from serve.config.resilience import Breaker, Hedge, Resilience, Retries, Target

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Settings:
    """How one target is called.

    Attributes:
        ours: it is a model of this cluster.
        breaker: None for none.
        breaker_needs_fallback: an open breaker lets calls pass that have no other way to go.
        hedge: None for none.
        concurrency: least, first and greatest limit; None for no limit.
        max_waiting: calls that wait for a place.
        attempt_timeout_s: longest that an attempt may last.
        patience: multiple of the measured P95 that an attempt may last where there is a fallback.
        per_minute: most calls and most tokens, None for no limit.
    """

    name: str
    ours: bool
    breaker: Breaker | None
    breaker_needs_fallback: bool
    hedge: Hedge | None
    retries: Retries
    retry_floor_per_s: float
    concurrency: tuple[int, int, int] | None
    max_waiting: int
    attempt_timeout_s: float
    patience: float
    per_minute: tuple[int | None, int | None]


def settings_of(resilience: Resilience, name: str, *, ours: bool, room: tuple[int, int] = (64, 64)) -> Settings:
    """What the file says of a target, and for the rest what suits a model of ours, or one that others host.

    A call of ours costs no money, its queue is ours (so a 429 asks for no rest), and a dead engine is back in seconds,
    for which its callers had rather wait than be refused.

    Args:
        room: least and most calls that fill the batches of its replicas twice, of the fewest and of all of them: with
            fewer in progress they would starve, and what is more waits in a replica's queue, which knows no priorities.
    """
    target = resilience.targets.get(name, Target())
    limits = target.concurrency
    most = _given(limits.max_limit, room[1] if ours else 256)
    least = _given(limits.min_limit, min(room[0] if ours else 2, most))
    first = _given(limits.initial_limit, max(least, min(room[0] if ours else 20, most)))
    breaker = target.breaker.model_copy(update={"max_cool_down_s": 0.0}) if ours else target.breaker
    return Settings(
        name=name,
        ours=ours,
        breaker=breaker if breaker.enabled else None,
        breaker_needs_fallback=_given(target.breaker.only_with_fallback, ours),
        hedge=target.hedge if _given(target.hedge.enabled, not ours) else None,
        retries=target.retries,
        retry_floor_per_s=_given(target.retries.floor_per_s, 20.0 if ours else 1.0),
        concurrency=(min(least, first), first, most) if limits.enabled else None,
        max_waiting=limits.max_waiting,
        attempt_timeout_s=target.attempt_timeout_s,
        patience=target.patience,
        per_minute=(target.requests_per_minute, target.tokens_per_minute),
    )


def all_settings(cluster: ClusterFile) -> dict[str, Settings]:
    """The settings of every model and provider, by name."""
    return {
        name: settings_of(cluster.resilience, name, ours=True, room=_room(model))
        for name, model in cluster.models.items()
    } | {name: settings_of(cluster.resilience, name, ours=False) for name in cluster.providers}


def _room(model: Model) -> tuple[int, int]:
    scaling = model.autoscaling
    each = 2 * model.batching.max_items
    if scaling.min_replicas < scaling.max_replicas:
        # Ray Serve adds replicas by the calls that it sees, and sees none that wait here.
        each = max(each, math.ceil(2 * scaling.target_ongoing_requests))
    return each * max(1, scaling.min_replicas), each * scaling.max_replicas


def _given(value: V | None, default: V) -> V:
    return default if value is None else value
