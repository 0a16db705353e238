"""What tests of the guard share: a clock that only they move, and a recorder that remembers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from serve.calls import Usage
from serve.config.load import parse
from serve.config.overload import Priority
from serve.context import RequestContext
from serve.resilience.build import build_guard
from serve.resilience.guard import Guard
from serve.resilience.jobs import NOTHING, Attempted
from serve.resilience.recorder import Silent

COST = Usage(100, 50, 0.4)


class Clock:
    """Seconds that only `now` moves."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Remembers(Silent):
    """Counts what the guard tells."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[Any, ...]] = Counter()
        self.left: dict[str, float] = {}
        self.told: dict[tuple[str, str], tuple[float, float]] = {}
        self.states: list[str] = []
        self.levels: dict[str, tuple[int, int, int]] = {}
        self.usd = 0.0

    def cache(self, target: str, result: str) -> None:
        self.counts["cache", result] += 1

    def joined(self, target: str) -> None:
        self.counts["joined",] += 1

    def budget_left(self, tenant: str, usd: float, of_usd: float, counted: str) -> None:
        self.left[tenant] = usd
        self.told[tenant, counted] = (usd, of_usd)

    def spent(self, target: str, usd: float) -> None:
        self.usd += usd

    def refused(self, target: str, stage: str) -> None:
        self.counts["refused", stage] += 1

    def concurrency(self, target: str, limit: int, in_flight: int, waiting: int) -> None:
        self.levels[target] = (limit, in_flight, waiting)

    def breaker(self, target: str, state: str) -> None:
        self.counts["breaker", state] += 1
        self.states.append(state)

    def hedged(self, target: str, won: bool) -> None:
        self.counts["hedged", won] += 1

    def retried(self, target: str) -> None:
        self.counts["retried",] += 1

    def attempted(self, target: str, outcome: str, seconds: float) -> None:
        self.counts["attempted", outcome] += 1

    def shared_store(self, answered: bool) -> None:
        self.counts["shared", answered] += 1


@dataclass
class Script:
    """Attempts of a target: each outcome in turn is a value, an error to raise, or an event to wait for; then `last`.

    Attributes:
        calls: attempts begun.
        running: attempts in progress.
    """

    outcomes: list[Any] = field(default_factory=list)
    last: Any = "answer"
    usage: Usage = NOTHING
    calls: int = 0
    running: int = 0

    async def __call__(self, timeout_s: float) -> Attempted[Any]:
        outcome = self.outcomes[self.calls] if self.calls < len(self.outcomes) else self.last
        self.calls += 1
        self.running += 1
        try:
            if isinstance(outcome, asyncio.Event):
                await outcome.wait()
                outcome = "late answer"
            if isinstance(outcome, BaseException):
                raise outcome
            return Attempted(outcome, self.usage)
        finally:
            self.running -= 1


class TextCodec:
    """A codec of texts; `None` is never kept."""

    def encode(self, value: Any) -> bytes | None:
        return None if value is None else str(value).encode()

    def decode(self, data: bytes) -> Any:
        return data.decode()


def context(client: str = "tenant", left_s: float = 30.0, priority: Priority = "normal") -> RequestContext:
    return RequestContext("id", client, time.monotonic() + left_s, priority)


def guard(recorder: Silent | None = None, **sections: Any) -> Guard:
    """The guard of a cluster with a model `ours` and a provider `theirs`."""
    data = {
        "name": "test",
        "node_pools": {"cpu": {}},
        "models": {"ours": {"kind": "llava", "checkpoint": "someone/ours"}},
        "providers": {"theirs": {"kind": "openai", "model": "gpt-4o"}},
        "auth": {"keys": [{"name": "poor", "sha256": "0" * 64}]},
        **sections,
    }
    return build_guard(parse(data), recorder or Silent(), lambda seconds, usual_s: None)


async def turns(count: int = 20) -> None:
    """Lets whatever is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)
