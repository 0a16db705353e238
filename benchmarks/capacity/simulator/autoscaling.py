"""Replicas that come and go: what decides, what it knows and when, and how long a replica takes to start.

The decisions are the product's own (serve/autoscaling): Ray Serve's rule, or the policy for cascades. What they decide
on comes late, as it does there: handles report the requests in progress every ten seconds, of which Ray takes the mean
over the time that it looks back, and routers tell what came every two.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from benchmarks.capacity.outcome import Change
from benchmarks.capacity.scenario import Scaling
from benchmarks.capacity.simulator.memory import World
from benchmarks.capacity.simulator.records import ABSENT, DRAINING, NONE, READY
from serve.autoscaling import queue_rule
from serve.autoscaling.decide import Replicas
from serve.autoscaling.queue_rule import Waiting

# RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S.
PUSH_S = 10.0


@dataclass(slots=True)
class QueueRule:
    """Ray Serve's decision for one deployment."""

    scaling: Scaling
    waiting: Waiting = field(default_factory=Waiting)

    def decide(self, there: Replicas, now: float) -> int:
        """How many replicas there are to be."""
        decided, self.waiting = queue_rule.decide(
            self.scaling, self.waiting, there.ongoing, there.running, there.target, now
        )
        return decided


@dataclass(slots=True)
class Deployment:
    """One deployment's replicas.

    Attributes:
        place: of its target.
        target: replicas that there are to be.
        starting: when each will be ready, and its place.
        reports: end of each report, and mean requests in progress in it.
        changes: every decision for another number.
    """

    place: int
    scaling: Scaling
    target: int
    starting: list[tuple[float, int]] = field(default_factory=list)
    reports: deque[tuple[float, float]] = field(default_factory=deque)
    reported_at: float = 0.0
    reported_integral: float = 0.0
    changes: list[Change] = field(default_factory=list)

    def look(self, world: World, now: float) -> Replicas:
        """Brings the deployment to `now`, and says how it is; called every tick."""
        target = world["targets"][self.place]
        self._report(target, now)
        self._end_drained(world, now)
        self._become_ready(world, now)
        return Replicas(self._ongoing(target), int(target["ready"]), self.target)

    def become(self, world: World, wanted: int, now: float) -> None:
        """There are to be so many replicas."""
        if wanted == self.target:
            return
        self.changes.append(Change(now, self.target, wanted))
        if wanted > self.target:
            self._add(world, wanted - self.target, now)
        else:
            self._remove(world, self.target - wanted)
        self.target = wanted

    def _report(self, target: object, now: float) -> None:
        if now - self.reported_at < PUSH_S:
            return
        integral = _integral(target, now)
        self.reports.append((now, (integral - self.reported_integral) / (now - self.reported_at)))
        self.reported_at, self.reported_integral = now, integral
        while self.reports[0][0] <= now - self.scaling.look_back_s:
            self.reports.popleft()

    def _ongoing(self, target: object) -> float:
        if not self.reports:
            # Without replicas a waiting request is told at once.
            return float(target["ongoing"]) if not target["ready"] else self.target * self.scaling.target_ongoing  # type: ignore[index]
        if not target["ready"] and target["ongoing"]:  # type: ignore[index]
            return float(target["ongoing"])  # type: ignore[index]
        return sum(mean for _, mean in self.reports) / len(self.reports)

    def _add(self, world: World, count: int, now: float) -> None:
        taken = {place for _, place in self.starting}
        first = int(world["targets"][self.place]["first"])
        for place in range(first, first + int(world["targets"][self.place]["most"])):
            if count == 0:
                return
            if world["replicas"][place]["state"] != ABSENT or place in taken:
                continue
            up = self._alive(world) + len(self.starting)
            node_s = self.scaling.node_s if up >= self.scaling.room else 0.0
            self.starting.append((now + self.scaling.start_s + node_s, place))
            count -= 1

    def _alive(self, world: World) -> int:
        target = world["targets"][self.place]
        first = int(target["first"])
        return int((world["replicas"][first : first + int(target["most"])]["state"] != ABSENT).sum())

    def _remove(self, world: World, count: int) -> None:
        """Those that have not started yet go first; the others end what they have."""
        self.starting.sort()
        while count and self.starting:
            self.starting.pop()
            count -= 1
        target = world["targets"][self.place]
        start = self.place * int(world["ready_width"])
        for _ in range(count):
            target["ready"] -= 1
            last = start + int(target["ready"])
            world["replicas"][world["ready"][last]]["state"] = DRAINING
            world["ready"][last] = NONE

    def _become_ready(self, world: World, now: float) -> None:
        target = world["targets"][self.place]
        start = self.place * int(world["ready_width"])
        for ready_at, place in [one for one in self.starting if one[0] <= now]:
            self.starting.remove((ready_at, place))
            replica = world["replicas"][place]
            replica["state"], replica["since"] = READY, now
            replica["last_items"], replica["last_cost"], replica["last_pass"] = 1, 0.0, 0.0
            for name in ("weight", "costs", "squares", "seconds", "products", "standing"):
                replica[name] = 0.0
            world["ready"][start + int(target["ready"])] = place
            target["ready"] += 1

    def _end_drained(self, world: World, now: float) -> None:
        target = world["targets"][self.place]
        for place in range(int(target["first"]), int(target["first"] + target["most"])):
            replica = world["replicas"][place]
            if replica["state"] == DRAINING and replica["ongoing"] == 0:
                replica["state"] = ABSENT
                replica["alive_s"] += now - replica["since"]


def _integral(target: object, now: float) -> float:
    """Of the requests in progress, up to `now`."""
    return float(target["ongoing_s"] + target["ongoing"] * (now - target["ongoing_at"]))  # type: ignore[index]
