"""From what was observed to the figures of a profile: pure arithmetic on `Served` and friends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.capacity.profiler.engines import Batched, Stepped
from benchmarks.capacity.profiler.passes import Alone
from benchmarks.capacity.profiler.served import CLIENT, INGRESS, ROUTER, Served
from benchmarks.capacity.profiler.tape import Event
from benchmarks.capacity.profiler.timing import distribution
from benchmarks.capacity.profiles import Distribution, ForwardPass, Stretch
from serve.errors import Unavailable

# What others may use of the cores, on average, for wall times to be called those of an idle node.
QUIET_CORES = 0.1
# Observations of a batch size at one load, of which a factor's tail can still be told.
_LEAST_PASSES = 10
# Text tokens of a question of the workload `llava_chat`, roles and separators included.
_TEXT_TOKENS = 20


@dataclass(frozen=True, slots=True)
class Hop:
    """What stands around a model.

    Attributes:
        latency: see `RouterProfile`.
        overhead: see `ModelProfile`.
    """

    latency: Distribution
    overhead: Distribution


def hop(idle: Served, inside: Sequence[float] | None = None) -> Hop:
    """The hop's durations out of a load so low that requests do not meet.

    Args:
        inside: seconds that each call spent in its model; by default what passes and preprocessing within it took.
            A call of something else (a scene's file) has none, and counts with the router.

    Raises:
        Unavailable: no request was answered.
    """
    calls = idle.of("call")
    spent = inside or inside_calls(idle)
    kept = [(one, part) for one, part in zip(calls, spent, strict=True) if part > 0]
    latency = []
    for start, end in idle.spans():
        mine = sum(one.seconds for one, _ in kept if start <= one.ended <= end)
        latency += [max(0.0, end - start - mine)] if mine else []
    if not latency:
        raise Unavailable("No request of the idle run was answered by the model.")
    return Hop(distribution(latency), distribution([max(0.0, one.seconds - part) for one, part in kept]))


def inside_calls(idle: Served, preprocess_s: float | None = None) -> list[float]:
    """Seconds of passes, waits and preprocessing within each call.

    Args:
        preprocess_s: of one item, for a replica that does not report it.
    """
    kinds = ("pass",) if preprocess_s is not None else ("pass", "preprocess")
    work = [event for kind in kinds for event in idle.of(kind)]
    beside = preprocess_s or 0.0
    return [
        sum(event.seconds + event.waited_s + beside for event in work if _within(event, one)) for one in idle.of("call")
    ]


def _within(inner: Event, outer: Event) -> bool:
    return outer.ended - outer.seconds <= inner.ended - inner.seconds and inner.ended <= outer.ended


def answering_s(idle: Served, stepped: Stepped) -> list[float]:
    """What the fit says that each right answer took in its engine, alone there."""
    fit = stepped.fit
    step = fit.step_s + fit.sequence_s
    prefill = fit.encode_s + fit.step_s + fit.prompt_token_s * (stepped.image_tokens + _TEXT_TOKENS)
    tokens = np.maximum(1, idle.requests.tokens[idle.requests.ok])
    return [fit.asked_s + prefill + step * (int(count) - 1) for count in tokens]


def in_place(alone: Sequence[ForwardPass], idle: Served) -> tuple[ForwardPass, ...]:
    """Passes as they are in a replica that has just woken: all sizes by the factor that single items show.

    On a node that others use as well, wall times say nothing, and the passes stay as they were alone.
    """
    single = [event.seconds for event in idle.of("pass") if event.items == 1]
    if idle.others > QUIET_CORES or len(single) < _LEAST_PASSES:
        return tuple(alone)
    factor = float(np.median(single)) / alone[0].seconds.seconds[5]
    return tuple(one.model_copy(update={"seconds": scaled(one.seconds, factor)}) for one in alone)


def scaled(one: Distribution, factor: float) -> Distribution:
    """Every duration times `factor`."""
    return one.model_copy(update={"seconds": tuple(value * factor for value in one.seconds), "mean": one.mean * factor})


def stretch(forward: Sequence[ForwardPass], loads: Sequence[Served]) -> tuple[Stretch, ...]:
    """How much longer passes took at each load than on an idle node, by the cores' mean use.

    Loads during which others used the cores are left out: their part cannot be told from ours.
    """
    idle = {one.items: one.seconds.mean for one in forward}
    found: dict[float, Distribution] = {}
    for one in loads:
        factors = [event.seconds / idle[event.items] for event in one.of("pass") if event.items in idle]
        if len(factors) >= _LEAST_PASSES and one.others <= QUIET_CORES:
            found[min(1.0, round(one.busy, 3))] = distribution(factors)
    return tuple(Stretch(busy=busy, factor=found[busy]) for busy in sorted(found))


def each(load: Served, rest: Mapping[str, float], whose: str) -> float:
    """Processor seconds that one request takes, without what is spent when there is none."""
    spent = load.cpu_s.get(whose, 0.0) - rest.get(whose, 0.0) * load.seconds
    return max(0.0, spent) / max(1, len(load.requests))


def capacity_per_s(alone: Alone | Batched | Stepped, sequences: int, tokens: float) -> float:
    """Requests a second that one replica's passes, or engine, can do at most: above it a queue grows.

    Args:
        sequences: that its engine runs at a time.
        tokens: of an answer.
    """
    if not isinstance(alone, Stepped):
        return max(one.items / one.seconds.mean for one in alone.forward)
    fit = alone.fit
    prompt = fit.encode_s + fit.prompt_token_s * (alone.image_tokens + _TEXT_TOKENS)
    return 1.0 / (prompt + max(1.0, tokens) * (fit.step_s / sequences + fit.sequence_s))


def request_cpu_s(load: Served, rest: Mapping[str, float]) -> float:
    """Of one request, everywhere."""
    return sum(each(load, rest, whose) for whose in load.cpu_s)


def shared_cpu(load: Served, rest: Mapping[str, float]) -> dict[str, float]:
    """Of one request: in router, ingress and load generator."""
    return {whose: each(load, rest, whose) for whose in (ROUTER, INGRESS, CLIENT)}
