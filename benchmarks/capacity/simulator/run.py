"""A simulation from its scenario to its outcome."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from benchmarks.capacity.outcome import Outcome, StageUse
from benchmarks.capacity.scenario import Scenario
from benchmarks.capacity.simulator import records
from benchmarks.capacity.simulator.advance import ALARMED, CROWDED, advance
from benchmarks.capacity.simulator.control import TICK_S, Control, watched
from benchmarks.capacity.simulator.memory import StateRecord, World
from benchmarks.capacity.simulator.program import STEADY, Program, grow, program

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]

_LOADED_WITHIN_S = 5.0
# Ticks of a calm cluster that are passed over at once: waits of all of them are logged meanwhile.
_CALM_TICKS = 20


def simulate(
    scenario: Scenario,
    arrivals: Float64,
    *,
    seed: int,
    start_s: float = 0.0,
    end_s: float | None = None,
    tokens: tuple[Int32, Int32] | None = None,
    paces: Float64 = STEADY,
) -> Outcome:
    """What would become of the requests that arrive at `arrivals`.

    The same seed gives the same outcome, and the same draws for the same request whatever else is changed.

    Args:
        arrivals: seconds, rising, shape (requests,).
        start_s, end_s: the window that counts; the end is the last arrival when left out.
        tokens: prompt and output tokens of each request, shape (requests,) each, in place of the flows' own
            where they are above 0.
        paces: factors on all work of shared cores, one for each second from 0 on, shape (seconds,); the last one holds
            for what follows. None given, they are steady.

    Raises:
        ConfigError: nothing says how much a step of a cascade hands on.
        ValueError: arrivals do not rise from 0, tokens are not as many, or the window is empty.
    """
    arrivals = np.ascontiguousarray(arrivals, np.float64)
    _check(arrivals, tokens)
    end = end_s if end_s is not None else math.nextafter(float(arrivals[-1]), math.inf) if arrivals.size else start_s
    if not (end > start_s or not arrivals.size):
        raise ValueError(f"the window from {start_s:g} to {end:g} s is empty")
    built = program(scenario, arrivals, seed, tokens, watched=watched(scenario), paces=paces)
    if watched(scenario) or any(stage.scaling is not None for stage in scenario.stages.values()):
        control = Control(scenario, built)
        _run_controlled(built.world, control)
        return replace(outcome(scenario, built, start_s, end), changes=control.changes)
    run_until(built.world, math.inf)
    return outcome(scenario, built, start_s, end)


def load(tell: Callable[[], None] = lambda: None) -> None:
    """Loads compiled code, and compiles it first where there is none for these sources on this machine.

    Args:
        tell: called when it takes so long that it must be compiling.
    """
    late = threading.Timer(_LOADED_WITHIN_S, tell)
    late.daemon = True
    late.start()
    advance(np.zeros(1, StateRecord), math.inf)
    late.cancel()


def run_until(world: World, until_s: float) -> bool:
    """Runs a world until a time; less far, and false, where a wait is above its alarm."""
    while (ended := advance(world.state, until_s)) == CROWDED:
        grow(world)
    return ended != ALARMED


def _run_controlled(world: World, control: Control) -> None:
    tick, count = 1, int(world["request_count"])
    while world["next_arrival"] < count or world["in_flight"] > 0:
        tick = _through_calm(world, control, tick)
        run_until(world, tick * TICK_S)
        control.step(tick * TICK_S)
        tick += 1


def _through_calm(world: World, control: Control, tick: int) -> int:
    """Passes over ticks at which nothing would be done; the next one that counts."""
    last = tick + _CALM_TICKS
    if control.alarm_s is None or world["arrivals"][int(world["request_count"]) - 1] <= last * TICK_S:
        return tick
    world.state["alarm_s"] = control.alarm_s
    calm = run_until(world, last * TICK_S)
    world.state["alarm_s"] = math.inf
    return last if calm else max(tick, math.ceil(float(world["now"]) / TICK_S))


def _check(arrivals: Float64, tokens: tuple[Int32, Int32] | None) -> None:
    if arrivals.ndim != 1 or (arrivals.size and not (arrivals[0] >= 0 and np.all(np.diff(arrivals) >= 0))):
        raise ValueError("arrivals must be one row of seconds that rise from 0")
    if arrivals.size and not math.isfinite(arrivals[-1]):
        raise ValueError("arrivals must be finite")
    if tokens is not None and any(len(one) != arrivals.size for one in tokens):
        raise ValueError(f"there are {arrivals.size} arrivals, but tokens for {[len(one) for one in tokens]}")


def outcome(scenario: Scenario, built: Program, start_s: float, end_s: float) -> Outcome:
    """The columns of a world whose requests have all ended."""
    world = built.world
    arrived = world["arrivals"][: int(world["request_count"])]
    count = arrived.size
    return Outcome(
        arrived_s=arrived,
        latency_s=world["ended"][:count] - arrived,
        ok=world["ok"][:count],
        path=world["path"][:count],
        paths=built.paths,
        usd=world["usd"][:count],
        flow=world["flow"][:count],
        flows=tuple(flow.name for flow in scenario.flows),
        start_s=start_s,
        end_s=end_s,
        stages={name: _use(world, place) for place, name in enumerate(built.targets)},
        woken=_woken(world),
    )


def _woken(world: World) -> dict[str, int]:
    """Times that event loops began after a pause, by whose they are."""
    counts, routers = world["servers"]["woken"], int(world["routers"])
    parts = {"router": counts[:routers], "replica": counts[routers:-2], "ingress": counts[-2], "client": counts[-1]}
    return {whose: int(part.sum()) for whose, part in parts.items()}


def _use(world: World, place: int) -> StageUse:
    target, now = world["targets"][place], float(world["now"])
    if target["hosted"]:
        rate_used = float(target["calls"] * target["interval_s"]) / now if now else 0.0
        return StageUse(min(1.0, rate_used), 1.0, 0.0, 0.0)
    replicas = world["replicas"][int(target["first"]) : int(target["first"] + target["most"])]
    alive = replicas["alive_s"] + np.where(replicas["state"] != records.ABSENT, now - replicas["since"], 0.0)
    passes, ran = int(replicas["passes"].sum()), int(replicas["ran"].sum())
    items = ran if not target["engine"] else int(target["calls"])
    return StageUse(
        busy_share=float(replicas["busy_s"].sum() / alive.sum()) if alive.sum() else 0.0,
        mean_batch=ran / passes if passes else 0.0,
        queue_wait_s=float(replicas["wait_s"].sum()) / items if items else 0.0,
        replicas=float(alive.sum()) / now if now else 0.0,
    )
