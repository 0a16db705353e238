"""From what was observed to the figures of a profile: pure arithmetic on `Served` and friends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.capacity.profiler.engines import Batched, Stepped
from benchmarks.capacity.profiler.passes import Alone
from benchmarks.capacity.profiler.served import BACKGROUND, CLIENT, INGRESS, ROUTER, Loads, Served
from benchmarks.capacity.profiler.tape import Event
from benchmarks.capacity.profiler.timing import distribution
from benchmarks.capacity.profiles import Distribution, ForwardPass, scaled
from serve.errors import Unavailable

# What others may use of the cores, on average, for wall times to be called those of an idle node.
QUIET_CORES = 0.1
# Observations of a batch size of which a median can be told.
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
        inside: seconds, as they passed, that each call spent in its model; by default what passes and preprocessing
            within it took. A call of something else (a scene's file) has none, and counts with the router.

    Raises:
        Unavailable: no request was answered.
    """
    calls = idle.of("call")
    spent = inside or inside_calls(idle)
    kept = [(one, part) for one, part in zip(calls, spent, strict=True) if part > 0]
    latency = []
    for start, end in idle.spans():
        mine = sum(one.seconds for one, _ in kept if start <= one.began <= end)
        latency += [max(0.0, end - start - mine)] if mine else []
    if not latency:
        raise Unavailable("No request of the idle run was answered by the model.")
    overhead = _around([one.seconds - part for one, part in kept])
    return Hop(scaled(distribution(latency), 1 / idle.pace), scaled(overhead, 1 / idle.pace))


def _around(rests: Sequence[float]) -> Distribution:
    """Of what is left of calls. Where a fit says what was spent within them, some rests are below 0, and what they lack
    the others have too much: their mean is kept."""
    above = distribution([max(0.0, rest) for rest in rests])
    return scaled(above, max(0.0, sum(rests) / len(rests)) / above.mean) if above.mean else above


def inside_calls(idle: Served, preprocess_s: float | None = None) -> list[float]:
    """Seconds of passes, waits and preprocessing within each call.

    Args:
        preprocess_s: of one item at a pace of 1, for a replica that does not report it.
    """
    kinds = ("pass",) if preprocess_s is not None else ("pass", "preprocess")
    work = [event for kind in kinds for event in idle.of(kind)]
    beside = idle.pace * (preprocess_s or 0.0)
    return [
        sum(event.seconds + event.waited_s + beside for event in work if _within(event, one)) for one in idle.of("call")
    ]


def _within(inner: Event, outer: Event) -> bool:
    return outer.began <= inner.began and inner.ended <= outer.ended


def answering_s(idle: Served, stepped: Stepped) -> list[float]:
    """What each call's answer took in its engine, alone there, by the fit, and beside it, at the pace of that run.

    A call belongs to the request in whose time it began: a stream ends a moment after its last message. One whose
    request is not known, or was not answered, has 0.
    """
    fit = stepped.fit
    step = fit.step_s + fit.sequence_s
    prefill = fit.encode_s + fit.step_s + fit.prompt_token_s * (stepped.image_tokens + _TEXT_TOKENS)
    tokens = np.maximum(1, idle.requests.tokens[idle.requests.ok]).tolist()
    answers = list(zip(idle.spans(), tokens, strict=True))

    def inside(call: Event) -> float:
        count = next((count for (start, end), count in answers if start <= call.began <= end), None)
        return 0.0 if count is None else idle.pace * (stepped.beside.mean + prefill + step * (int(count) - 1))

    return [inside(call) for call in idle.of("call")]


def in_place(alone: Sequence[ForwardPass], loads: Loads, *, one_thread: bool) -> tuple[ForwardPass, ...]:
    """Passes as they are in a replica, where others have taken the caches.

    Args:
        one_thread: computes a pass, so that its processor time can be compared with what it was alone. Otherwise the
            clock counts: all sizes by the factor that single items show which do not meet; on a node that others use as
            well it says nothing, and passes stay as they were alone.
    """
    sizes, seconds = np.array([one.items for one in alone]), [one.seconds.mean for one in alone]
    seen: dict[int, list[float]] = {}
    for event, pace in _comparable(loads, one_thread):
        nearest = int(np.abs(np.log(sizes / event.items)).argmin())
        usual = float(np.interp(event.items, sizes, seconds))
        seen.setdefault(nearest, []).append(event.seconds / pace / usual)
    known = [which for which in sorted(seen) if len(seen[which]) >= _LEAST_PASSES]
    if not known:
        return tuple(alone)
    means = [sum(seen[which]) / len(seen[which]) for which in known]
    factors = np.interp(np.log(sizes), np.log(sizes[known]), means)
    return tuple(
        one.model_copy(update={"seconds": scaled(one.seconds, float(factor))})
        for one, factor in zip(alone, factors, strict=True)
    )


def _comparable(loads: Loads, one_thread: bool) -> Iterator[tuple[Event, float]]:
    """Passes in the replica, each with the pace of its run."""
    if one_thread:
        for run in (loads.idle, *loads.loaded):
            yield from ((event, run.pace) for event in run.of("forward"))
    elif loads.idle.others <= QUIET_CORES:
        yield from ((event, loads.idle.pace) for event in loads.idle.of("pass") if event.items == 1)


def passes_s(parts: Sequence[ForwardPass], run: Served) -> float:
    """Seconds of passes on an idle node that a request of this run has, by the sizes of its batches."""
    sizes, seconds = [one.items for one in parts], [one.seconds.mean for one in parts]
    ran = sum(float(np.interp(event.items, sizes, seconds)) for event in run.of("pass"))
    return ran / max(1, len(run.requests)) if ran else seconds[0]


def each(load: Served, rest: Mapping[str, float], whose: str) -> float:
    """Processor seconds at a pace of 1 that one request takes, without what is spent when there is none."""
    spent = load.cpu_s.get(whose, 0.0) - rest.get(whose, 0.0) * load.seconds
    return max(0.0, spent) / load.pace / max(1, len(load.requests))


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
    """Of one request: in router, ingress and load generator. What Ray's own processes do for it is the ingress's."""
    found = {whose: each(load, rest, whose) for whose in (ROUTER, INGRESS, CLIENT)}
    return found | {INGRESS: found[INGRESS] + each(load, rest, BACKGROUND)}
