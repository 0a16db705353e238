"""Flows through cascades, thresholds from their curves, and objectives against runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.planner.demand import (
    accepted_at,
    handed_on,
    lowest_certified,
    visits,
    with_escalation,
    with_thresholds,
    works,
)
from benchmarks.capacity.planner.judge import Judge
from benchmarks.capacity.planner.objectives import Objective, findings, objectives_of, parse_objective
from benchmarks.capacity.scenario import Flow, check_flows
from benchmarks.targets import Goal
from benchmarks.traffic.arrivals import parse_arrivals
from serve.calibration.file import CurvePoint, StepCalibration
from serve.config.load import load_profile
from serve.errors import ConfigError
from tests.unit.planner_cases import SCREENED, cluster, problem

CURVE = tuple(
    CurvePoint(threshold=t, accepted=a, agreement=g, lower=lo)
    for t, a, g, lo in (
        (0.99, 0.3, 1.0, 0.985),
        (0.95, 0.7, 0.999, 0.995),
        (0.9, 0.9, 0.995, 0.991),
        (0.6, 1.0, 0.96, 0.95),
    )
)
STEP = StepCalibration(
    checkpoint="x",
    temperature=1,
    threshold=0.9,
    target=0.99,
    confidence=0.95,
    samples=1000,
    labels_used=500,
    ece_before=0.1,
    ece_after=0.01,
    curve=CURVE,
)


def test_a_cascade_asks_its_second_step_about_what_the_first_hands_on() -> None:
    half = SCREENED[0].model_copy(update={"share": 0.5})
    flows = (half, Flow(name="plain", entry="clip", share=0.5, items=3))
    asked = works(cluster(), flows)
    assert asked["clip"].calls == pytest.approx(1.0)
    assert asked["clip"].items == pytest.approx(2.0)
    assert asked["llava"].calls == pytest.approx(0.025)
    assert asked["llava"].output == pytest.approx(10)
    assert [visit.target for visit in visits(cluster(), flows)] == ["clip", "llava", "clip"]


def test_a_cascade_is_asked_about_one_item_at_a_time() -> None:
    """It is served so: each image of a request goes its own way through the steps (`ask_each` of its routes)."""
    many = SCREENED[0].model_copy(update={"items": 4})
    with pytest.raises(ConfigError, match="'screened' has 4 items; 'screen' is a cascade") as error:
        check_flows(cluster(), (many,))
    assert error.value.param == "items"
    check_flows(cluster(), (Flow(name="plain", entry="clip", items=4),))


def test_escalation_comes_from_the_calibration_unless_the_flow_states_it() -> None:
    demo = load_profile("demo")
    flow = Flow(name="m", entry="moderation")
    cascade = demo.cascades["moderation"]
    evidence = cascade.evidence
    assert evidence is not None
    step = evidence.steps["screen"]
    assert handed_on(cascade, cascade.steps[0], flow) == pytest.approx(1 - accepted_at(step, step.threshold))
    stated = flow.model_copy(update={"escalated": {"screen": 0.2}})
    assert handed_on(cascade, cascade.steps[0], stated) == 0.2


def test_points_of_escalation_stay_within_0_and_1() -> None:
    up = with_escalation(SCREENED, cluster(), 0.01)
    assert up[0].escalated == {"first": pytest.approx(0.06)}
    assert with_escalation(SCREENED, cluster(), -0.1)[0].escalated == {"first": 0.0}


def test_accepted_share_lies_on_the_curve() -> None:
    assert accepted_at(STEP, 0.925) == pytest.approx(0.8)
    assert accepted_at(STEP, 1.01) == 0.0
    assert accepted_at(STEP, 0.1) == 1.0


@pytest.mark.parametrize(("agreement", "threshold"), [(0.99, 0.9), (0.95, 0.6), (0.994, None), (0.999, None)])
def test_the_lowest_certified_threshold(agreement: float, threshold: float | None) -> None:
    found = lowest_certified(STEP, agreement)
    assert (None if found is None else found.threshold) == threshold


def test_thresholds_go_below_their_target_only_when_asked() -> None:
    demo = load_profile("demo")
    flows = (Flow(name="m", entry="moderation", escalated={"analyse": 0}),)
    same, (kept,) = with_thresholds(demo, flows, None)
    assert kept.threshold <= kept.before
    assert kept.agreement >= 0.99 - 1e-9
    lower, (moved,) = with_thresholds(demo, flows, 0.95)
    assert moved.threshold < kept.threshold
    assert moved.agreement >= 0.95
    assert moved.escalated < kept.escalated
    evidence = lower.cascades["moderation"].evidence
    assert evidence is not None and evidence.steps["screen"].threshold == moved.threshold
    assert same.cascades["vqa"] == demo.cascades["vqa"]


def outcome(latency: np.ndarray, ok: np.ndarray, flow: np.ndarray | None = None) -> Outcome:
    count = len(latency)
    return Outcome(
        arrived_s=np.linspace(0, 99.9, count),
        latency_s=latency,
        ok=ok,
        path=np.zeros(count, np.int16),
        paths=("only",),
        usd=np.zeros(count),
        flow=np.zeros(count, np.int16) if flow is None else flow,
        flows=("a", "b"),
        start_s=0.0,
        end_s=100.0,
    )


def test_refusals_are_misses() -> None:
    latency = np.full(10_000, 0.01)
    ok = np.ones(10_000, bool)
    ok[::50] = False
    (late,) = findings([Objective(quantile=0.99, seconds=0.1)], [outcome(latency, ok)], 0.95)
    assert late.measured == pytest.approx(0.02)
    assert not late.held
    assert late.value_s is None
    (fine,) = findings([Objective(quantile=0.95, seconds=0.1)], [outcome(latency, ok)], 0.95)
    assert fine.held
    assert fine.value_s == pytest.approx(0.01)


def test_holding_just_so_is_not_holding_with_confidence() -> None:
    latency = np.full(2_000, 0.01)
    latency[::100] = 1.0
    objective = [Objective(quantile=0.99, seconds=0.1)]
    (found,) = findings(objective, [outcome(latency, np.ones(2_000, bool))], 0.95)
    assert found.measured == pytest.approx(found.allowed)
    assert found.bound > found.allowed
    assert not found.held


def test_an_objective_of_one_flow_sees_that_flow() -> None:
    latency = np.where(np.arange(10_000) % 2, 5.0, 0.01)
    flow = (np.arange(10_000) % 2).astype(np.int16)
    runs = [outcome(latency, np.ones(10_000, bool), flow)]
    asked = [parse_objective(text) for text in ("a.p99=1s", "b.p99=1s", "mean=3s")]
    a, b, mean = findings(asked, runs, 0.95)
    assert a.held and not b.held
    assert mean.held and mean.value_s == pytest.approx(2.505)


def test_nothing_answered_holds_nothing() -> None:
    runs = [outcome(np.ones(100), np.zeros(100, bool))]
    assert not any(one.held for one in findings([Objective(seconds=1), Objective(quantile=0.5, seconds=1)], runs, 0.9))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("p99=200ms", "p99 <= 200 ms"),
        ("p99.99999=200ms", "p99.99999 <= 200 ms"),
        ("p99.9=0.2s", "p99.9 <= 200 ms"),
        ("mean=0.03s", "mean <= 30 ms"),
        ("failed=0.1%", "failed <= 0.1 %"),
        ("chat.p95=2s", "p95 <= 2000 ms of chat"),
    ],
)
def test_objectives_as_they_are_written(text: str, label: str) -> None:
    assert parse_objective(text).label == label


@pytest.mark.parametrize(
    "text",
    ["p99", "p99=200", "mean=0.03", "p99=fast", "p0=1s", "p100=1s", "failed=2", "failed=10ms", "max=1s", "p99=-1s", ""],
)
def test_what_is_no_objective_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="must be like"):
        parse_objective(text)


def test_a_goal_becomes_objectives() -> None:
    goal = Goal(qps=1, mean_ms=30, p99_ms=200, max_failed_share=0.01, source="test")
    assert [one.label for one in objectives_of(goal)] == ["failed <= 1 %", "mean <= 30 ms", "p99 <= 200 ms"]


def test_a_plan_for_a_recording_is_for_its_mean_not_for_its_beginning(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    times = [*np.arange(0, 600, 0.5), *np.arange(600, 1800, 0.125)]  # two a second, then eight
    file.write_text("".join(f'{{"time_s": {time}}}\n' for time in times))
    asked = problem(arrivals=parse_arrivals(f"trace:{file},rate=100"))
    assert asked.rate_per_s == asked.at_rate(1.0).rate_per_s == 100
    assert asked.at_rate(1.5).rate_per_s == pytest.approx(150)
    judge = Judge(asked)
    rates = [len(judge.arrivals(seed)) / asked.seconds for seed in range(12)]
    assert np.mean(rates) == pytest.approx(100, rel=0.1) and max(rates) > 3 * min(rates)
