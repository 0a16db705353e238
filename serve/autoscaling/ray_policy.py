"""What Ray Serve's controller calls: an application's policy (ray.serve.config.AutoscalingPolicy, 2.60).

Ray pickles this module by value and makes one object of the class in its controller, which asks it ten times a second
for all deployments that may change. The controller is one process for the whole cluster: nothing here waits, and
nothing is raised into it. Whatever goes wrong, Ray's own rule decides, and the failure is counted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from serve.autoscaling import evidence, queue_rule
from serve.autoscaling.decide import Replicas, State, Wanted, decide
from serve.autoscaling.evidence import Told
from serve.autoscaling.metrics import PolicyMetrics
from serve.autoscaling.plan import from_arguments
from serve.autoscaling.queue_rule import Waiting


class CascadePolicy:
    """See `serve.autoscaling.decide`.

    Args:
        models, steps, window_s: see `serve.autoscaling.plan.Plan.arguments`.
        router: name of the deployment that tells what came.
    """

    # The evidence comes no faster, and the controller has other work.
    _EVERY_S = 1.0
    _SAID_EVERY_S = 60.0

    def __init__(self, models: Mapping[str, Any], steps: list[Any], window_s: float, router: str) -> None:
        self._plan = from_arguments(models, steps, window_s)
        self._router = router
        self._state = State()
        self._waiting: dict[str, Waiting] = {}
        self._wanted: dict[str, int] = {}
        self._decided_at: float | None = None
        self._failed_at: float | None = None
        self._metrics = PolicyMetrics()
        self._log = logging.getLogger("ray.serve")

    def __call__(self, contexts: Mapping[Any, Any]) -> tuple[dict[Any, int], dict[Any, Any]]:
        """Numbers of replicas by deployment, and no state of Ray's keeping."""
        now = time.time()
        named = {context.deployment_name: context for context in contexts.values()}
        if self._decided_at is None or not 0 <= now - self._decided_at < self._EVERY_S:
            self._decided_at = now
            try:
                self._decide(named, now)
            except Exception as error:
                self._fall_back(named, now, error)
        decided = {
            key: self._wanted[context.deployment_name]
            for key, context in contexts.items()
            if context.deployment_name in self._wanted
        }
        return decided, {}

    def _decide(self, named: Mapping[str, Any], now: float) -> None:
        replicas = {name: _replicas(named[name]) for name in self._plan.models if name in named}
        router = named.get(self._router)
        told = {} if router is None else _told(router.raw_metrics)
        wanted, self._state = decide(self._plan, self._state, told, replicas, now)
        for name, one in wanted.items():
            self._note(name, one, replicas[name])
        self._wanted = {name: one.replicas for name, one in wanted.items()}

    def _note(self, name: str, one: Wanted, there: Replicas) -> None:
        self._metrics.decided(name, one)
        if one.replicas != there.target:
            expected = "unknown" if one.calls_per_s is None else f"{one.calls_per_s:.3g}/s"
            capacity = "unknown" if one.capacity_per_s is None else f"{one.capacity_per_s:.3g}/s"
            self._log.info(
                f"Autoscaling {name}: {there.target} -> {one.replicas} replicas by {one.by}; calls expected "
                f"{expected}, capacity of a replica {capacity}, in progress {there.ongoing:.3g}."
            )

    def _fall_back(self, named: Mapping[str, Any], now: float, error: Exception) -> None:
        """Ray's own rule for everyone; where not even that works, nothing changes."""
        self._wanted = {}
        self._metrics.failed()
        if self._failed_at is None or now - self._failed_at >= self._SAID_EVERY_S:
            self._failed_at = now
            self._log.warning(f"Autoscaling falls back to the queue rule: {type(error).__name__}: {error}")
        for name, rule in self._plan.models.items():
            try:
                there = _replicas(named[name])
                self._wanted[name], self._waiting[name] = queue_rule.decide(
                    rule,
                    self._waiting.get(name, Waiting()),
                    there.ongoing,
                    there.running,
                    there.target,
                    now,
                )
            except Exception:  # its number stays as it is
                self._wanted.pop(name, None)


def _replicas(context: Any) -> Replicas:
    return Replicas(
        float(context.total_num_requests), int(context.current_num_replicas), int(context.target_num_replicas)
    )


def _told(raw: Mapping[str, Mapping[Any, Any]] | None) -> dict[str, Told]:
    """The last word of each router replica, out of Ray's series: by metric, then replica, points of time and value."""
    totals: dict[str, dict[str, float]] = {}
    at: dict[str, float] = {}
    for name, by_replica in (raw or {}).items():
        if not evidence.ours(name):
            continue
        for replica, points in by_replica.items():
            if points:
                source, last = str(replica), points[-1]
                totals.setdefault(source, {})[name] = float(last.value)
                at[source] = max(at.get(source, 0.0), float(last.timestamp))
    return {source: Told(at[source], values) for source, values in totals.items()}
