"""What a cascade is asked, what its steps answer, and what is told of it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deployments.generation.messages import ImagePart, Message, Sampling, Text
from deployments.messages import Image
from serve.calls import Usage
from serve.config.cascades import Outcome
from serve.resilience.failures import FailureClass

_NOTHING = Usage()
Result = Literal["accepted", "went_on", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation whose media have been admitted; every step is shown the same objects.

    Attributes:
        messages: at least one; the last one is the user's.
        sampling: a client's wishes for steps that answer questions; None for greedy answers.
    """

    messages: tuple[Message, ...]
    sampling: Sampling | None = None

    @property
    def images(self) -> tuple[Image, ...]:
        """Of all messages, in order."""
        return tuple(part.image for message in self.messages for part in message.parts if isinstance(part, ImagePart))

    @property
    def question(self) -> str:
        """The texts of the last message."""
        return " ".join(part.text for part in self.messages[-1].parts if isinstance(part, Text)).strip()


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """What one step says.

    Attributes:
        value: a label, a text, or what JSON holds.
        confidence: in [0, 1], calibrated where the step is; None when the model gave no probabilities.
        margin: between the probabilities of the two likeliest labels, for `classify` alone.
        problem: why JSON does not fit the cascade's schema; None when it does.
        probabilities: of each label, calibrated where the step is, for `classify` alone.
        logits: of each label before temperature and softmax, in the labels' order, for `classify` alone.
    """

    value: Any
    confidence: float | None = None
    margin: float | None = None
    problem: str | None = None
    probabilities: Mapping[str, float] | None = None
    logits: tuple[float, ...] | None = None


Function = Callable[[StepAnswer, StepAnswer | None], bool]
"""A rule of someone's own: the step's answer and the one before it; whether it is accepted."""


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One call of a step, or a step that was not reached.

    Attributes:
        model: the model or provider asked.
        threshold: what the rule compared with; None when it has none.
        seconds: of the call, waiting included.
        why: for a person: why the answer was accepted, why it went on, or how it failed.
        failure: kind of the error, for a failed call.
        error: stable code of the error, for a failed call.
    """

    step: str
    model: str
    result: Result
    why: str
    answer: Any = None
    confidence: float | None = None
    margin: float | None = None
    threshold: float | None = None
    seconds: float = 0.0
    usage: Usage = _NOTHING
    cached: bool = False
    failure: FailureClass | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class CascadeResult:
    """A cascade's answer with how it was come by.

    Attributes:
        step: whose answer it is.
        model: that answered.
        outcome: what the policy makes of it; None without one.
        accepted: a step's rule accepted it; otherwise it is what the last steps left.
        degraded: a later step should have been asked and could not be.
        calibrated: every threshold on the way is a certified one.
        gear: name of the gear; None in the normal one.
        seconds: of all steps together.
    """

    cascade: str
    value: Any
    confidence: float | None
    step: str
    model: str
    outcome: Outcome | None
    accepted: bool
    degraded: bool
    calibrated: bool
    gear: str | None
    seconds: float
    trace: tuple[TraceEntry, ...] = field(default=())

    @property
    def usage(self) -> Usage:
        """Of all calls together."""
        return sum((entry.usage for entry in self.trace), _NOTHING)

    @property
    def escalated(self) -> bool:
        """More than the first step was called."""
        return len({entry.step for entry in self.trace if entry.result != "skipped"}) > 1
