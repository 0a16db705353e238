"""The router's side: counts what the autoscaler decides on; see `serve.autoscaling.evidence`."""

from __future__ import annotations

from collections.abc import Callable, Collection

from serve.autoscaling import evidence
from serve.resilience.metrics import GuardMetrics
from serve.resilience.recorder import CacheResult


class Demand:
    """Totals since the router started.

    Args:
        models: that are counted; hosted ones have no replicas.
        weight: how many requests the present task's request stands for (`Admission.weight`).
    """

    def __init__(self, models: Collection[str], weight: Callable[[], float]) -> None:
        self._models = frozenset(models)
        self._weight = weight
        # Something to tell from the first moment on: what was before a router's first word is not counted.
        self._totals = dict.fromkeys((name(model) for model in self._models for name in _OF_MODELS), 0.0)

    def totals(self) -> dict[str, float]:
        """The totals by name, for Ray Serve."""
        return dict(self._totals)

    def entered(self, cascade: str, step: str, plain: bool) -> None:
        """A request entered a step of a cascade, in the normal gear or not."""
        self._add(evidence.step(cascade, step), self._weight())
        if plain:
            self._add(evidence.plain(cascade, step), 1.0)

    def called(self, target: str) -> None:
        """A call began that the cache did not answer."""
        if target in self._models:
            self._add(evidence.came(target), self._weight())

    def cache(self, target: str, *, hit: bool) -> None:
        """The cache was asked."""
        if target in self._models:
            self._add(evidence.asked(target), 1.0)
            if not hit:
                self._add(evidence.missed(target), 1.0)

    def waited(self, target: str, seconds: float) -> None:
        """A call waited for a place."""
        if target in self._models:
            self._add(evidence.waited(target), seconds)

    def answered(self, target: str, seconds: float) -> None:
        """An attempt was answered after so many seconds."""
        if target in self._models:
            self._add(evidence.done(target), 1.0)
            self._add(evidence.busy(target), seconds)

    def _add(self, name: str, count: float) -> None:
        self._totals[name] = self._totals.get(name, 0.0) + count


_OF_MODELS = (evidence.came, evidence.done, evidence.busy, evidence.waited, evidence.asked, evidence.missed)
_HITS = frozenset({"hit", "shared_hit", "negative_hit"})


class CountedGuardMetrics(GuardMetrics):
    """The guard's metrics, of which the demand is told what it needs."""

    def __init__(self, demand: Demand) -> None:
        super().__init__()
        self._demand = demand

    def cache(self, target: str, result: CacheResult) -> None:
        """See `Recorder`."""
        super().cache(target, result)
        if result != "store_failed":
            self._demand.cache(target, hit=result in _HITS)

    def waited(self, target: str, seconds: float) -> None:
        """See `Recorder`."""
        super().waited(target, seconds)
        self._demand.waited(target, seconds)

    def attempted(self, target: str, outcome: str, seconds: float) -> None:
        """See `Recorder`."""
        super().attempted(target, outcome, seconds)
        if outcome == "ok":
            self._demand.answered(target, seconds)
