"""Where a stage can run and what it does there: capacity, idle latency and memory of a replica, before any queue."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.capacity.planner import queueing
from benchmarks.capacity.planner.catalogue import NodeType
from benchmarks.capacity.planner.demand import Visit, Work
from benchmarks.capacity.planner.envelope import Float64, least_rate
from benchmarks.capacity.planner.problem import Problem
from benchmarks.capacity.profiles import ModelProfile
from deployments.gpu import CONTEXT_GB, NEEDS

# What bounds and profiles may be off by before a candidate is not even simulated.
_TOLERANCE = 1.05
# A larger bound on batches must add this much capacity: without it, it only makes for longer passes.
_WORTH = 1.03


@dataclass(frozen=True, slots=True)
class Hosted:
    """A stage on one kind of node, with one bound on its batches.

    Attributes:
        node: name in the catalogue.
        capacity_per_s: calls a second of one replica that has its accelerator, or its cores, to itself.
        idle_s: mean seconds of a call that meets nobody, without the router's own.
        memory_gb: that a replica needs: of the accelerator, or of the node where that has none.
        cpu_s: processor time of one call in the replica; on machines without an accelerator the forward pass included.
        floor_s: seconds below which no call of it ends, by the least that was measured of each part.
        overflow: name of the provider that takes what the replicas refuse; None where they must do it all.
    """

    stage: str
    node: str
    profile: ModelProfile
    max_items: int
    capacity_per_s: float
    idle_s: float
    memory_gb: float
    cpu_s: float
    overflow: str | None = None
    floor_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Called:
    """A provider that the step names as a fallback, asked in the model's place.

    Attributes:
        calls_per_minute: most that every limit lets pass; None for no limit.
        idle_s: mean seconds of a call.
        floor_s: seconds of the fastest.
    """

    stage: str
    provider: str
    usd_per_call: float
    calls_per_minute: float | None
    idle_s: float
    floor_s: float = 0.0


Option = Hosted | Called


def hosted(problem: Problem, work: Work, name: str, node: NodeType, *, every: bool = False) -> list[Hosted]:
    """A stage's options on one kind of node: none where it has no profile or does not fit.

    Args:
        every: with every measured bound on batches; otherwise larger ones only where they add to the capacity.
    """
    profile = problem.profile(work.target, node)
    if profile is None:
        return []
    memory = memory_gb(problem, work.target, profile, node)
    if memory > (node.gpu_memory_gb if node.gpus else node.memory_gb):
        return []
    found = []
    floor = floor_s(work, profile)
    for size in _sizes(problem, work, profile, 0.0 if every else _WORTH):
        capacity, idle, pass_s = figures(work, profile, size)
        cpu = (profile.preprocess.mean * work.items + profile.cpu_s) + profile.cores * pass_s / max(1.0, size)
        found.append(Hosted(work.target, name, profile, size, capacity, idle, memory, cpu, floor_s=floor))
    return found


def memory_gb(problem: Problem, stage: str, profile: ModelProfile, node: NodeType) -> float:
    """Memory of a replica, at least: of the accelerator the file's budget, the profile's, and what its kind needs; on a
    node without one the main memory of the profile."""
    if not node.gpus:
        return profile.memory_gb
    model = problem.cluster.models[stage]
    need = NEEDS.get(model.kind)
    least = 0.0 if need is None or profile.quantization else need.minimum
    return max(model.gpu_memory_gb, profile.memory_gb, least, CONTEXT_GB + 0.1)


def figures(work: Work, profile: ModelProfile, max_items: int) -> tuple[float, float, float]:
    """Calls a second, seconds of a lone call in the replica, and seconds of a full pass (a step, for an engine)."""
    around = profile.preprocess.mean * work.items + profile.overhead.mean
    engine = profile.generation
    if engine is not None:
        prompt = work.prompt + work.images * engine.image_tokens
        sequences = queueing.concurrency(engine, max_items, prompt, work.output)
        busy = queueing.engine_seconds(engine, sequences, prompt, work.output, round(work.images))
        idle = queueing.engine_response(engine, prompt, work.output, round(work.images))
        return 1.0 / busy if busy else math.inf, around + idle, engine.step_s + engine.sequence_s * sequences
    sizes = [one.items for one in profile.forward if one.items <= max_items] or [1]
    best = max(size / queueing.forward_seconds(profile.forward, size) for size in {*sizes, max_items})
    lone = queueing.forward_seconds(profile.forward, min(work.items, max_items))
    return best / work.items, around + lone, queueing.forward_seconds(profile.forward, max_items)


def floor_s(work: Work, profile: ModelProfile) -> float:
    """Seconds of the smallest call that comes to a stage when every part takes the least that was measured."""
    flows = [one.flow for one in work.visits]
    around = profile.preprocess.seconds[0] + profile.overhead.seconds[0]
    engine = profile.generation
    if engine is not None:
        images = min(flow.images for flow in flows)
        prompt = min(flow.prompt_tokens for flow in flows) + images * engine.image_tokens
        luck = 1.0 if engine.residual is None else min(1.0, engine.residual.seconds[0])
        return around + luck * queueing.engine_response(
            engine, prompt, min(flow.output_tokens for flow in flows), images
        )
    return around + min(one.seconds.seconds[0] for one in profile.forward)


def _sizes(problem: Problem, work: Work, profile: ModelProfile, worth: float) -> list[int]:
    """Bounds on a batch worth trying, the one of most capacity first."""
    if profile.generation is not None:
        return [min(profile.generation.max_sequences, 4096)]
    measured = [one.items for one in profile.forward]
    # The file's own bound is a choice like any other, where it lies within what was measured.
    file = problem.cluster.models[work.target].batching.max_items
    least = min(work.items, measured[-1])
    kept: list[int] = []
    most = 0.0
    for size in sorted({size for size in (*measured, file) if least <= size <= measured[-1]}):
        capacity = size / queueing.forward_seconds(profile.forward, size)
        if capacity > most * worth:
            kept.append(size)
            most = capacity
    return kept[::-1]


def called(problem: Problem, work: Work) -> Iterator[Called]:
    """Providers that may stand in for a model of ours: those that every step which asks it names as a fallback.

    Whoever wrote the file has said of these, and of no others, that their answers will do.
    """
    if not problem.wishes.apis or work.target not in problem.cluster.models:
        return
    names = [_fallbacks(problem, one) for one in work.visits]
    for provider in names[0] if names else ():
        if all(provider in one for one in names) and (profile := problem.provider(provider)) is not None:
            yield Called(
                work.target,
                provider,
                profile.usd_per_call,
                problem.calls_per_minute(provider),
                profile.latency.mean,
                profile.latency.seconds[0],
            )


def _fallbacks(problem: Problem, visit: Visit) -> list[str]:
    """Providers that take over when the step's model has no room."""
    if visit.step is None:
        return []
    return [one.use for one in visit.step.fallback if "rate_limited" in one.on and one.use in problem.cluster.providers]


@dataclass(frozen=True, slots=True)
class Need:
    """What a stage's replicas must be able to do together, whatever they run on.

    Attributes:
        calls_per_s: that come on average.
        least_per_s: capacity below which the bounds say that an objective is missed: the average load over the most
            use allowed, or the burst rate that a server of constant rate would need.
        burst_per_s: the latter alone.
        within_s: the longest that a call may take here by any objective; infinite when none says.
    """

    calls_per_s: float
    least_per_s: float
    burst_per_s: float
    within_s: float


def need(problem: Problem, work: Work, times: Float64, seed: int) -> Need:
    """Lower bounds of what a stage must do.

    Args:
        times: arrivals of a run, of all flows together; the stage sees a random part of them, none of it earlier.
    """
    rate = problem.rate_per_s * work.calls
    strictest = [_loosest(problem, visit) for visit in work.visits]
    allowed = max(share for share, _ in strictest)
    within = max(seconds for _, seconds in strictest)
    burst = 0.0
    if allowed < 1 and math.isfinite(within):
        draw = np.random.default_rng(seed)
        seen = times[draw.random(len(times)) < min(1.0, work.calls)]
        burst = least_rate(seen, within, min(1.0, allowed * _TOLERANCE)) / _TOLERANCE
    least = max(rate / problem.wishes.most_use, burst)
    return Need(rate, least, burst, within)


def _loosest(problem: Problem, visit: Visit) -> tuple[float, float]:
    """Share of a flow's calls of a stage that may be late, and the seconds after which they are: (1, inf) for none.

    Of the flow's objectives the one that asks most of the stage; a share that may miss is larger among the few requests
    that come to a later step.
    """
    best: tuple[float, float] = (1.0, math.inf)
    for objective in problem.objectives:
        if objective.quantile is None or objective.flow not in (None, visit.flow.name):
            continue
        of_all = visit.flow.share if objective.flow is None else 1.0
        allowed = (1.0 - objective.quantile) / max(1e-12, of_all * visit.share)
        seconds = visit.flow.deadline_s if objective.seconds is None else min(objective.seconds, visit.flow.deadline_s)
        if allowed < 1.0 and (seconds, allowed) < (best[1], best[0]):
            best = (allowed, seconds)
    return best
