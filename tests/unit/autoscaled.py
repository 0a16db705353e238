"""A cascade of two models under the autoscaler's policy, on a clock of its own: what routers tell, what is decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from serve.autoscaling import evidence
from serve.autoscaling.decide import Replicas, State, Wanted, decide
from serve.autoscaling.evidence import Told
from serve.autoscaling.plan import Plan, Scaled, Step

RULE = Scaled(
    min_replicas=1,
    max_replicas=20,
    target_ongoing=4,
    upscale_delay_s=10,
    downscale_delay_s=60,
    start_s=40,
    calls_per_s=2.0,
)
# Calls that a replica takes at a time.
_MOST_ONGOING = 30.0
SCREEN = Step("moderation", "screen", "clip", 1.0, "screen")
ANALYSE = Step("moderation", "analyse", "llava", None, "screen")


def plan(rule: Scaled = RULE, share: float | None = None) -> Plan:
    """`llava` scales; a fifth of what comes to the cascade reaches it, as the calibration says or as is found out."""
    return Plan({"llava": rule}, (replace(ANALYSE, share=share),))


class Autoscaled:
    """One model that follows the load, second by second.

    Args:
        rate: of the cascade's requests a second, by time.
        escalated: share of them that reach the model.
        shed: share that is turned away at the edge.
        call_s: what a call takes, by the calls in progress a replica; None where no call's time is told.
        ongoing: requests in progress as Ray counts them, by time and running replicas.
    """

    def __init__(
        self,
        rate: Callable[[float], float],
        *,
        rule: Scaled = RULE,
        share: float | None = None,
        escalated: float = 0.2,
        shed: float = 0.0,
        direct: Callable[[float], float] = lambda now: 0.0,
        call_s: Callable[[float], float] | None = None,
        ongoing: Callable[[float, int], float] = lambda now, running: 0.0,
        start_s: float = 40.0,
        told_every: int = 2,
    ) -> None:
        self.plan = plan(rule, share)
        self._rate, self._escalated, self._shed, self._direct = rate, escalated, shed, direct
        self._call_s, self._ongoing = call_s, ongoing
        self._start_s, self._every = start_s, told_every
        self._totals: dict[str, float] = {}
        self._told: dict[str, Told] = {}
        self._starting: list[tuple[float, int]] = []
        self.state = State()
        self.running = self.target = rule.min_replicas
        self.silent = False
        self.now = 0.0
        self.targets: list[int] = []
        self.decisions: list[Wanted] = []

    def run(self, until: float) -> Autoscaled:
        """Lets the time pass."""
        while self.now < until:
            self._come()
            if not self.silent and self.now % self._every == 0:
                self._told = {"router": Told(self.now, dict(self._totals))}
            there = Replicas(self._ongoing(self.now, self.running), self.running, self.target)
            wanted, self.state = decide(self.plan, self.state, self._told, {"llava": there}, self.now)
            self._become(wanted["llava"])
            self.now += 1.0
        return self

    def first_above(self, replicas: int) -> float:
        """When more than so many were first wished."""
        return next(float(at) for at, target in enumerate(self.targets) if target > replicas)

    def _come(self) -> None:
        rate = self._rate(self.now)
        admitted = rate * (1 - self._shed)
        calls = admitted * self._escalated
        direct = self._direct(self.now)
        weight = 1 / (1 - self._shed)
        self._add(evidence.step("moderation", "screen"), rate)
        self._add(evidence.plain("moderation", "screen"), admitted)
        self._add(evidence.step("moderation", "analyse"), calls * weight)
        self._add(evidence.plain("moderation", "analyse"), calls)
        self._add(evidence.came("llava"), calls * weight + direct)
        if self._call_s is not None and self.running:
            calls += direct
            ongoing = 0.0
            for _ in range(200):  # as many are in progress as come while one is answered, or as many as get in
                ongoing = min(_MOST_ONGOING, calls / self.running * self._call_s(ongoing))
            answered = self.running * ongoing / self._call_s(ongoing)
            self._add(evidence.done("llava"), answered)
            self._add(evidence.busy("llava"), answered * self._call_s(ongoing))

    def _add(self, name: str, count: float) -> None:
        self._totals[name] = self._totals.get(name, 0.0) + count

    def _become(self, wanted: Wanted) -> None:
        if wanted.replicas > self.target:
            self._starting.append((self.now + self._start_s, wanted.replicas))
        elif wanted.replicas < self.target:
            self._starting, self.running = [], min(self.running, wanted.replicas)
        self.target = wanted.replicas
        for ready_at, count in list(self._starting):
            if ready_at <= self.now:
                self.running = max(self.running, count)
                self._starting.remove((ready_at, count))
        self.targets.append(self.target)
        self.decisions.append(wanted)
