"""The `cascades` section of a cluster file: steps over models and providers, with a rule for when to go on.

`serve.config.cascade_checks` checks what needs more than one section.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from serve.calibration.file import Calibration
from serve.config.model_base import Name, Section
from serve.resilience.failures import FailureClass

Shape = Literal["label", "text", "json"]
Task = Literal["classify", "choose", "answer", "caption", "extract"]
Rule = Literal["confidence", "margin", "agreement", "schema", "python", "always"]
Outcome = Literal["allow", "block", "review"]

END = "end"
# Which shape of answer each task gives, and what a model must be able to do for it.
SHAPE_OF: Mapping[Task, Shape] = {
    "classify": "label",
    "choose": "label",
    "answer": "text",
    "caption": "text",
    "extract": "json",
}


class Accept(Section):
    """When a step's answer is good enough to be given."""

    rule: Rule = Field(
        "always",
        description="`confidence`: the calibrated probability of the answer; `margin`: between the two likeliest "
        "labels; `agreement`: the step before said the same; `schema`: the JSON fits; `python`: a function; `always`.",
    )
    at_least: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Least confidence or margin. Not calibrated: a threshold of the calibration file takes its place.",
    )
    function: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="For `python`: `package.module:function`, importable on every node; takes the step's answer and "
        "the one before (serve.cascade.types.StepAnswer, or none), returns whether it is accepted.",
    )

    @model_validator(mode="after")
    def _fitting(self) -> Accept:
        if (self.function is not None) != (self.rule == "python"):
            raise ValueError(
                f"rule is {self.rule!r} and function is {self.function!r}; `python` and function go together"
            )
        if self.at_least is not None and self.rule not in ("confidence", "margin"):
            raise ValueError(f"rule is {self.rule!r}, which has no threshold; leave at_least out")
        if self.at_least is None and self.rule == "margin":
            raise ValueError("rule is 'margin', which is never calibrated; at_least is required")
        return self


class Fallback(Section):
    """Who is asked instead when a step's model fails in one of some ways."""

    on: tuple[FailureClass, ...] = Field(min_length=1, description="Kinds of failure.")
    use: str = Field(description="Name of a model or provider of this file, asked the same.")


class CascadeStep(Section):
    """One step of a cascade."""

    name: Name = Field(description="Name of the step; `end` is taken.")
    use: str = Field(description="Name of a model or provider of this file.")
    task: Task = Field(
        description="`classify`: zero-shot, over the cascade's labels; `choose`: a chat model picks a label; `answer`: "
        "a question's answer; `caption`: a text about the image; `extract`: JSON."
    )
    accept: Accept = Field(Accept(), description="When its answer is given.")
    next: str | None = Field(None, description="Step to go on to when it is not; the following one, or `end`.")
    deadline_share: float | None = Field(
        None, gt=0, le=1, description="Share of the time left that it may take; by default shared evenly with the rest."
    )
    prompt: str | None = Field(
        None,
        min_length=1,
        description="What a chat model is asked; `{question}` and `{labels}` are filled in. Each task has a default.",
    )
    parse: Literal["text", "json"] = Field(
        "text",
        description="For `choose`: the label as plain text, or as JSON that the engine is held to (an enumeration).",
    )
    max_tokens: int = Field(64, ge=1, le=4096, description="Most tokens of its answer.")
    fallback: tuple[Fallback, ...] = Field(
        (), description="Tried in order, each once; the first that covers the failure."
    )

    @model_validator(mode="after")
    def _consistent(self) -> CascadeStep:
        if self.name == END:
            raise ValueError(f"a step is named {END!r}, which means the end; choose another name")
        if self.accept.rule == "margin" and self.task != "classify":
            raise ValueError(f"rule is 'margin', task is {self.task!r}; only classify has probabilities of all labels")
        if self.accept.rule == "schema" and self.task != "extract":
            raise ValueError(f"rule is 'schema', task is {self.task!r}; only extract gives JSON")
        if self.parse == "json" and self.task != "choose":
            raise ValueError(f"parse is 'json', task is {self.task!r}; it is for choose (extract always gives JSON)")
        if self.prompt is not None and self.task == "classify":
            raise ValueError("task is 'classify', which takes no prompt; its wordings are the cascade's templates")
        return self


class Policy(Section):
    """What is done with each label: every label stands in exactly one list."""

    allow: tuple[str, ...] = Field((), description="Labels that are let through.")
    block: tuple[str, ...] = Field((), description="Labels that are refused.")
    review: tuple[str, ...] = Field((), description="Labels that a person looks at.")
    review_below: float = Field(
        0.0, ge=0, le=1, description="Less confident answers are reviewed, whatever their label; 0 for none."
    )

    def outcome(self, label: str) -> Outcome:
        """What the lists say of a label."""
        return "allow" if label in self.allow else "block" if label in self.block else "review"


class Shadow(Section):
    """Accepted answers that the next step checks, off the critical path."""

    share: float = Field(0.0, ge=0, le=1, description="Share of accepted requests, chosen by their request ids.")
    alarm_error: float = Field(
        0.05, gt=0, lt=1, description="Share of disagreements above which the drift alarm is raised (sequential test)."
    )
    deadline_s: float = Field(30, gt=0, description="Seconds that such a check may take.")
    max_in_flight: int = Field(4, ge=1, le=64, description="Checks at a time in a router replica; more are dropped.")


class Gear(Section):
    """What changes while the load is above one of two bounds."""

    name: Name = Field(description="Shown in the `x-argus-gear` header and in metrics.")
    above_queue_wait_ms: float | None = Field(None, gt=0, description="Mean wait for a model, in milliseconds.")
    above_requests_per_s: float | None = Field(None, gt=0, description="Arrivals a second in a router replica.")
    thresholds: dict[Name, float] = Field({}, description="By step, in place of its threshold; each from 0 to 1.")
    max_tokens: int | None = Field(None, ge=1, description="Most tokens of any step's answer.")
    max_image_side: int | None = Field(
        None, ge=64, description="Longest side of images sent to chat models, in pixels; larger ones are shrunk."
    )
    api_overflow: bool = Field(
        False, description="A step whose fallbacks hold a provider asks it at once, without trying its model first."
    )

    @model_validator(mode="after")
    def _bounded(self) -> Gear:
        if self.above_queue_wait_ms is None and self.above_requests_per_s is None:
            raise ValueError("has no bound; give above_queue_wait_ms or above_requests_per_s")
        for step, threshold in self.thresholds.items():
            if not 0 <= threshold <= 1:
                raise ValueError(f"threshold of {step!r} is {threshold:g}; it must be from 0 to 1")
        return self


class Cascade(Section):
    """A list of steps over models and providers: cheap ones first, stronger ones for what those leave open."""

    answer: Shape = Field(description="Shape of the answer; every step must give it: a `label`, a `text` or `json`.")
    steps: tuple[CascadeStep, ...] = Field(min_length=1, description="The first one begins.")
    labels: tuple[str, ...] = Field((), description="For `label`: the answers to choose from.")
    templates: str | tuple[str, ...] = Field(
        "default",
        description="For `classify`: name of a template set (default, plain, ensemble), or prompts with one {}.",
    )
    json_schema: dict[str, Any] | None = Field(None, description="For `json`: what the answer must fit.")
    policy: Policy | None = Field(None, description="For `label`: allow, block or review; no outcome when left out.")
    calibration: Calibration | str | None = Field(
        None,
        description="Calibration file, `./NAME` from this file, or `demo:NAME` for one shipped in demo/calibrations; "
        "`argus calibrate` writes it. None leaves thresholds uncalibrated.",
    )
    deadline_s: float = Field(
        10, gt=0, description="Longest time for all steps; a client's shorter deadline holds too."
    )
    on_failure: Literal["best_answer", "error"] = Field(
        "best_answer",
        description="When no step accepts and the last one fails: the latest answer that was not accepted, marked "
        "`degraded`, or the error.",
    )
    shadow: Shadow = Field(Shadow(), description="Checks of accepted answers.")
    gears: tuple[Gear, ...] = Field(
        (), description="By rising load; below the first one's bounds the file holds as it is."
    )
    gear_hold_s: float = Field(10, ge=0, description="Seconds that the load must stay lower before a gear is left.")

    @property
    def evidence(self) -> Calibration | None:
        """The calibration, once the file has been read."""
        return self.calibration if isinstance(self.calibration, Calibration) else None

    def step(self, name: str) -> CascadeStep:
        """A step by its name."""
        return next(step for step in self.steps if step.name == name)

    def after(self, step: CascadeStep) -> CascadeStep | None:
        """Where `step` goes on to; None for the end."""
        if step.next == END:
            return None
        if step.next is not None:
            return self.step(step.next)
        position = [one.name for one in self.steps].index(step.name) + 1
        return self.steps[position] if position < len(self.steps) else None
