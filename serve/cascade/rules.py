"""When an answer is good enough, and what follows from it: pure decisions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deployments.messages import Float32
from serve.calibration.file import StepCalibration
from serve.cascade.types import Function, StepAnswer
from serve.config.cascades import Accept, Cascade, CascadeStep, Gear, Outcome, Policy

# Probabilities are kept this far from 0 and 1 before their logits are taken.
_EDGE = 1e-9
_SHOWN = 200
# Share of the time left that is kept when there is an answer in hand, so that this can still be sent.
_IN_HAND = 0.05


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is given, and why in words."""

    accepted: bool
    why: str


def judge(
    accept: Accept,
    answer: StepAnswer,
    before: StepAnswer | None,
    threshold: float | None,
    function: Function | None = None,
) -> Verdict:
    """Applies a step's rule.

    Args:
        before: the answer of the step before; None when it gave none.
        threshold: see `threshold_of`.
        function: of rule `python`.
    """
    if accept.rule == "always":
        return Verdict(True, "every answer of this step is accepted")
    if accept.rule == "schema":
        return Verdict(answer.problem is None, answer.problem or "the JSON fits the schema")
    if accept.rule == "agreement":
        return _agreement(answer, before)
    if accept.rule == "python":
        assert function is not None, "entry points are looked up when the cascade is built"
        try:
            accepted = bool(function(answer, before))
        except Exception as error:  # someone else's code must not take the request with it
            return Verdict(False, f"{accept.function} raised {type(error).__name__}: {error}"[:_SHOWN])
        return Verdict(accepted, f"{accept.function} {'accepts' if accepted else 'does not accept'} it")
    value = answer.confidence if accept.rule == "confidence" else answer.margin
    return _enough(accept.rule, value, threshold)


def _agreement(answer: StepAnswer, before: StepAnswer | None) -> Verdict:
    if before is None:
        return Verdict(False, "no step before gave an answer to agree with")
    agree = same(answer.value, before.value)
    return Verdict(agree, "the step before said the same" if agree else "the step before said something else")


def _enough(what: str, value: float | None, threshold: float | None) -> Verdict:
    if value is None:
        return Verdict(False, f"the model gave no {what}")
    assert threshold is not None, "the cluster file was checked"
    if threshold > 1:
        return Verdict(False, "no threshold could be certified for this step")
    if value >= threshold:
        return Verdict(True, f"{what} {value:.3f} reaches {threshold:.3f}")
    return Verdict(False, f"{what} {value:.3f} is below {threshold:.3f}")


def threshold_of(step: CascadeStep, evidence: StepCalibration | None, gear: Gear | None) -> float | None:
    """What the step's rule compares with: the gear's, else the certified one, else the one typed in."""
    if step.accept.rule not in ("confidence", "margin"):
        return None
    if gear is not None and step.name in gear.thresholds:
        return gear.thresholds[step.name]
    if evidence is not None and step.accept.rule == "confidence":
        return evidence.threshold
    return step.accept.at_least


def is_calibrated(cascade: Cascade) -> bool:
    """Whether every threshold that a decision hangs on is a certified one."""
    certified = set() if cascade.evidence is None else set(cascade.evidence.steps)
    return all(step.name in certified for step in cascade.steps if step.accept.rule in ("confidence", "margin"))


def scored(labels: Sequence[str], logits: Float32, temperature: float) -> StepAnswer:
    """The answer of a zero-shot classification, from logits of shape (labels,)."""
    scaled = np.asarray(logits, np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    probabilities = weights / weights.sum()
    order = np.argsort(-probabilities, kind="stable")
    best = int(order[0])
    second = float(probabilities[order[1]]) if len(order) > 1 else 0.0
    return StepAnswer(
        labels[best],
        confidence=float(probabilities[best]),
        margin=float(probabilities[best]) - second,
        probabilities={label: float(p) for label, p in zip(labels, probabilities, strict=True)},
        logits=tuple(float(value) for value in logits),
    )


def tempered(probability: float | None, temperature: float) -> float | None:
    """A probability with its logit divided by the temperature: what temperature scaling is for one of two classes."""
    if probability is None or temperature == 1.0:
        return probability
    bounded = min(max(probability, _EDGE), 1 - _EDGE)
    return 1 / (1 + math.exp(-math.log(bounded / (1 - bounded)) / temperature))


def same(one: Any, other: Any) -> bool:
    """Whether two answers say the same: texts case and space aside, JSON by content."""
    if isinstance(one, str) and isinstance(other, str):
        return " ".join(one.split()).casefold().rstrip(".") == " ".join(other.split()).casefold().rstrip(".")
    return bool(one == other)


def outcome_of(
    policy: Policy | None, label: str, confidence: float | None, *, accepted: bool, degraded: bool
) -> Outcome | None:
    """What is done with a label. A person looks at whatever no step stands behind."""
    if policy is None:
        return None
    unsure = policy.review_below > 0 and (confidence is None or confidence < policy.review_below)
    return "review" if degraded or not accepted or unsure else policy.outcome(label)


def step_seconds(left_s: float, share: float | None, steps_left: int, *, in_hand: bool = False) -> float:
    """Seconds that a step may take of those left.

    Args:
        share: the step's own; without one, the steps share evenly.
        steps_left: from this one on.
        in_hand: an earlier answer can be given if this step fails.
    """
    seconds = left_s * (share if share is not None else 1 / max(1, steps_left))
    return min(seconds, left_s * (1 - _IN_HAND)) if in_hand else seconds


def drawn(request_id: str, share: float) -> bool:
    """Whether a request is one of a share of all: always the same for one id."""
    number = int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest(), "big")
    return number < share * 2.0**64
