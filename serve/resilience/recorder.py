"""What the guard tells of itself, without saying to whom: pure code imports no metrics library."""

from __future__ import annotations

from typing import Literal, Protocol

CacheResult = Literal["hit", "shared_hit", "negative_hit", "miss", "store_failed"]
Stage = Literal["deadline", "budget", "tenant_limit", "provider_limit", "concurrency", "breaker"]
BreakerState = Literal["closed", "open", "half_open", "resting"]
"""`resting`: open for as long as a 429 asked for; the target is well."""
Counted = Literal["shared", "replica"]
"""Who counts money: Redis for all router replicas, or each replica its own part."""


class Recorder(Protocol):
    """Takes what happens to calls. `target` is a name of the cluster file, `outcome` a failure class or `ok`."""

    def cache(self, target: str, result: CacheResult) -> None: ...

    def joined(self, target: str) -> None: ...

    def budget_left(self, tenant: str, usd: float, of_usd: float, counted: Counted) -> None: ...

    def spent(self, target: str, usd: float) -> None: ...

    def refused(self, target: str, stage: Stage) -> None: ...

    def concurrency(self, target: str, limit: int, in_flight: int, waiting: int) -> None: ...

    def waited(self, target: str, seconds: float) -> None: ...

    def breaker(self, target: str, state: BreakerState) -> None: ...

    def hedged(self, target: str, won: bool) -> None: ...

    def retried(self, target: str) -> None: ...

    def attempted(self, target: str, outcome: str, seconds: float) -> None: ...

    def shared_store(self, answered: bool) -> None: ...


class Silent:
    """A recorder that forgets."""

    def cache(self, target: str, result: CacheResult) -> None:
        """See `Recorder`."""

    def joined(self, target: str) -> None:
        """See `Recorder`."""

    def budget_left(self, tenant: str, usd: float, of_usd: float, counted: Counted) -> None:
        """See `Recorder`."""

    def spent(self, target: str, usd: float) -> None:
        """See `Recorder`."""

    def refused(self, target: str, stage: Stage) -> None:
        """See `Recorder`."""

    def concurrency(self, target: str, limit: int, in_flight: int, waiting: int) -> None:
        """See `Recorder`."""

    def waited(self, target: str, seconds: float) -> None:
        """See `Recorder`."""

    def breaker(self, target: str, state: BreakerState) -> None:
        """See `Recorder`."""

    def hedged(self, target: str, won: bool) -> None:
        """See `Recorder`."""

    def retried(self, target: str) -> None:
        """See `Recorder`."""

    def attempted(self, target: str, outcome: str, seconds: float) -> None:
        """See `Recorder`."""

    def shared_store(self, answered: bool) -> None:
        """See `Recorder`."""
