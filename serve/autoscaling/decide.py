"""The decision: how many replicas of each model there are to be, as a function of what was, what is told, and the time.

For each model whose number may change:

1. *Calls to expect* when a replica that is wished now will answer: for each cascade that asks the model, the forecast
   of the cascade's arrivals times the share of them that reaches the step, less what the cache will answer; and the
   forecast of the calls that come otherwise.
2. *Replicas for them*: as many as answer these calls while each takes no longer than it may (`curve`).
3. *The loop closed*: where calls take longer than they may although every replica that was wished is there, one more.
4. *At least Ray's own*: never fewer than `queue_rule` wants, and without evidence, exactly as many.
5. *Down slowly*: only when fewer were enough for the whole of `downscale_delay_s`, and to the most of that time.

docs/autoscaling.md has the formulae and the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from serve.autoscaling import evidence, queue_rule
from serve.autoscaling.curve import Curve, allowed_wait_s
from serve.autoscaling.evidence import Told
from serve.autoscaling.plan import Plan, Scaled, Step
from serve.autoscaling.queue_rule import EPSILON_S, Waiting, bounded
from serve.autoscaling.rates import LEVEL_S, SLOT_S, Forecast, Series, forecast

# A router that has not told anything for so long has gone, or cannot reach the controller.
STALE_S = 25.0
# Arrivals are judged only when they have been counted for so long.
_LEAST_S = LEVEL_S
# Seconds in which the shares of escalation fade to 1/e, and requests of which the calibration's word weighs as many.
_SHARE_FADE_S = 300.0
_SHARE_PRIOR = 50.0
# Fewer requests than this say nothing of a share that no calibration gives.
_SHARE_LEAST = 20.0
# Share of what is needed by which there may be too much, at most half a replica.
_TOLERANCE = 0.1
# A trend dies away with this multiple of the time over which it was seen.
_DAMPING = 2.0
# Of a start-up time that was measured, how much it counts against what was thought before.
_START_WEIGHT = 0.5
# A start is taken to be at most so many times as long as was thought.
_LONGEST_START = 4.0
# Calls take too long when they take so many times what they may beyond their time alone, and so many of them show it.
_LATE, _LEAST_CALLS = 1.5, 10.0


@dataclass(frozen=True, slots=True)
class Replicas:
    """A deployment now.

    Attributes:
        ongoing: requests in progress, as Ray Serve counts them.
        running: replicas that answer.
        target: that there are to be.
    """

    ongoing: float
    running: int
    target: int


_NOT_WAITING, _UNSEEN = Waiting(), Curve()


@dataclass(frozen=True, slots=True)
class Model:
    """What is remembered of one model.

    Attributes:
        waiting: of Ray's rule.
        low_since: since when fewer replicas than there are to be would do; None while they would not.
        low_most: the most that were wished in that time.
        curve: its service curve.
        start_s: how long a replica takes to start, as far as that was seen.
        wished_at: when more replicas were last wished than ran; None when all run.
        settled: since when as many run as are wished, and have; None when they do not.
        late_calls, late_s: answered since then, and how long they took, waits in the router included.
    """

    waiting: Waiting = _NOT_WAITING
    low_since: float | None = None
    low_most: int = 0
    curve: Curve = _UNSEEN
    start_s: float | None = None
    wished_at: float | None = None
    settled: float | None = None
    late_calls: float = 0.0
    late_s: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered between two decisions.

    Attributes:
        now: of the last decision; None before it.
        told: by router replica.
        since: from when on everything is counted; None before the first word.
        counted: until when.
        pending: counted since the last decision that `counted` moved, by routers that are ahead of others.
        series: arrivals by name of a total.
        shares: faded totals that shares are taken of.
    """

    now: float | None = None
    told: Mapping[str, Told] = field(default_factory=dict)
    since: float | None = None
    counted: float = 0.0
    pending: Mapping[str, float] = field(default_factory=dict)
    series: Mapping[str, Series] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    models: Mapping[str, Model] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was decided of one model, and why.

    Attributes:
        calls_per_s: that are expected; None without evidence.
        capacity_per_s: of one replica; None while it is not known.
        by: what asked for the number: `forecast`, `waits`, `queue` (Ray's rule) or `delay` (of scaling down).
    """

    replicas: int
    calls_per_s: float | None
    capacity_per_s: float | None
    by: str


def decide(
    plan: Plan, state: State, told: Mapping[str, Told], replicas: Mapping[str, Replicas], now: float
) -> tuple[dict[str, Wanted], State]:
    """How many replicas there are to be from `now` on.

    Args:
        told: the last word of each router replica that there is.
        replicas: of each model of the plan; one that is missing is not decided on.
        now: seconds on the clock on which `told` is. Where it jumps, delays and arrivals begin anew.
    """
    if state.now is not None and not 0 <= now - state.now <= STALE_S:
        kept = {name: Model(curve=model.curve, start_s=model.start_s) for name, model in state.models.items()}
        state = State(models=kept)
    state, news = _heard(plan, state, told, now)
    fresh = state.since is not None and state.counted - state.since >= _LEAST_S and now - state.counted <= STALE_S
    wanted: dict[str, Wanted] = {}
    models = dict(state.models)
    for name, rule in plan.models.items():
        if name not in replicas:
            continue
        model = _watched(rule, models.get(name, Model()), name, news, replicas[name], now)
        expected = _expected(plan, state, name, rule, model, now) if fresh else None
        wanted[name], models[name] = _decided(rule, model, expected, replicas[name], now)
    return wanted, replace(state, now=now, models=models)


@dataclass(frozen=True, slots=True)
class _News:
    """What was counted since the last decision, over all routers, and over how many seconds."""

    totals: Mapping[str, float]
    seconds: float


def _heard(plan: Plan, state: State, told: Mapping[str, Told], now: float) -> tuple[State, _News]:
    """The state with what the routers have said since."""
    live = {source: word for source, word in told.items() if now - word.at <= STALE_S}
    if not live:
        return replace(state, told={}, since=None, series={}, pending={}), _News({}, 0.0)
    keep = math.ceil(plan.window_s / SLOT_S) + math.ceil(STALE_S / SLOT_S) + 1
    series, news = dict(state.series), dict(state.pending)
    for source, word in live.items():
        before = state.told.get(source)
        # What a router counted before its first word came in an unknown time.
        if before is None or word.at <= before.at:
            continue
        for name, total in word.totals.items():
            more = total - before.totals.get(name, 0.0)
            if more < 0:
                more = total  # counted anew
            news[name] = news.get(name, 0.0) + more
            series[name] = series.get(name, Series()).added(more, before.at, word.at, keep)
    counted = min(word.at for word in live.values())
    since = counted if state.since is None else state.since
    kept = replace(state, told=live, since=since, counted=max(counted, since), series=series, pending=news)
    passed = counted - state.counted if state.since is not None else 0.0
    if passed <= 0:
        return kept, _News({}, 0.0)
    shares = _faded(state.shares, news, math.exp(-passed / _SHARE_FADE_S))
    return replace(kept, shares=shares, pending={}), _News(news, passed)


def _faded(kept: Mapping[str, float], news: Mapping[str, float], decay: float) -> dict[str, float]:
    """Totals of shares with the new ones: those of a share of which nothing was seen, as in a gear, do not fade."""
    seen = {evidence.share(name) for name, count in news.items() if count > 0}
    return {
        name: kept.get(name, 0.0) * (decay if share in seen else 1.0) + news.get(name, 0.0)
        for name in kept.keys() | news.keys()
        if (share := evidence.share(name)) is not None
    }


def _watched(rule: Scaled, model: Model, name: str, news: _News, now_there: Replicas, now: float) -> Model:
    """The model with what was seen of its replicas: how long they take to start, and calls to be answered."""
    running, target = now_there.running, now_there.target
    if running < target:
        wished_at = now if model.wished_at is None else model.wished_at
        return replace(model, wished_at=wished_at, settled=None, late_calls=0.0, late_s=0.0)
    if model.wished_at is not None:
        thought = rule.start_s if model.start_s is None else model.start_s
        # Where there was no room for it, a replica may have taken hours, which the next will not.
        took = min(now - model.wished_at, _LONGEST_START * thought)
        model = replace(model, wished_at=None, start_s=thought + _START_WEIGHT * (took - thought))
    settled = now if model.settled is None or running > target else model.settled
    if settled != model.settled:
        model = replace(model, settled=settled, late_calls=0.0, late_s=0.0)
    calls, busy_s = news.totals.get(evidence.done(name), 0.0), news.totals.get(evidence.busy(name), 0.0)
    if not (calls and news.seconds and running and now - settled >= LEVEL_S):
        return model
    waited_s = news.totals.get(evidence.waited(name), 0.0)
    fade = math.exp(-news.seconds / LEVEL_S)
    return replace(
        model,
        curve=model.curve.faded(news.seconds).seen(calls, busy_s, busy_s / news.seconds / running),
        late_calls=model.late_calls * fade + calls,
        late_s=model.late_s * fade + busy_s + waited_s,
    )


def _expected(plan: Plan, state: State, name: str, rule: Scaled, model: Model, now: float) -> float:
    """Calls a second of a model, when a replica that is wished now will answer."""
    assert state.since is not None, "there is evidence"
    ahead = now - state.counted + LEVEL_S / 2 + (rule.start_s if model.start_s is None else model.start_s)
    damping_s = _DAMPING * plan.window_s
    missed = _share(state.shares.get(evidence.missed(name), 0.0), state.shares.get(evidence.asked(name), 0.0), 1.0)
    calls, by_cascades = 0.0, 0.0
    for step in plan.steps:
        if step.use != name:
            continue
        share = _reached(state, step) * missed
        calls += _forecast(plan, state, evidence.step(step.cascade, step.first)).after(ahead, damping_s) * share
        by_cascades += _forecast(plan, state, evidence.step(step.cascade, step.name)).level * missed
    came = _forecast(plan, state, evidence.came(name))
    if came.level <= 0:
        return calls
    # Calls that no cascade's step made: their level, and their part of the trend.
    others = max(0.0, came.level - by_cascades)
    return calls + Forecast(others, came.slope * others / came.level).after(ahead, damping_s)


def _forecast(plan: Plan, state: State, name: str) -> Forecast:
    assert state.since is not None, "there is evidence"
    return forecast(state.series.get(name, Series()), state.since, state.counted, plan.window_s)


def _reached(state: State, step: Step) -> float:
    """The share of a cascade's requests that reach a step in its normal gear."""
    if step.name == step.first:
        return 1.0
    came = state.shares.get(evidence.plain(step.cascade, step.first), 0.0)
    reached = state.shares.get(evidence.plain(step.cascade, step.name), 0.0)
    return _share(reached, came, step.share)


def _share(part: float, whole: float, prior: float | None) -> float:
    if prior is None:
        return min(1.0, part / whole) if whole >= _SHARE_LEAST else 0.0
    return min(1.0, (part + _SHARE_PRIOR * prior) / (whole + _SHARE_PRIOR))


def _decided(rule: Scaled, model: Model, expected: float | None, there: Replicas, now: float) -> tuple[Wanted, Model]:
    """The number, bounded and with the delays."""
    by_queue, waiting = queue_rule.decide(rule, model.waiting, there.ongoing, there.running, there.target, now)
    model = replace(model, waiting=waiting)
    if expected is None:
        return Wanted(by_queue, None, None, "queue"), replace(model, low_since=None)
    wished = _wished(rule, model, expected, there.target)
    up = max(wished.replicas, by_queue)
    if up > there.target:
        by = wished.by if wished.replicas >= by_queue else "queue"
        return replace(wished, replicas=up, by=by), replace(model, low_since=None)
    least = queue_rule.wish(rule, there.ongoing, there.running, there.target)
    low = max(wished.replicas, least)
    if low >= there.target:
        by = wished.by if wished.replicas >= there.target else "queue"
        return replace(wished, replicas=there.target, by=by), replace(model, low_since=None)
    return _lowered(rule, model, wished, low, there.target, now)


def _wished(rule: Scaled, model: Model, expected: float, target: int) -> Wanted:
    """What suits the calls that are expected, and those that took too long, now."""
    line = model.curve.line(rule.target_ongoing)
    if line is None:
        return Wanted(_needed(rule, expected, rule.calls_per_s, target), expected, rule.calls_per_s, "forecast")
    wait_s = allowed_wait_s(line, rule.max_wait_s)
    capacity = rule.calls_per_s or line.capacity(wait_s, rule.target_ongoing)
    wanted = Wanted(_needed(rule, expected, capacity, target), expected, capacity, "forecast")
    if model.late_calls < _LEAST_CALLS or wanted.replicas > target:
        return wanted
    late_s = model.late_s / model.late_calls - line.alone
    return replace(wanted, replicas=bounded(rule, target + 1), by="waits") if late_s > _LATE * wait_s else wanted


def _lowered(rule: Scaled, model: Model, wished: Wanted, low: int, target: int, now: float) -> tuple[Wanted, Model]:
    """Fewer, once fewer were enough for the whole of the delay: the most of that time."""
    since, most = (now, low) if model.low_since is None else (model.low_since, max(low, model.low_most))
    if now - since + EPSILON_S < rule.downscale_delay_s:
        return replace(wished, replicas=target, by="delay"), replace(model, low_since=since, low_most=most)
    # From more than one replica none is reached in one step, as with Ray's rule.
    return replace(wished, replicas=most if target == 1 else max(1, most)), replace(model, low_since=None)


def _needed(rule: Scaled, expected: float, capacity: float | None, target: int) -> int:
    """Replicas for so many calls a second; at least one where a call is to be expected while it would be there.

    Args:
        target: that there are to be, which stay where they are a little too many: a load between two numbers would else
            go to and fro.
    """
    if expected * (rule.start_s + rule.downscale_delay_s) < 1.0:
        return bounded(rule, 0)
    if capacity is None:
        return bounded(rule, 1)
    needed = expected / capacity
    spare = min(0.5, _TOLERANCE * needed)
    return bounded(rule, max(1, min(max(target, math.ceil(needed - 1e-9)), math.ceil(needed + spare))))
