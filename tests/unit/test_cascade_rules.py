"""The decisions of a cascade, and what becomes of a model's words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.generation.messages import TokenLogprob
from serve.calibration.file import StepCalibration
from serve.cascade import parse, rules
from serve.cascade.types import StepAnswer
from serve.config.cascades import Accept, CascadeStep, Gear, Policy
from serve.errors import InvalidOutput

LABELS = ("safe", "a red knife", "gun")
POLICY = Policy(allow=("safe",), block=("gun",), review=("a red knife",), review_below=0.4)


def step(**accept: Any) -> CascadeStep:
    return CascadeStep(name="screen", use="clip", task="classify", accept=Accept(**accept))


def evidence(threshold: float) -> StepCalibration:
    return StepCalibration(
        checkpoint="c",
        temperature=1,
        threshold=threshold,
        target=0.95,
        confidence=0.95,
        samples=1,
        labels_used=1,
        ece_before=0,
        ece_after=0,
        curve=(),
    )


@pytest.mark.parametrize(("value", "accepted"), [(0.91, True), (0.9, True), (0.89, False), (None, False)])
def test_a_threshold_is_reached_or_not(value: float | None, accepted: bool) -> None:
    answer = StepAnswer("safe", confidence=value, margin=value)
    for rule in ("confidence", "margin"):
        verdict = rules.judge(Accept(rule=rule, at_least=0.9), answer, None, 0.9)
        assert verdict.accepted is accepted
        assert verdict.why


def test_a_certified_threshold_wins_and_a_gears_wins_over_it() -> None:
    one = step(rule="confidence", at_least=0.9)
    gear = Gear(name="low", above_requests_per_s=1, thresholds={"screen": 0.5})
    assert rules.threshold_of(one, None, None) == 0.9
    assert rules.threshold_of(one, evidence(0.8), None) == 0.8
    assert rules.threshold_of(one, evidence(0.8), gear) == 0.5
    assert rules.threshold_of(step(rule="margin", at_least=0.2), evidence(0.8), None) == 0.2, (
        "margins are not certified"
    )
    assert rules.threshold_of(step(rule="always"), evidence(0.8), gear) is None


def test_what_could_not_be_certified_accepts_nothing() -> None:
    verdict = rules.judge(Accept(rule="confidence"), StepAnswer("safe", confidence=1.0), None, 1.01)
    assert not verdict.accepted
    assert "certified" in verdict.why


def test_agreement_with_the_step_before() -> None:
    accept = Accept(rule="agreement")
    for before, accepted in ((StepAnswer("A  Red Knife."), True), (StepAnswer("gun"), False), (None, False)):
        assert rules.judge(accept, StepAnswer("a red knife"), before, None).accepted is accepted
    assert rules.judge(accept, StepAnswer({"a": 1}), StepAnswer({"a": 1}), None).accepted


def test_a_function_of_ones_own_that_breaks_accepts_nothing() -> None:
    accept = Accept(rule="python", function="mine:rule")
    answer = StepAnswer("safe", confidence=0.7)
    assert rules.judge(
        accept, answer, None, None, lambda one, before: one.confidence == 0.7 and before is None
    ).accepted
    broken = rules.judge(accept, answer, None, None, lambda one, before: bool(1 / 0))
    assert not broken.accepted
    assert "ZeroDivisionError" in broken.why


@given(st.lists(st.floats(-50, 50), min_size=3, max_size=3), st.floats(0.1, 10))
def test_probabilities_are_those_of_the_tempered_logits(logits: list[float], temperature: float) -> None:
    given_ = np.asarray(logits, np.float32)
    answer = rules.scored(LABELS, given_, temperature)
    weights = [math.exp(float(value) / temperature - float(given_.max()) / temperature) for value in given_]
    expected = sorted((weight / sum(weights) for weight in weights), reverse=True)
    assert answer.confidence == pytest.approx(expected[0], rel=1e-6)
    assert answer.margin == pytest.approx(expected[0] - expected[1], abs=1e-6)
    assert answer.probabilities is not None
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.logits == tuple(float(value) for value in given_)


@given(st.floats(0, 1), st.floats(0.1, 10))
def test_tempering_keeps_a_half_and_the_order(probability: float, temperature: float) -> None:
    tempered = rules.tempered(probability, temperature)
    assert tempered is not None
    assert 0 <= tempered <= 1
    assert (tempered > 0.5) == (probability > 0.5) or tempered == pytest.approx(0.5)
    assert rules.tempered(None, temperature) is None


@pytest.mark.parametrize(
    ("label", "confidence", "accepted", "degraded", "outcome"),
    [
        ("safe", 0.9, True, False, "allow"),
        ("gun", 0.9, True, False, "block"),
        ("a red knife", 0.9, True, False, "review"),
        ("safe", 0.39, True, False, "review"),
        ("gun", None, True, False, "review"),
        ("safe", 0.9, False, False, "review"),
        ("gun", 0.9, True, True, "review"),
    ],
)
def test_what_a_policy_makes_of_a_label(
    label: str, confidence: float | None, accepted: bool, degraded: bool, outcome: str
) -> None:
    assert rules.outcome_of(POLICY, label, confidence, accepted=accepted, degraded=degraded) == outcome
    assert rules.outcome_of(None, label, confidence, accepted=accepted, degraded=degraded) is None


def test_time_is_shared() -> None:
    assert rules.step_seconds(9, None, 3) == 3
    assert rules.step_seconds(9, 0.5, 3) == 4.5
    assert rules.step_seconds(10, None, 1) == 10
    assert rules.step_seconds(10, None, 1, in_hand=True) == pytest.approx(9.5), "what is in hand must still be sent"
    assert rules.step_seconds(10, 0.5, 1, in_hand=True) == 5


def test_a_share_of_requests_is_drawn_by_their_ids() -> None:
    drawn = [rules.drawn(f"request-{i}", 0.2) for i in range(2000)]
    assert 300 < sum(drawn) < 500
    assert drawn == [rules.drawn(f"request-{i}", 0.2) for i in range(2000)]
    assert not any(rules.drawn(f"{i}", 0.0) for i in range(100))
    assert all(rules.drawn(f"{i}", 1.0) for i in range(100))


@pytest.mark.parametrize("text", ["a red knife", " A Red Knife.", '"a red knife"', "'A RED KNIFE'.", "`a red knife`!"])
def test_a_text_that_is_a_label(text: str) -> None:
    assert parse.label_from_text(text, LABELS) == "a red knife"


@pytest.mark.parametrize("text", ["", "knife", "a red knife and a gun", "safe or gun", "I see a gun"])
def test_a_text_that_is_none(text: str) -> None:
    with pytest.raises(InvalidOutput, match="none of the labels"):
        parse.label_from_text(text, LABELS)


def test_labels_in_json() -> None:
    assert parse.label_from_json('{"label": "Gun"}', LABELS) == "gun"
    assert parse.label_from_json('```json\n{"label": "gun"}\n```', LABELS) == "gun"
    for text in ("gun", "[]", "{}", '{"label": 3}', '{"label": "sword"}', '{"label": "gun"'):
        with pytest.raises(InvalidOutput):
            parse.label_from_json(text, LABELS)
    assert parse.schema_problem({"label": "gun"}, __import__("json").loads(parse.label_schema(LABELS))) is None


def test_json_that_does_not_fit_says_where() -> None:
    schema = {"type": "object", "properties": {"size": {"type": "object", "properties": {"w": {"type": "integer"}}}}}
    assert parse.schema_problem({"size": {"w": 3}}, schema) is None
    problem = parse.schema_problem({"size": {"w": "3"}}, schema)
    assert problem is not None
    assert "at size.w" in problem
    assert parse.schema_problem("anything", None) is None


def test_the_probability_of_a_text_is_that_of_all_its_tokens() -> None:
    tokens = [TokenLogprob("{", 0.0), TokenLogprob("gun", math.log(0.5)), TokenLogprob("}", math.log(0.8))]
    assert parse.joint(tokens) == pytest.approx(0.4)
    assert parse.joint([]) is None
