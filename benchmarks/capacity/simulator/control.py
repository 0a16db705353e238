"""What watches a simulated cluster from outside and changes it: gears, shedding and the autoscaler.

Gear boxes, load signals and the rule of shedding are the router's own (serve/cascade/gears.py, serve/resilience). They
are told every arrival and every wait, in order, if only every `TICK_S`: what they decide holds from then on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.capacity.outcome import Change
from benchmarks.capacity.scenario import Scenario
from benchmarks.capacity.simulator.autoscaling import Deployment, QueueRule
from benchmarks.capacity.simulator.memory import World
from benchmarks.capacity.simulator.program import Program
from benchmarks.capacity.simulator.routers import CascadeScaling
from serve.cascade.gears import GearBox
from serve.config.overload import PRIORITIES, Overload, Priority
from serve.resilience.load import LONG_S, WINDOW_S, LoadSignal
from serve.resilience.shedding import RANKS, Cut, Rule, enough, moved, position

Float64 = npt.NDArray[np.float64]
Logged = npt.NDArray[np.void]

# How often they act.
TICK_S = 0.1
# Every simulated client is of the class that a tenant has by default.
_CLASS: Priority = "normal"
# Of the usual time of a lane's calls (serve/resilience/admission.py).
_SMOOTHING = 0.1
# After so long without long waits, nobody looks any more.
_QUIET_S = 1.0


def watched(scenario: Scenario) -> bool:
    """Whether anything acts on the waits of calls."""
    return scenario.overload is not None or any(cascade.gears for cascade in scenario.cascades.values())


@dataclass(frozen=True, slots=True)
class Watched:
    """What one tick has seen, by time.

    Attributes:
        arrivals: seconds, of each request, shape (requests,).
        flows: the flow of each, shape (requests,).
        waits: time, seconds, usual seconds and flow of each call, shape (calls,).
    """

    arrivals: Float64
    flows: npt.NDArray[np.int16]
    waits: Logged


class Control:
    """All that acts on one world."""

    def __init__(self, scenario: Scenario, program: Program) -> None:
        self._world = program.world
        self._seen = 0
        # Waits of the last second, which signals remember.
        self._recent: deque[Logged] = deque(maxlen=round(WINDOW_S / TICK_S) + 1)
        self._deployments = {
            name: Deployment(program.targets.index(name), stage.scaling, stage.replicas)
            for name, stage in scenario.stages.items()
            if stage.scaling is not None
        }
        self._rules = {name: QueueRule(one.scaling) for name, one in self._deployments.items()}
        self._cascades = None if scenario.plan is None else CascadeScaling(scenario.plan, scenario, program)
        self._gears = _Gears(scenario) if any(cascade.gears for cascade in scenario.cascades.values()) else None
        self._shedding = _Shedding(scenario, scenario.overload) if scenario.overload is not None else None

    def step(self, now: float) -> None:
        """One tick."""
        world = self._world
        if self._gears is not None or self._shedding is not None:
            self._look(world, now)
            state = world.state[0]
            state["wait_count"], state["longest_wait"] = 0, 0.0
        self._scale(world, now)

    @property
    def alarm_s(self) -> float | None:
        """The wait up to which nothing would be done at any tick; None where each of them counts."""
        if self._gears is not None or self._deployments or self._shedding is None or not self._shedding.calm:
            return None
        return self._shedding.target_s

    @property
    def changes(self) -> dict[str, tuple[Change, ...]]:
        """Of the numbers of replicas, by deployment."""
        return {name: tuple(one.changes) for name, one in self._deployments.items()}

    def _scale(self, world: World, now: float) -> None:
        there = {name: one.look(world, now) for name, one in self._deployments.items()}
        if self._cascades is None:
            wanted = {name: self._rules[name].decide(one, now) for name, one in there.items()}
        else:
            wanted = dict(self._cascades.decide(world, there, now))
        for name, one in self._deployments.items():
            one.become(world, wanted.get(name, one.target), now)

    def _look(self, world: World, now: float) -> None:
        logged = world["waits"][: int(world["wait_count"])].copy()
        self._recent.append(logged)
        waits = logged[logged["time"].searchsorted(now - TICK_S, side="right") :]  # ticks may have been passed over
        asleep = self._shedding is None or self._shedding.sleeps(waits, float(world.state[0]["longest_wait"]))
        until = int(world["next_arrival"])
        seen = Watched(world["arrivals"][self._seen : until], world["flow"][self._seen : until], waits)
        self._seen = until
        if self._gears is not None:
            self._gears.step(world, seen, now)
        if self._shedding is not None and not asleep:
            if self._shedding.calm:
                self._shedding.wake(world, self._remembered(now), now)
            else:
                self._shedding.arrived(world, seen, now)
            self._shedding.step(world, seen, now)

    def _remembered(self, now: float) -> Logged:
        """What was logged before this tick and signals remember."""
        logged = np.concatenate(list(self._recent))
        first, end = logged["time"].searchsorted([now - WINDOW_S - TICK_S, now - TICK_S], side="right")
        return logged[first:end]


class _Gears:
    """The gear box of each cascade, by the load over all routes. Routers share it evenly: one stands for all."""

    def __init__(self, scenario: Scenario) -> None:
        self._load = LoadSignal(0.0)
        self._routers = scenario.router_replicas
        self._boxes = {
            number: GearBox(cascade.gears, cascade.gear_hold_s)
            for number, flow in enumerate(scenario.flows)
            if (cascade := scenario.cascades.get(flow.entry)) is not None and cascade.gears
        }

    def step(self, world: World, seen: Watched, now: float) -> None:
        self._load.arrived_at(seen.arrivals[:: self._routers])
        self._load.waited_at(seen.waits["seconds"], seen.waits["time"])
        asked = set(seen.flows.tolist())
        load = self._load.snapshot(now)
        for number, box in self._boxes.items():
            if number in asked or box.gear:  # an engaged one is looked at without requests as well
                world["gears"][number] = box.shift(load, now)


class _Lane:
    """One route's waits, arrivals and answers (`serve.resilience.admission`), with one class of clients."""

    def __init__(self, flows: Sequence[int]) -> None:
        self.flows = flows
        self._arrivals, self._served = LoadSignal(0.0), LoadSignal(0.0)
        self._usual_s = 0.0
        self.cut = Cut(0.0, 0.0)
        self.wait_s = 0.0

    def arrived(self, times: Float64) -> None:
        self._arrivals.arrived_at(times)

    def served(self, times: Float64) -> None:
        self._served.arrived_at(times)

    def waited(self, waits: Logged) -> None:
        self._arrivals.waited_at(waits["seconds"], waits["time"])
        usual = waits["usual"][waits["usual"] > 0]
        if len(usual):
            # An exponential mean, of one call after the other; the first of all is taken whole.
            before = self._usual_s or float(usual[0])
            weights = (1 - _SMOOTHING) ** np.arange(len(usual) - 1, -1, -1)
            self._usual_s = before * (1 - _SMOOTHING) ** len(usual) + _SMOOTHING * float(weights @ usual)

    def look(self, rule: Rule, now: float) -> None:
        rule = rule.for_calls_of(self._usual_s)
        load = self._arrivals.snapshot(now)
        self.wait_s = load.queue_wait_s
        # Of each class together with all higher ones: nobody is in those.
        ranks = range(len(PRIORITIES))
        waits = [self.wait_s if rank >= RANKS[_CLASS] else 0.0 for rank in ranks]
        most = 0.0
        if self.wait_s > rule.target_s:
            arrivals = [load.arrivals_per_s if rank >= RANKS[_CLASS] else 0.0 for rank in ranks]
            most = enough(arrivals, self._served.arrivals_per_s(now), self.wait_s)
        self.cut = moved(self.cut, waits, rule, now, most)


class _Shedding:
    """The cut through each lane."""

    def __init__(self, scenario: Scenario, overload: Overload) -> None:
        self._rule = Rule.of(overload)
        self._lanes = [
            _Lane([number for number, flow in enumerate(scenario.flows) if flow.entry == entry])
            for entry in dict.fromkeys(flow.entry for flow in scenario.flows)
        ]
        # Of each flow, the place of its lane.
        self._lane_of = np.zeros(len(scenario.flows), np.int64)
        for place, lane in enumerate(self._lanes):
            self._lane_of[lane.flows] = place
        self._served = np.zeros(len(scenario.flows), np.int64)
        self._quiet_since = 0.0
        # Nothing is shed, and nothing has waited for long: arrivals are not counted until something does.
        self.calm = True

    @property
    def target_s(self) -> float:
        """What calls may wait."""
        return self._rule.target_s

    def sleeps(self, waits: npt.NDArray[np.void], longest_s: float) -> bool:
        """Whether there is nothing to do: no cut, and no route whose calls of this tick waited for long.

        A mean over a second is above its target only if that of one of its ticks is.
        """
        if not self.calm or longest_s <= self._rule.target_s:
            return self.calm
        counts = np.bincount(waits["flow"])
        sums = np.bincount(waits["flow"], weights=waits["seconds"])
        return not (sums > self._rule.target_s * counts).any()

    def _by_lane(self, rows: npt.NDArray[Any], flows: npt.NDArray[np.integer[Any]]) -> list[npt.NDArray[Any]]:
        """The rows of each lane, in the order of lanes."""
        if len(self._lanes) == 1:
            return [rows]
        lanes = self._lane_of[flows]
        return [rows[lanes == place] for place in range(len(self._lanes))]

    def wake(self, world: World, waits: Logged, now: float) -> None:
        """The first long wait after a quiet time: what the signals would remember of that is told now."""
        until = int(world["next_arrival"])
        times, flows = world["arrivals"][:until], world["flow"][:until]
        first = int(times.searchsorted(now - LONG_S))
        came = self._by_lane(times[first:], flows[first:])
        for lane, mine, waited in zip(self._lanes, came, self._by_lane(waits, waits["flow"]), strict=True):
            lane.arrived(mine)
            lane.served(mine)  # while nothing waits, what comes is what is served
            lane.waited(waited)
        self._served = world["flows"]["served"].astype(np.int64)
        self._quiet_since, self.calm = now, False

    def arrived(self, world: World, seen: Watched, now: float) -> None:
        """What came and what was answered in a tick."""
        served = world["flows"]["served"].astype(np.int64)
        for lane, mine in zip(self._lanes, self._by_lane(seen.arrivals, seen.flows), strict=True):
            lane.arrived(mine)
            lane.served(np.full(int((served - self._served)[lane.flows].sum()), now))
        self._served = served

    def step(self, world: World, seen: Watched, now: float) -> None:
        """Moves every cut."""
        for lane, waited in zip(self._lanes, self._by_lane(seen.waits, seen.waits["flow"]), strict=True):
            lane.waited(waited)
            lane.look(self._rule, now)
            for flow in lane.flows:
                world["flows"][flow]["cut"] = max(0.0, lane.cut.level - position(_CLASS, 0.0))
                world["flows"][flow]["queue_wait"] = lane.wait_s
        if any(lane.cut.level or lane.wait_s > self._rule.target_s for lane in self._lanes):
            self._quiet_since = now
        if now - self._quiet_since > _QUIET_S:
            self.calm = True
            for lane in self._lanes:
                lane.wait_s = 0.0
            world["flows"]["queue_wait"] = 0.0
