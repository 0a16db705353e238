"""What the routers of a simulated cluster tell the autoscaler, and the policy for cascades that decides on it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.capacity.scenario import Scenario
from benchmarks.capacity.simulator.memory import World
from benchmarks.capacity.simulator.program import Program
from benchmarks.capacity.simulator.routes import routes
from serve.autoscaling import evidence
from serve.autoscaling.decide import Replicas, State, Wanted, decide
from serve.autoscaling.evidence import Told
from serve.autoscaling.plan import Plan

# How often routers tell what came (serve/placement.py), and how often it is decided (serve/autoscaling/ray_policy.py).
TOLD_S, DECIDED_S = 2.0, 1.0
# As `serve.resilience.admission`: requests that one which was admitted stands for, over about this time.
_MOST_WEIGHT, _WEIGHT_S = 20.0, 10.0


class Routers:
    """Counts for all routers together; every tick."""

    def __init__(self, scenario: Scenario, program: Program) -> None:
        self._targets = program.targets
        self._names: list[tuple[str, str] | None] = []
        self._flow_of: list[int] = []
        for node in routes(scenario).nodes:
            entry = scenario.flows[node.flow].entry
            cascade = scenario.cascades.get(entry)
            # A step's fallbacks are other ways of asking, not other requests.
            asked = cascade is not None and any(
                step.name == node.path and step.use == node.target for step in cascade.steps
            )
            self._names.append((entry, node.path) if asked else None)
            self._flow_of.append(node.flow)
        self._flows = len(scenario.flows)
        self._seen = 0
        self._asked = np.zeros(len(self._names))
        self._weighted = np.zeros(len(self._names))
        self._came, self._admitted = np.zeros(self._flows), np.zeros(self._flows)
        self._at = 0.0

    def count(self, world: World, now: float) -> None:
        """Takes in what has come since the last time."""
        until = int(world["next_arrival"])
        fade = np.exp(-(now - self._at) / _WEIGHT_S)
        self._came = self._came * fade + np.bincount(world["flow"][self._seen : until], minlength=self._flows)
        asked = world["nodes"]["asked"][: len(self._names)].astype(float)
        more = asked - self._asked
        admitted = np.zeros(self._flows)
        for place, flow in enumerate(self._flow_of):
            if self._first(world, place, flow):
                admitted[flow] += more[place]
        self._admitted = self._admitted * fade + admitted
        weight = np.clip(self._came / np.maximum(self._admitted, 1e-9), 1.0, _MOST_WEIGHT)
        self._weighted += more * np.where(self._admitted > 0, weight, 1.0)[self._flow_of]
        self._asked, self._seen, self._at = asked, until, now

    @staticmethod
    def _first(world: World, place: int, flow: int) -> bool:
        """Whether a flow begins at a node, in its present gear."""
        return bool(world["starts"][flow * int(world["gear_count"]) + int(world["gears"][flow])] == place)

    def told(self, world: World, now: float) -> Told:
        """The totals so far."""
        totals: dict[str, float] = {}
        plain = world["nodes"]["plain"]
        for place, name in enumerate(self._names):
            if name is not None:
                _add(totals, evidence.step(*name), float(self._weighted[place]))
                _add(totals, evidence.plain(*name), float(plain[place]))
        for target, record in zip(self._targets, world["targets"], strict=False):
            totals[evidence.came(target)] = float(record["came"])
            totals[evidence.done(target)] = float(record["done"])
            totals[evidence.busy(target)] = float(record["busy"])
            totals[evidence.waited(target)] = float(record["waited"])
        return Told(now, totals)


def _add(totals: dict[str, float], name: str, count: float) -> None:
    totals[name] = totals.get(name, 0.0) + count


class CascadeScaling:
    """The policy for cascades over a simulated cluster."""

    def __init__(self, plan: Plan, scenario: Scenario, program: Program) -> None:
        self._plan = plan
        self._routers = Routers(scenario, program)
        self._state = State()
        self._told: Mapping[str, Told] = {}
        self._told_at = self._decided_at = 0.0
        self._wanted: dict[str, Wanted] = {}

    def decide(self, world: World, there: Mapping[str, Replicas], now: float) -> Mapping[str, int]:
        """How many replicas of each model there are to be."""
        self._routers.count(world, now)
        if not self._told or now - self._told_at >= TOLD_S - 1e-9:
            self._told, self._told_at = {"router": self._routers.told(world, now)}, now
        if not self._wanted or now - self._decided_at >= DECIDED_S - 1e-9:
            self._decided_at = now
            self._wanted, self._state = decide(self._plan, self._state, self._told, there, now)
        return {name: one.replicas for name, one in self._wanted.items()}
