"""How replicas share the nodes of a pool: fractions of GPUs that cover memory and time, and what lies where."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.capacity.planner.catalogue import NodeType
from benchmarks.capacity.planner.options import Hosted, Need
from benchmarks.capacity.planner.sharing import slowdown
from deployments.gpu import Claim, pack
from serve.config.cluster import ClusterFile

# Ray keeps four decimals of a resource (deployments/gpu.py).
_UNITS = 10_000
# Most use of a core by work that has a deadline: preprocessing must not queue behind itself.
_CORE_USE = 0.7
# Numbers of replicas that are tried where several stages share a pool, each stage's least and most being known.
_MOST_MIXES = 1024


@dataclass(frozen=True, slots=True)
class Placed:
    """A hosted stage as it is planned.

    Attributes:
        fraction: of a GPU that a replica reserves, in units of Ray's precision (10,000 a GPU); 0 on a CPU.
        slowdown: factor on its passes when whatever may share its GPU is as busy as it is on average.
        use: of the stage's capacity that the average load asks, sharing included (rho).
        num_cpus: cores that a replica reserves.
        workers: of its preprocessing pool.
    """

    option: Hosted
    replicas: int
    fraction: int
    slowdown: float
    use: float
    num_cpus: float
    workers: int


@dataclass(frozen=True, slots=True)
class Pool:
    """The stages of one kind of node.

    Attributes:
        contents: replicas on each node, by stage.
        spare: cores that no replica reserves, of each node.
    """

    node: str
    nodes: int
    placed: tuple[Placed, ...]
    contents: tuple[Mapping[str, int], ...]
    spare: tuple[float, ...]


def least_nodes(node: NodeType, stages: Sequence[tuple[Hosted, Need]], most_use: float) -> int:
    """Fewest nodes on which the stages' accelerator time and memory fit, were they divisible: a lower bound."""
    if not stages:
        return 0
    if not node.gpus:
        cores = sum(need.calls_per_s * option.cpu_s for option, need in stages)
        return max(1, math.ceil(cores / (node.cpus * most_use)))
    time = sum(_accelerators(option, need) for option, need in stages)
    memory = sum(option.memory_gb for option, _ in stages) / node.gpu_memory_gb
    cores = sum(need.calls_per_s * option.cpu_s for option, need in stages) / _CORE_USE
    return max(1, math.ceil(max(time, memory) / node.gpus - 1e-9), math.ceil(cores / node.cpus - 1e-9))


def _accelerators(option: Hosted, need: Need) -> float:
    """Accelerators that a stage needs by its bounds; one that overflows needs none in particular."""
    return 0.0 if option.overflow else need.least_per_s / option.capacity_per_s


def layouts(
    cluster: ClusterFile, name: str, node: NodeType, nodes: int, stages: Sequence[tuple[Hosted, Need]]
) -> Iterator[Pool]:
    """Ways to place the stages on so many nodes, the least used first.

    One replica a GPU is the most that helps: a second one would share the same multiprocessors. Fractions are first
    what memory and time ask at least, then enlarged together while everything still packs as Ray packs it, so that
    Ray cannot put two busy replicas on one GPU and leave another idle.
    """
    if not stages:
        yield Pool(name, nodes, (), tuple({} for _ in range(nodes)), (float(node.cpus),) * nodes)
        return
    found = [
        pool for counts in _counts(node, nodes, stages) if (pool := _pool(cluster, name, node, nodes, stages, counts))
    ]
    yield from sorted(found, key=lambda pool: max(one.use for one in pool.placed))


def every_layout(
    cluster: ClusterFile, name: str, node: NodeType, nodes: int, stages: Sequence[tuple[Hosted, Need]]
) -> list[Pool]:
    """All numbers of replicas that pack, those included that another layout exceeds: for exhaustive search."""
    if not stages:
        return list(layouts(cluster, name, node, nodes, stages))
    most = nodes * node.gpus if node.gpus else nodes
    counts = itertools.product(*(range(1, most + 1) for _ in stages))
    packing = [one for one in counts if _packs(node, nodes, stages, one)]
    return [pool for one in packing if (pool := _pool(cluster, name, node, nodes, stages, one))]


def _counts(node: NodeType, nodes: int, stages: Sequence[tuple[Hosted, Need]]) -> list[tuple[int, ...]]:
    """Replicas of each stage to try: all that pack, without those that another exceeds in every stage."""
    most = nodes * node.gpus if node.gpus else nodes
    ranges: list[Sequence[int]] = [
        range(max(1, math.ceil(_accelerators(option, need) - 1e-9)), most + 1) for option, need in stages
    ]
    # With many nodes and stages not every count is tried; the least always is, since it packs where others do not.
    while math.prod(len(one) for one in ranges) > _MOST_MIXES:
        longest = max(range(len(ranges)), key=lambda at: len(ranges[at]))
        ranges[longest] = _thinned(ranges[longest])
    packing = [counts for counts in itertools.product(*ranges) if _packs(node, nodes, stages, counts)]
    kept: list[tuple[int, ...]] = []
    # What exceeds another has more replicas in all, so it comes before it.
    for one in sorted(packing, key=sum, reverse=True):
        if not any(_exceeds(other, one) for other in kept):
            kept.append(one)
    return kept


def _thinned(counts: Sequence[int]) -> Sequence[int]:
    """Every other one, and the most, where that is not too few to leave any out."""
    kept = list(counts[::2])
    return kept if len(counts) <= 3 or kept[-1] == counts[-1] else [*kept, counts[-1]]


def _exceeds(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def _least_fractions(node: NodeType, stages: Sequence[tuple[Hosted, Need]], counts: Sequence[int]) -> list[int]:
    """What a replica must reserve: its memory, and its share of the GPU's time."""
    fractions = []
    for (option, need), count in zip(stages, counts, strict=True):
        memory = option.memory_gb / node.gpu_memory_gb
        time = min(1.0, _accelerators(option, need) / count)
        fractions.append(min(_UNITS, math.ceil(max(memory, time) * _UNITS - 1e-6)))
    return fractions


def _packs(node: NodeType, nodes: int, stages: Sequence[tuple[Hosted, Need]], counts: Sequence[int]) -> bool:
    return not node.gpus or _fit(node, nodes, stages, counts, _least_fractions(node, stages, counts))


def _fit(
    node: NodeType, nodes: int, stages: Sequence[tuple[Hosted, Need]], counts: Sequence[int], fractions: Sequence[int]
) -> bool:
    claims = [
        Claim(option.stage, fraction * node.gpu_memory_gb / _UNITS, count)
        for (option, _), count, fraction in zip(stages, counts, fractions, strict=True)
    ]
    return not pack(claims, node.gpus, node.gpu_memory_gb, nodes=nodes).homeless


def _enlarged(node: NodeType, nodes: int, stages: Sequence[tuple[Hosted, Need]], counts: Sequence[int]) -> list[int]:
    """The least fractions, enlarged by one factor as far as everything still packs, and then each by itself."""
    least = _least_fractions(node, stages, counts)

    def packs(tried: Sequence[int]) -> bool:
        return _fit(node, nodes, stages, counts, tried)

    factor = _largest(lambda by: packs(_times(least, by)), 1.0, _UNITS / min(least))
    enlarged = _times(least, factor)
    for at, fraction in enumerate(enlarged):

        def alone(size: float, at: int = at) -> bool:
            return packs([*enlarged[:at], int(size), *enlarged[at + 1 :]])

        enlarged[at] = int(_largest(alone, fraction, _UNITS))
    return enlarged


def _times(fractions: Sequence[int], factor: float) -> list[int]:
    return [min(_UNITS, math.floor(one * factor + 1e-6)) for one in fractions]


def _largest(fits: Callable[[float], bool], low: float, high: float) -> float:
    """The largest value that fits, by bisection from one that does."""
    if fits(high):
        return high
    for _ in range(14):
        middle = (low + high) / 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def _pool(
    cluster: ClusterFile,
    name: str,
    node: NodeType,
    nodes: int,
    stages: Sequence[tuple[Hosted, Need]],
    counts: Sequence[int],
) -> Pool | None:
    """The pool with these replicas; None where its nodes lack cores for them, or a stage would be asked too much."""
    fractions = _enlarged(node, nodes, stages, counts) if node.gpus else [0] * len(stages)
    loads = [
        0.0 if not node.gpus else min(1.0, need.calls_per_s / option.capacity_per_s / count)
        for (option, need), count in zip(stages, counts, strict=True)
    ]
    placed = []
    for at, ((option, need), count) in enumerate(zip(stages, counts, strict=True)):
        slower = slowdown(_beside(at, counts, fractions, loads))
        use = need.calls_per_s / option.capacity_per_s / count * slower
        if option.overflow is None and use >= 1:
            return None
        cores, workers = _processors(cluster, node, option, need, count)
        placed.append(Placed(option, count, fractions[at], slower, use, cores, workers))
    laid = _contents(node, nodes, placed)
    return None if laid is None else Pool(name, nodes, tuple(placed), *laid)


def _beside(at: int, counts: Sequence[int], fractions: Sequence[int], loads: Sequence[float]) -> list[float]:
    """Average use of a GPU by each replica that may lie beside one of stage `at`: the busiest that its rest holds."""
    room, found = _UNITS - fractions[at], []
    if room <= 0:
        return []
    others = [
        (loads[i] / max(1, fractions[i]), fractions[i], loads[i])
        for i in range(len(counts))
        for _ in range(counts[i] - (1 if i == at else 0))
    ]
    for _, fraction, load in sorted(others, reverse=True):
        if fraction and fraction <= room:
            room -= fraction
            found.append(load)
    return found


def _processors(cluster: ClusterFile, node: NodeType, option: Hosted, need: Need, count: int) -> tuple[float, int]:
    """Cores that a replica reserves, and its preprocessing workers: what the file says, or more where the load asks."""
    placement = cluster.models[option.stage].placement
    if not node.gpus:
        return placement.num_cpus, placement.preprocess_workers
    calls = min(need.calls_per_s, option.capacity_per_s * count) / count
    busy = calls * option.cpu_s / _CORE_USE
    workers = math.ceil(calls * option.profile.preprocess.mean / _CORE_USE)
    return max(placement.num_cpus, math.ceil(busy * 4) / 4), min(
        64, node.cpus, max(placement.preprocess_workers, workers)
    )


def _contents(
    node: NodeType, nodes: int, placed: Sequence[Placed]
) -> tuple[tuple[Mapping[str, int], ...], tuple[float, ...]] | None:
    """Replicas and cores left by node, best fit decreasing within its GPUs and cores; None where one has no room.

    Without GPUs their memory is the node's. What replicas on a GPU take of main memory, profiles do not say.
    """
    gpus = [[_UNITS] * node.gpus for _ in range(nodes)]
    cores = [float(node.cpus)] * nodes
    memory = [node.memory_gb] * nodes
    contents: list[dict[str, int]] = [{} for _ in range(nodes)]
    for one in sorted(placed, key=lambda one: -one.fraction):
        for _ in range(one.replicas):
            at = _fullest(gpus, cores, one)
            if at is None:
                return None
            spot, gpu = at
            if one.fraction:
                gpus[spot][gpu] -= one.fraction
            else:
                memory[spot] -= one.option.memory_gb
            cores[spot] -= one.num_cpus
            contents[spot][one.option.stage] = contents[spot].get(one.option.stage, 0) + 1
    return None if min(memory) < -1e-9 else (tuple(contents), tuple(cores))


def _fullest(gpus: list[list[int]], cores: list[float], one: Placed) -> tuple[int, int] | None:
    """Node and GPU for one replica: the fullest GPU that has room, so that large ones find theirs; None for none."""
    best: tuple[int, int] | None = None
    least = _UNITS + 1
    for spot, free in enumerate(gpus):
        if cores[spot] < one.num_cpus - 1e-9:
            continue
        if not one.fraction:
            return spot, 0
        for gpu, left in enumerate(free):
            if one.fraction <= left < least:
                best, least = (spot, gpu), left
    return best
