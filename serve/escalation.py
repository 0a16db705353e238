"""When a stronger model, or a person, must answer: a pure rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from deployments.generation.messages import TokenLogprob
from serve.config.support import Support

Intent = Literal["question", "problem", "request", "complaint", "human", "other"]
Sentiment = Literal["positive", "neutral", "negative", "angry"]
Reason = Literal["human_requested", "angry", "nothing_relevant", "low_confidence"]
INTENTS: tuple[Intent, ...] = ("question", "problem", "request", "complaint", "human", "other")
SENTIMENTS: tuple[Sentiment, ...] = ("positive", "neutral", "negative", "angry")


@dataclass(frozen=True, slots=True)
class Signals:
    """What the rule looks at.

    Attributes:
        coverage: of the query by the best chunk, see `deployments.knowledge_types.Match`; 0 when none was found.
        similarity: cosine of the query and the nearest chunk; None when there are no vectors.
        confidence: see `confidence`; None before there is an answer, or when the engine gave no probabilities.
    """

    intent: Intent
    sentiment: Sentiment
    coverage: float
    similarity: float | None
    confidence: float | None = None


def reasons(signals: Signals, rule: Support) -> tuple[Reason, ...]:
    """Why the turn should be escalated; empty when it should not.

    Something relevant was found when the coverage reaches `min_coverage`, or the similarity a `min_similarity` that is
    set: embedding models differ too much in their cosines for a default.
    """
    similar = (
        rule.min_similarity is not None and signals.similarity is not None and signals.similarity >= rule.min_similarity
    )
    found: list[tuple[Reason, bool]] = [
        ("human_requested", signals.intent == "human"),
        ("angry", signals.sentiment == "angry"),
        ("nothing_relevant", signals.coverage < rule.min_coverage and not similar),
        ("low_confidence", signals.confidence is not None and signals.confidence < rule.min_confidence),
    ]
    return tuple(reason for reason, holds in found if holds)


def confidence(logprobs: Sequence[TokenLogprob]) -> float | None:
    """The geometric mean of the probabilities of an answer's tokens, in (0, 1]; None without any.

    Length-normalised sequence likelihood, see Malinin and Gales 2021, "Uncertainty Estimation in Autoregressive
    Structured Prediction". It says how sure the model was of its words, not whether they are true.
    """
    if not logprobs:
        return None
    return math.exp(sum(token.logprob for token in logprobs) / len(logprobs))
