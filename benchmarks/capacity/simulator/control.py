"""What watches a simulated cluster from outside and changes it: gears, shedding and the autoscaler.

Gear boxes, load signals and the rule of shedding are the router's own (serve/cascade/gears.py, serve/resilience). They
are told every arrival and every wait, in order, if only every `TICK_S`: what they decide holds from then on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

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
        arrivals: time and flow of each request.
        waits: time, seconds, usual seconds and flow of each call.
    """

    arrivals: Sequence[tuple[float, int]]
    waits: Sequence[tuple[float, float, float, int]]


class Control:
    """All that acts on one world."""

    def __init__(self, scenario: Scenario, program: Program) -> None:
        self._world = program.world
        self._seen = 0
        # Waits of the last second, which signals remember.
        self._recent: deque[npt.NDArray[np.void]] = deque(maxlen=round(WINDOW_S / TICK_S) + 1)
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
        waits = world["waits"][: int(world["wait_count"])].copy()
        self._recent.append(waits)
        asleep = self._shedding is None or self._shedding.sleeps(waits, float(world.state[0]["longest_wait"]))
        seen = Watched((), ()) if asleep and self._gears is None else self._watch(waits)
        self._seen = int(world["next_arrival"])
        if self._gears is not None:
            self._gears.step(world, seen, now)
        if self._shedding is not None and not asleep:
            if self._shedding.calm:
                self._shedding.wake(world, _told(list(self._recent)[:-1]), now)
            else:
                self._shedding.arrived(world, seen, now)
            self._shedding.step(world, seen, now)

    def _watch(self, waits: npt.NDArray[np.void]) -> Watched:
        world, until = self._world, int(self._world["next_arrival"])
        times, flows = world["arrivals"][self._seen : until], world["flow"][self._seen : until]
        return Watched(list(zip(times.tolist(), flows.tolist(), strict=True)), _told([waits]))


def _told(parts: Sequence[npt.NDArray[np.void]]) -> list[tuple[float, float, float, int]]:
    """Logged waits, as `Watched` has them."""
    names = ("time", "seconds", "usual", "flow")
    return [one for waits in parts for one in zip(*(waits[name].tolist() for name in names), strict=True)]


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
        for place, (time, _) in enumerate(seen.arrivals):
            if place % self._routers == 0:
                self._load.arrived(time)
        for time, seconds, _, _ in seen.waits:
            self._load.waited(seconds, time)
        asked = {flow for _, flow in seen.arrivals}
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

    def arrived(self, time: float) -> None:
        self._arrivals.arrived(time)

    def served(self, time: float) -> None:
        self._served.arrived(time)

    def waited(self, time: float, seconds: float, usual_s: float) -> None:
        self._arrivals.waited(seconds, time)
        if usual_s:
            self._usual_s += (usual_s - self._usual_s) * (_SMOOTHING if self._usual_s else 1.0)

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
        self._lane_of = {flow: lane for lane in self._lanes for flow in lane.flows}
        self._served = [0] * len(scenario.flows)
        self._quiet_since = 0.0
        # Nothing is shed, and nothing has waited for long: arrivals are not counted until something does.
        self.calm = True

    def sleeps(self, waits: npt.NDArray[np.void], longest_s: float) -> bool:
        """Whether there is nothing to do: no cut, and no route whose calls of this tick waited for long.

        A mean over a second is above its target only if that of one of its ticks is.
        """
        if not self.calm or longest_s <= self._rule.target_s:
            return self.calm
        counts = np.bincount(waits["flow"])
        sums = np.bincount(waits["flow"], weights=waits["seconds"])
        return not (sums > self._rule.target_s * counts).any()

    def wake(self, world: World, waits: Sequence[tuple[float, float, float, int]], now: float) -> None:
        """The first long wait after a quiet time: what the signals would remember of that is told now."""
        until = int(world["next_arrival"])
        times, flows = world["arrivals"][:until], world["flow"][:until]
        first = int(times.searchsorted(now - LONG_S))
        for time, flow in zip(times[first:].tolist(), flows[first:].tolist(), strict=True):
            self._lane_of[flow].arrived(time)
            self._lane_of[flow].served(time)  # while nothing waits, what comes is what is served
        for time, seconds, usual, flow in waits:
            self._lane_of[flow].waited(time, seconds, usual)
        self._served = world["flows"]["served"].tolist()
        self._quiet_since, self.calm = now, False

    def arrived(self, world: World, seen: Watched, now: float) -> None:
        """What came and what was answered in a tick."""
        for time, flow in seen.arrivals:
            self._lane_of[flow].arrived(time)
        for flow, served in enumerate(world["flows"]["served"].tolist()):
            for _ in range(served - self._served[flow]):
                self._lane_of[flow].served(now)
            self._served[flow] = served

    def step(self, world: World, seen: Watched, now: float) -> None:
        """Moves every cut."""
        for time, seconds, usual, flow in seen.waits:
            self._lane_of[flow].waited(time, seconds, usual)
        for lane in self._lanes:
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
