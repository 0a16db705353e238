"""Runs a cascade: step by step, within the deadline, with a decision after each and a trace of all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

from serve import tracing
from serve.cascade import rules
from serve.cascade.steps import StepCaller, Taken
from serve.cascade.types import Asked, CascadeResult, Function, StepAnswer, TraceEntry
from serve.config.cascades import Cascade, CascadeStep, Fallback, Gear
from serve.context import RequestContext
from serve.errors import ArgusError, Cancelled, DeadlineExceeded, InvalidMedia, InvalidOutput
from serve.resilience.failures import FailureClass, failure_class

_ANY: tuple[FailureClass, ...] = get_args(FailureClass)


@dataclass(frozen=True, slots=True)
class Failed:
    """A cascade without an answer: the error that its caller gets, and what happened before it."""

    error: ArgusError
    trace: tuple[TraceEntry, ...]


class Runner:
    """Runs one cascade.

    Args:
        functions: of steps with rule `python`, by step.
        providers: names of the models that others host.
        clock: like `time.monotonic`, on which deadlines are.
        entered: told each step that a request enters, and whether in the normal gear.
    """

    def __init__(
        self,
        name: str,
        cascade: Cascade,
        caller: StepCaller,
        functions: Mapping[str, Function],
        providers: frozenset[str],
        clock: Callable[[], float] = time.monotonic,
        entered: Callable[[str, bool], None] = lambda step, plain: None,
    ) -> None:
        self._name = name
        self._cascade = cascade
        self._caller = caller
        self._functions = functions
        self._providers = providers
        self._clock = clock
        self._entered = entered
        self._calibrated = rules.is_calibrated(cascade)

    async def run(self, asked: Asked, context: RequestContext, gear: Gear | None) -> CascadeResult | Failed:
        """Answers, or says why not. Only a caller that goes away makes this raise."""
        started = self._clock()
        deadline = min(context.deadline, started + self._cascade.deadline_s)
        run = _Run(asked, replace(context, deadline=deadline), gear)
        step: CascadeStep | None = self._cascade.steps[0]
        while step is not None:
            following = self._cascade.after(step)
            self._entered(step.name, gear is None)
            try:
                taken = await self._step(step, following, run)
            except ArgusError as error:
                if isinstance(error, Cancelled):
                    raise
                run.error = error
                if _ends(error) or run.out_of_time:
                    break
            else:
                if taken.accepted:
                    return self._result(taken, run, started)
                run.error = None
                run.best = taken
            step = following
        return self._left(run, started)

    async def one(self, step: CascadeStep, asked: Asked, context: RequestContext) -> StepAnswer:
        """One step's answer without decisions and fallbacks, for checks and calibration.

        Raises:
            ArgusError: the call's.
        """
        return (await self._caller.ask(step, step.use, asked, context, None, fallback=False)).answer

    def _left(self, run: _Run, started: float) -> CascadeResult | Failed:
        """What there is when no step has accepted."""
        if run.best is not None and (run.error is None or self._cascade.on_failure == "best_answer"):
            return self._result(run.best, run, started, degraded=run.error is not None)
        assert run.error is not None, "without an answer there is an error"
        return Failed(run.error, tuple(run.trace))

    async def _step(self, step: CascadeStep, following: CascadeStep | None, run: _Run) -> _Taken:
        """A step's answer and its verdict: of its own model, or of the fallbacks that its failures lead to.

        Raises:
            ArgusError: the last model's.
        """
        use, options = self._order(step, run.gear)
        onward = "ended" if following is None else f"went on to {following.name}"
        while True:
            own = self._own_deadline(step, use, run)
            began, noted = self._clock(), len(run.trace)
            span = tracing.start("step")
            try:
                with tracing.use(span):
                    # The next step is no fallback: it costs more, and a queue here must not hurry requests there.
                    taken = await self._caller.ask(step, use, run.asked, own, run.gear, fallback=bool(options))
                if taken.answer.problem is not None and step.accept.rule != "schema":
                    raise InvalidOutput(f"Model {use!r}: {taken.answer.problem}.")
            except ArgusError as error:
                kind = failure_class(error)
                other = next((option for option in options if kind in option.on), None)
                then = f"fell back to {other.use}" if other else "ended" if _ends(error) else onward
                why, seconds = f"{error.message} ({then})", self._clock() - began
                run.trace.append(
                    TraceEntry(step.name, use, "failed", why, seconds=seconds, failure=kind, error=error.code)
                )
                if other is None:
                    raise
                options = [option for option in options if option.use != other.use]
                use = other.use
            else:
                return self._decided(step, use, taken, onward, run)
            finally:
                if span is not None:
                    _end(span, step, use, run.trace[noted:])

    def _own_deadline(self, step: CascadeStep, use: str, run: _Run) -> RequestContext:
        """The context of one call.

        Raises:
            DeadlineExceeded: no time is left for it.
        """
        now = self._clock()
        left = run.context.deadline - now
        if left <= 0:
            run.out_of_time = True
            run.trace.append(TraceEntry(step.name, use, "skipped", "no time was left"))
            raise DeadlineExceeded(f"No time was left for step {step.name!r} of the cascade.")
        seconds = rules.step_seconds(left, step.deadline_share, self._steps_from(step), in_hand=run.best is not None)
        return replace(run.context, deadline=now + seconds)

    def _decided(self, step: CascadeStep, use: str, taken: Taken, onward: str, run: _Run) -> _Taken:
        """Applies the step's rule, and notes why.

        Raises:
            InvalidOutput: the rule asks whether JSON fits, and it does not.
        """
        answer, called = taken.answer, taken.called
        evidence = None if self._cascade.evidence is None else self._cascade.evidence.steps.get(step.name)
        threshold = rules.threshold_of(step, evidence, run.gear)
        before = None if run.best is None else run.best.answer
        verdict = rules.judge(step.accept, answer, before, threshold, self._functions.get(step.name))
        run.trace.append(
            TraceEntry(
                step.name,
                use,
                "accepted" if verdict.accepted else "went_on",
                verdict.why if verdict.accepted else f"{verdict.why} ({onward})",
                answer.value,
                answer.confidence,
                answer.margin,
                threshold,
                called.seconds,
                called.usage,
                called.cached,
            )
        )
        if answer.problem is not None:
            raise InvalidOutput(f"Model {use!r}: {answer.problem}.")
        return _Taken(step, use, answer, verdict.accepted)

    def _order(self, step: CascadeStep, gear: Gear | None) -> tuple[str, list[Fallback]]:
        """Who is asked first, and who may be asked after it. In overflow that is the first provider among them."""
        options = list(step.fallback)
        if gear is not None and gear.api_overflow and step.use not in self._providers:
            provider = next((option for option in options if option.use in self._providers), None)
            if provider is not None:
                rest = [option for option in options if option.use != provider.use]
                return provider.use, [Fallback(on=_ANY, use=step.use), *rest]
        return step.use, options

    def _steps_from(self, step: CascadeStep) -> int:
        count, at = 0, step
        while True:
            count += 1
            following = self._cascade.after(at)
            if following is None:
                return count
            at = following

    def _result(self, taken: _Taken, run: _Run, started: float, *, degraded: bool = False) -> CascadeResult:
        answer = taken.answer
        return CascadeResult(
            self._name,
            answer.value,
            answer.confidence,
            taken.step.name,
            taken.use,
            rules.outcome_of(
                self._cascade.policy, str(answer.value), answer.confidence, accepted=taken.accepted, degraded=degraded
            ),
            taken.accepted,
            degraded,
            self._calibrated,
            None if run.gear is None else run.gear.name,
            self._clock() - started,
            tuple(run.trace),
        )


def _ends(error: ArgusError) -> bool:
    """Whether a step's failure, for which it declares no fallback, ends the cascade.

    What is wrong with the picture is wrong for every step. And a step that is refused for want of capacity or money
    must not send its requests on to a dearer one, or an overload of the first would become one of them all.
    """
    return isinstance(error, InvalidMedia) or failure_class(error) in ("rate_limited", "over_budget")


def _end(span: tracing.Span, step: CascadeStep, use: str, noted: list[TraceEntry]) -> None:
    """Ends the span of a step's call.

    Args:
        noted: the call's entry; empty when whoever asked has left.
    """
    span.set_attributes({"argus.step": step.name, "argus.model": use})
    for entry in noted:
        span.set_attributes({"argus.result": entry.result, "argus.cached": entry.cached, "argus.usd": entry.usage.usd})
        if entry.confidence is not None:
            span.set_attribute("argus.confidence", entry.confidence)
        if entry.threshold is not None:
            span.set_attribute("argus.threshold", entry.threshold)
        if entry.error is not None:
            tracing.fail(span, entry.error)
    span.end()


@dataclass(frozen=True, slots=True)
class _Taken:
    step: CascadeStep
    use: str
    answer: StepAnswer
    accepted: bool


@dataclass(slots=True)
class _Run:
    """One request on its way.

    Attributes:
        best: the latest answer, which no rule has accepted.
        error: of the step after it; None when that is the last one that was asked.
    """

    asked: Asked
    context: RequestContext
    gear: Gear | None
    trace: list[TraceEntry] = field(default_factory=list)
    best: _Taken | None = None
    error: ArgusError | None = None
    out_of_time: bool = False
