"""From what a search found to a plan that says it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import date

import numpy as np

from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.planner import queueing
from benchmarks.capacity.planner.candidate import Candidate, rented
from benchmarks.capacity.planner.demand import Threshold, Work, with_escalation, works
from benchmarks.capacity.planner.envelope import Float64, rate_within, windows
from benchmarks.capacity.planner.judge import Judge, Verdict
from benchmarks.capacity.planner.layout import Placed
from benchmarks.capacity.planner.options import Need
from benchmarks.capacity.planner.plan import CalledPlan, Latency, NodePlan, Plan, StagePlan, ThresholdPlan
from benchmarks.capacity.planner.problem import Problem
from benchmarks.capacity.planner.search import Found
from benchmarks.capacity.profiles import profile_key

_POINT = 0.01


def blank(problem: Problem, thresholds: Sequence[Threshold], left_out: Sequence[str]) -> Plan:
    """What is known before the search."""
    wishes = problem.wishes
    return Plan(
        made=date.today(),
        feasible=False,
        flows=problem.flows,
        arrivals=_process(problem),
        process=problem.arrivals,
        rate_per_s=problem.rate_per_s,
        objectives=problem.objectives,
        confidence=wishes.confidence,
        seeds=tuple(range(wishes.first_seed, wishes.first_seed + wishes.seeds)),
        run_seconds=problem.seconds,
        price=wishes.price,
        survives_node_loss=wishes.survive_node_loss,
        thresholds=tuple(
            ThresholdPlan(
                cascade=one.cascade,
                step=one.step,
                threshold=one.threshold,
                before=one.before,
                certified_agreement=one.agreement,
                escalated=one.escalated,
            )
            for one in thresholds
        ),
        left_out=tuple(left_out),
        provenance={
            f"{hardware}: {key}": f"{model.provenance.kind}, {model.provenance.date}"
            for hardware, profile in problem.profiles.items()
            for key, model in profile.models.items()
            if key in {profile_key(problem.cluster.models[s]) for s in problem.works if s in problem.cluster.models}
        },
    )


def _process(problem: Problem) -> str:
    values = problem.arrivals.model_dump(exclude={"process"}, exclude_none=True)
    return f"{problem.arrivals.process}: " + ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {getattr(value, 'name', value)}"
        for key, value in values.items()
    )


def described(plan: Plan, problem: Problem, judge: Judge, found: Found, candidate: Candidate, verdict: Verdict) -> Plan:
    """The plan with what was found in it."""
    rate = problem.rate_per_s
    times = judge.arrivals(problem.wishes.first_seed)
    stages = tuple(_stage(problem, candidate, stage, found.needs[stage], verdict, times) for stage in candidate.placed)
    return plan.model_copy(
        update={
            "feasible": True,
            "nodes": tuple(_nodes(problem, candidate)),
            "stages": stages,
            "providers": tuple(_providers(problem, candidate)),
            "routers": candidate.routers,
            "nodes_usd_per_hour": verdict.nodes_usd,
            "calls_usd_per_hour": verdict.calls_usd,
            "usd_per_day": problem.cluster.resilience.usd_per_day,
            "usd_per_1000": 1000.0 * verdict.usd_per_hour / (3600.0 * rate),
            "findings": verdict.findings,
            "latencies": tuple(latencies(verdict.runs)),
            "proven": found.proven,
        }
    )


def _nodes(problem: Problem, candidate: Candidate) -> Iterator[NodePlan]:
    prices = problem.catalogue.priced(problem.wishes.price)
    for pool in candidate.pools:
        yield NodePlan(
            name=pool.node,
            working=pool.nodes,
            rented=rented(problem, pool.node, pool.nodes),
            usd_per_hour=prices[pool.node].usd_per_hour,
            price=problem.catalogue.way(pool.node, problem.wishes.price),
            source=f"{prices[pool.node].source}, {prices[pool.node].date}",
            contents=pool.contents,
        )


def _stage(
    problem: Problem, candidate: Candidate, stage: str, need: Need, verdict: Verdict, times: Float64
) -> StagePlan:
    node, one = candidate.placed[stage]
    option = one.option
    capacity = option.capacity_per_s * one.replicas / one.slowdown
    kind = problem.catalogue.nodes[node]
    use = [run.stages[stage] for run in verdict.runs if stage in run.stages]
    return StagePlan(
        name=stage,
        node=node,
        replicas=one.replicas,
        gpu_fraction=one.fraction / 10_000,
        gpu_memory_gb=round(one.fraction * kind.gpu_memory_gb / 10_000, 3),
        max_items=option.max_items,
        max_queue=candidate.queues.get(stage),
        overflow=option.overflow,
        calls_per_s=need.calls_per_s,
        capacity_per_s=capacity,
        use=need.calls_per_s / capacity,
        use_per_point=(_calls_per_point(problem, stage) * problem.rate_per_s) / capacity,
        burst_per_s=need.burst_per_s,
        envelope_per_s=_envelope_rate(problem, stage, need, times),
        mean_bound_ms=_mean_bound_ms(problem, one, need),
        busy_share=float(np.mean([u.busy_share for u in use])) if use else 0.0,
        mean_batch=float(np.mean([u.mean_batch for u in use])) if use else 0.0,
        queue_wait_ms=1e3 * float(np.mean([u.queue_wait_s for u in use])) if use else 0.0,
    )


def _calls_per_point(problem: Problem, stage: str) -> float:
    """What one point more of escalation adds to a stage's calls for one request of the traffic."""
    more = works(problem.cluster, with_escalation(problem.flows, problem.cluster, _POINT))
    return more[stage].calls - problem.works[stage].calls if stage in more else 0.0


def _envelope_rate(problem: Problem, stage: str, need: Need, times: Float64) -> float:
    """By network calculus, from one run's arrivals, of which a stage sees a random part."""
    if not math.isfinite(need.within_s) or not len(times):
        return need.calls_per_s
    work: Work = problem.works[stage]
    draw = np.random.default_rng(problem.wishes.first_seed)
    seen = times[draw.random(len(times)) < min(1.0, work.calls)]
    return rate_within(seen, windows(need.within_s, problem.seconds), need.within_s)


def _mean_bound_ms(problem: Problem, one: Placed, need: Need) -> float | None:
    forward = one.option.profile.forward
    if not forward:
        return None
    fitted = queueing.fit(forward, one.option.max_items)
    slow = queueing.BatchService(fitted.item_s * one.slowdown, fitted.pass_s * one.slowdown, fitted.max_items)
    rate = need.calls_per_s / one.replicas
    if problem.works[one.option.stage].items != 1 or not slow.rarely_full(rate):
        return None
    bound = slow.mean_response_bound(rate)
    return 1e3 * bound if math.isfinite(bound) else None


def _providers(problem: Problem, candidate: Candidate) -> Iterator[CalledPlan]:
    for one in candidate.called:
        calls = problem.rate_per_s * problem.works[one.stage].calls
        yield CalledPlan(
            provider=one.provider,
            stands_in_for=one.stage,
            calls_per_s=calls,
            usd_per_call=one.usd_per_call,
            usd_per_hour=3600.0 * calls * one.usd_per_call,
            calls_per_minute=one.calls_per_minute,
        )
    for target, work in problem.works.items():
        profile = problem.provider(target) if target in problem.cluster.providers else None
        if profile is not None:
            calls = problem.rate_per_s * work.calls
            yield CalledPlan(
                provider=target,
                stands_in_for=None,
                calls_per_s=calls,
                usd_per_call=profile.usd_per_call,
                usd_per_hour=3600.0 * calls * profile.usd_per_call,
                calls_per_minute=problem.calls_per_minute(target),
            )


def latencies(runs: Sequence[Outcome]) -> Iterator[Latency]:
    """Of each flow, by path and for the mixture, over all runs."""
    flows = runs[0].flows
    for flow in (*flows, "all") if len(flows) > 1 else flows:
        for path in ("all", *runs[0].paths):
            pieces, asked = [], 0
            for run in runs:
                chosen = run.measured
                if flow != "all":
                    chosen = chosen & (run.flow == run.flows.index(flow))
                asked += int(chosen.sum())
                chosen = chosen & run.ok
                if path != "all":
                    chosen = chosen & (run.path == run.paths.index(path))
                pieces.append(run.latency_s[chosen])
            values = 1e3 * np.concatenate(pieces)
            if len(values):
                p50, p95, p99 = np.quantile(values, (0.5, 0.95, 0.99), method="inverted_cdf")
                yield Latency(
                    path=path,
                    flow=flow,
                    share=len(values) / asked,
                    mean_ms=float(values.mean()),
                    p50_ms=float(p50),
                    p95_ms=float(p95),
                    p99_ms=float(p99),
                )
