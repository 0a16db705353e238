"""From a scenario to the arrays of its world."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.capacity.profiles import Distribution, ModelProfile, ProviderProfile
from benchmarks.capacity.scenario import Rates, Scenario, Stage, rates
from benchmarks.capacity.simulator import draws, records
from benchmarks.capacity.simulator.memory import ARRAYS, World
from benchmarks.capacity.simulator.records import FREE, NONE, READY, SHARED
from benchmarks.capacity.simulator.routes import Node, imbalance, routes
from benchmarks.capacity.simulator.slots import BUCKET_S
from deployments import windows
from serve.cascade import rules
from serve.resilience.settings import Settings

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]

# No word on the pace of the cores.
STEADY: Float64 = np.zeros(0)
# Each pace of a run holds so long.
PACE_S = 1.0
# deployments/base.py: jobs that wait for a worker of the pool.
_PENDING_PER_WORKER = 256
# Kinds whose replicas run the items of a call through a window (`Pipeline.run_all`); others begin all at once.
_WINDOWED = frozenset({"clip"})
# Longer deadlines are not watched over: they would not pass within any run of ours.
_LONGEST_S = 3600.0
_NO_LIMIT = 2**30
_MINUTE_S = 60.0
# A provider's calls by a router replica, where nothing else is said (serve/resilience/settings.py).
_HOSTED_PLACES = 256
# Places of pools that one event may take, beyond a few for each item of a batch.
_ROOM = 512
_POOLS = ("slots", "items", "jobs", "heap", "cpu_heap", "waits")
_STACKS = {"free_slots": "free_slot_count", "free_items": "free_item_count", "free_jobs": "free_job_count"}


@dataclass(frozen=True, slots=True)
class Program:
    """A world, and the names of its numbers."""

    world: World
    targets: tuple[str, ...]
    paths: tuple[str, ...]


class _Tables:
    """Rows of durations."""

    def __init__(self) -> None:
        self.rows: list[Float64] = []
        self.sizes: list[tuple[float, float]] = []

    def add(self, distribution: Distribution, size: tuple[float, float] = (0.0, 0.0)) -> int:
        self.rows.append(draws.table(distribution))
        self.sizes.append(size)
        return len(self.rows) - 1


def program(
    scenario: Scenario,
    arrivals: Float64,
    seed: int,
    tokens: tuple[Int32, Int32] | None = None,
    *,
    watched: bool = False,
    paces: Float64 = STEADY,
) -> Program:
    """The world of a scenario before its first request.

    Args:
        watched: gears or shedding follow the waits of calls.
        paces: see `simulate`.

    Raises:
        ConfigError: nothing says how much a step hands on.
    """
    way = routes(scenario)
    tables = _Tables()
    names = (*scenario.stages, *scenario.providers)
    lanes = _lanes(scenario, way.nodes)
    targets = _targets(scenario, tables, lanes)
    replicas = _replicas(scenario, targets)
    paths = tuple(dict.fromkeys(node.path for node in way.nodes))
    nodes = _nodes(scenario, way.nodes, names, paths, lanes)
    flows = _flows(scenario)
    gear_count = len(way.starts[0])
    world = World(
        {
            "flows": flows,
            "gears": np.zeros(flows.size),
            "starts": np.array(way.starts),
            "nodes": nodes,
            "after": np.array([node.after for node in way.nodes]),
            "failed": np.array([node.failed for node in way.nodes]),
            "accept": np.array([node.accept for node in way.nodes]),
            "most_tokens": np.array([node.most_tokens for node in way.nodes]),
            "targets": targets,
            "ready": _ready(targets),
            "replicas": replicas,
            "rooms": _rooms(scenario.router_replicas * len(names)),
            "servers": _servers(scenario, targets, replicas),
            "paces": paces,
        }
    )
    _settle(world, scenario, tables, seed)
    world["imbalance"] = imbalance(scenario, way)
    world["ingress"], world["client"] = world["servers"].size - 2, world["servers"].size - 1
    world["target_count"], world["flow_count"], world["gear_count"] = len(names), flows.size, gear_count
    world["watched"] = watched
    world["alarm_s"] = math.inf
    world["ready_width"] = max(1, int(targets["most"].max()))
    _add_queues(world, scenario, targets, replicas.size)
    _add_requests(world, arrivals, tokens)
    world.put({"tables": np.array(tables.rows), "passes": np.array([cost for _, cost in tables.sizes])})
    longest = max(float(flows["deadline"].max()), float(flows["shadow_deadline"].max()))
    world["wheel_size"] = int(longest / BUCKET_S) + 4
    world.put({"wheel": np.full(world["wheel_size"], NONE)})
    world["pace"], world["pace_s"], world["pace_count"] = 1.0, PACE_S, paces.size
    if paces.size:
        world["heap"][0] = (0.0, 0.0, 0, records.REPACED, 0)
        world["heap_count"] = 1
    return Program(world, names, paths)


def _add_queues(world: World, scenario: Scenario, targets: npt.NDArray[np.void], replicas: int) -> None:
    """What waits where, and the pools that it is taken from."""
    world["lane_width"] = max(1, int(targets["lanes"].max()))
    world["run_width"] = max(1, int(targets["max_sequences"].max()))
    items = max(flow.items for flow in scenario.flows)
    # When a pass ends, each call with items in it may begin as many as its window takes.
    begun = min(items, int(targets["useful"].max())) * int(targets["max_items"].max()) if items > 1 else 1
    begun = min(begun, int(targets["max_pending"].max()))
    most = max(int(targets["max_items"].max()), int(world["run_width"]), items, begun)
    world["room"] = _ROOM + 4 * most
    first = 4 * int(world["room"])
    world["heap_size"] = world["wait_size"] = first
    lanes = np.full(replicas * int(world["lane_width"]), NONE)
    free = np.arange(first)[::-1]
    world.put({"heads": lanes, "tails": lanes.copy(), "running": np.full(replicas * int(world["run_width"]), NONE)})
    world.put({"head_times": np.zeros(lanes.size)})
    world.put({name: np.zeros(first, ARRAYS[name]) for name in _POOLS})
    world.put({name: free.copy() for name in _STACKS})
    for name in _STACKS.values():
        world[name] = first


def _add_requests(world: World, arrivals: Float64, tokens: tuple[Int32, Int32] | None) -> None:
    count = arrivals.size
    world["request_count"], world["has_tokens"] = count, tokens is not None
    world.put(
        {
            "arrivals": arrivals,
            "prompts": np.zeros(0) if tokens is None else np.asarray(tokens[0]),
            "outputs": np.zeros(0) if tokens is None else np.asarray(tokens[1]),
            "ended": np.full(count, np.nan),
            "ok": np.zeros(count),
            "path": np.full(count, NONE),
            "usd": np.zeros(count),
            "flow": np.zeros(count),
        }
    )


def grow(world: World) -> None:
    """Makes the pools of a world twice as large."""
    for name in _POOLS:
        old = world[name]
        new = np.zeros(2 * old.size, old.dtype)
        new[: old.size] = old
        world.put({name: new})
    world["heap_size"] *= 2
    world["wait_size"] *= 2
    for name, counter in _STACKS.items():
        old, count = world[name], int(world[counter])
        free = np.zeros(2 * old.size, np.int32)
        free[:count] = old[:count]
        free[count : count + old.size] = np.arange(old.size, 2 * old.size)
        world.put({name: free})
        world[counter] = count + old.size


def _settle(world: World, scenario: Scenario, tables: _Tables, seed: int) -> None:
    """What holds for the whole run."""
    world["seed"] = seed
    world["mode"] = SHARED if scenario.cores else FREE
    world["cores"], world["background"] = scenario.cores, scenario.background_cores
    world["router_latency"] = tables.add(scenario.router.latency)
    world["router_cpu"] = tables.add(scenario.router.cpu)
    world["ingress_s"], world["client_s"] = scenario.router.ingress_cpu_s, scenario.router.client_cpu_s
    world["routers"], world["places"] = scenario.router_replicas, scenario.router_places
    world["nano_most"] = math.inf if scenario.usd_per_day is None else round(scenario.usd_per_day * 1e9)
    world["shadow_most"] = max((cascade.shadow.max_in_flight for cascade in scenario.cascades.values()), default=0)


def _flows(scenario: Scenario) -> npt.NDArray[np.void]:
    flows = np.zeros(len(scenario.flows), records.FlowRecord)
    for record, flow, until in zip(
        flows, scenario.flows, np.cumsum([one.share for one in scenario.flows]), strict=True
    ):
        cascade = scenario.cascades.get(flow.entry)
        record["until"] = until
        record["prompt"], record["output"] = flow.prompt_tokens, flow.output_tokens
        record["deadline"] = min(flow.deadline_s, _LONGEST_S)
        record["best_answer"], record["streamed"] = True, flow.streamed
        if cascade is not None:
            record["deadline"] = min(record["deadline"], cascade.deadline_s)
            record["best_answer"] = cascade.on_failure == "best_answer"
            record["shadow"] = cascade.shadow.share
            record["shadow_deadline"] = cascade.shadow.deadline_s
    return flows


def _nodes(
    scenario: Scenario, nodes: Sequence[Node], names: Sequence[str], paths: Sequence[str], lanes: dict[str, list[str]]
) -> npt.NDArray[np.void]:
    found = np.zeros(len(nodes), records.Node)
    in_hand = rules.step_seconds(1.0, 1.0, 1, in_hand=True)
    for record, node in zip(found, nodes, strict=True):
        flow = scenario.flows[node.flow]
        record["target"] = names.index(node.target)
        record["step"] = node.step
        record["items"], record["images"], record["cost"] = flow.items, flow.images, flow.cost
        record["lane"] = lanes[node.target].index(flow.lane)
        record["share"], record["in_hand"] = node.share, in_hand
        record["path"], record["fallback"] = paths.index(node.path), node.fallback
    return found


def _lanes(scenario: Scenario, nodes: Sequence[Node]) -> dict[str, list[str]]:
    """The lanes of each target, in the order of flows."""
    found: dict[str, list[str]] = {}
    for node in nodes:
        lane, lanes = scenario.flows[node.flow].lane, found.setdefault(node.target, [])
        if lane not in lanes:
            lanes.append(lane)
    return found


def _targets(scenario: Scenario, tables: _Tables, lanes: dict[str, list[str]]) -> npt.NDArray[np.void]:
    found = np.zeros(len(scenario.stages) + len(scenario.providers), records.Target)
    first = 0
    for record, (name, stage) in zip(found, scenario.stages.items(), strict=False):
        _fill_stage(record, stage, tables)
        _fill_calls(record, scenario.calls.get(name))
        record["first"], record["lanes"] = first, len(lanes.get(name, [""]))
        first += int(record["most"])
    for record, (name, hosted) in zip(found[len(scenario.stages) :], scenario.providers.items(), strict=True):
        _fill_provider(record, hosted, scenario.calls.get(name), tables)
        _fill_rates(record, rates(name, hosted, scenario.calls.get(name)))
    return found


def _fill_stage(record: np.void, stage: Stage, tables: _Tables) -> None:
    profile, limits = stage.profile, stage.limits
    most = stage.replicas if stage.scaling is None else max(stage.replicas, stage.scaling.max_replicas)
    record["most"], record["ready"], record["affinity"] = most, stage.replicas, stage.affinity
    record["max_items"], record["max_queue"] = limits.max_items, limits.max_queue
    record["max_cost"], record["max_wait"] = limits.max_cost, limits.max_wait_s
    pending = _PENDING_PER_WORKER * stage.preprocess_workers
    record["workers"], record["max_pending"] = stage.preprocess_workers, pending
    record["useful"] = record["places"] = _NO_LIMIT
    if profile.kind in _WINDOWED:
        record["useful"], record["places"] = windows.places(limits.max_items, limits.max_queue, pending)
    record["preprocess"], record["overhead"] = tables.add(profile.preprocess), tables.add(profile.overhead)
    record["cpu_s"], record["wake_s"], record["router_cpu_s"] = profile.cpu_s, profile.wake_s, profile.router_cpu_s
    record["cores"], record["slowdown"] = profile.cores, stage.slowdown
    record["residual"] = NONE
    if profile.generation is None:
        record["pass_row"], record["pass_rows"] = len(tables.rows), len(profile.forward)
        for size in profile.forward:
            tables.add(size.seconds, (size.items, size.cost))
    else:
        _fill_engine(record, profile, stage, tables)


def _fill_engine(record: np.void, profile: ModelProfile, stage: Stage, tables: _Tables) -> None:
    engine = profile.generation
    assert engine is not None
    record["engine"] = True
    record["encode_s"], record["step_s"] = engine.encode_s, engine.step_s
    record["sequence_s"], record["token_s"] = engine.sequence_s, engine.prompt_token_s
    record["max_sequences"] = min(engine.max_sequences, stage.limits.max_items)
    record["kv_tokens"], record["step_tokens"] = engine.kv_tokens, engine.prompt_tokens_a_step
    record["image_tokens"] = engine.image_tokens
    if engine.residual is not None:
        record["residual"] = tables.add(engine.residual)


def _fill_calls(record: np.void, settings: Settings | None) -> None:
    """The limiter's places follow the replicas that there are: Gradient2 gets there by itself, if more slowly."""
    record["least"] = record["most_places"] = record["max_waiting"] = _NO_LIMIT
    if settings is None or settings.concurrency is None:
        return
    least, _, most = settings.concurrency
    record["least"], record["most_places"], record["max_waiting"] = least, most, settings.max_waiting
    record["limit_each"] = math.ceil(most / max(1, int(record["most"])))


def _fill_provider(record: np.void, profile: ProviderProfile, settings: Settings | None, tables: _Tables) -> None:
    record["hosted"], record["residual"] = True, NONE
    record["most_places"] = record["least"] = _HOSTED_PLACES
    record["max_waiting"] = _NO_LIMIT
    record["latency"] = tables.add(profile.latency)
    record["failure_share"], record["usd"] = profile.failure_share, profile.usd_per_call
    record["attempts"] = 1
    if settings is not None:
        record["most_places"] = record["least"] = settings.concurrency[2] if settings.concurrency else _NO_LIMIT
        record["max_waiting"] = settings.max_waiting
        record["attempts"] = settings.retries.attempts
        record["first_pause"], record["max_pause"] = settings.retries.first_pause_s, settings.retries.max_pause_s
        if settings.hedge is not None:
            record["hedge"] = True
            record["late_s"] = np.quantile(tables.rows[-1], settings.hedge.quantile)


def _fill_rates(record: np.void, limits: Rates) -> None:
    most = limits.calls_per_minute
    record["interval_s"] = 0.0 if most is None else _MINUTE_S / most
    record["calls_a_minute"], record["tokens_a_minute"] = limits.calls or 0.0, limits.tokens or 0.0
    record["tokens"] = limits.tokens_per_call


def _replicas(scenario: Scenario, targets: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    found = np.zeros(max(1, int(targets["most"].sum())), records.Replica)
    found["prep_head"] = found["prep_tail"] = found["batch"] = NONE
    found["last_items"] = 1
    for place, target in enumerate(targets):
        for number in range(int(target["most"])):
            replica = found[int(target["first"]) + number]
            replica["target"] = place
            replica["state"] = READY if number < int(target["ready"]) else records.ABSENT
    return found


def _ready(targets: npt.NDArray[np.void]) -> Int32:
    found = np.full((targets.size, max(1, int(targets["most"].max()))), NONE, np.int32)
    for place, target in enumerate(targets):
        count = int(target["ready"])
        found[place, :count] = int(target["first"]) + np.arange(count)
    return found


def _rooms(count: int) -> npt.NDArray[np.void]:
    rooms = np.zeros(count, records.Room)
    rooms["head"] = rooms["tail"] = NONE
    rooms["limit"] = _NO_LIMIT
    return rooms


def _servers(scenario: Scenario, targets: npt.NDArray[np.void], replicas: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    routers, router = scenario.router_replicas, scenario.router
    servers = np.zeros(routers + replicas.size + 2, records.Server)
    servers["head"] = servers["tail"] = NONE
    servers["wake_s"][:routers] = router.wake_s
    servers["wake_s"][routers:-2] = targets["wake_s"][replicas["target"]]
    servers["wake_s"][-2:] = router.ingress_wake_s, router.client_wake_s
    return servers
