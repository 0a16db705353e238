"""The cascades of a cluster file, ready to be asked: what every skin calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from deployments.generation.messages import Sampling
from serve import tracing
from serve.calls import Questions
from serve.cascade import rules
from serve.cascade.entry import functions
from serve.cascade.recorder import CascadeRecorder, Ran
from serve.cascade.run import Failed, Runner
from serve.cascade.savings import Savings
from serve.cascade.shadow import DriftTest, Shadows
from serve.cascade.steps import StepCaller
from serve.cascade.types import Asked, CascadeResult
from serve.chat import ChatService, Medium, Turn
from serve.config.cascades import Cascade, CascadeStep, Gear, Shadow
from serve.config.cluster import ClusterFile
from serve.config.models import GenerativeModel
from serve.context import RequestContext
from serve.errors import Cancelled, InvalidRequest, NotFound
from serve.media.admit import MediaSource
from serve.media.image import ImageLimits
from serve.resilience.load import Load

# Most images of one question, where the models of its steps state no bound of their own.
_MOST_IMAGES = 16
# Least time between two looks at an engaged gear that no request asks for.
_LOOK_S = 0.1


class Shifting(Protocol):
    """Which gear a cascade runs in."""

    def shift(self, load: Load, now: float) -> int:
        """The level from `now` on; 0 is the normal gear."""
        ...


@dataclass(frozen=True, slots=True)
class CascadeCard:
    """What the API tells of a cascade.

    Attributes:
        uses: every model and provider that it may ask, in the order of its steps.
        calibrated: every threshold is a certified one.
        gear: the name of the present one; None for the normal one.
        drifting: steps whose drift alarm is raised.
    """

    name: str
    cascade: Cascade
    uses: tuple[str, ...]
    calibrated: bool
    gear: str | None
    drifting: tuple[str, ...]


@dataclass(slots=True)
class _Ready:
    cascade: Cascade
    runner: Runner
    shadows: Shadows
    savings: Savings
    gears: Shifting | None
    most_images: int
    level: int = 0
    looking: asyncio.TimerHandle | None = None

    @property
    def gear(self) -> Gear | None:
        return self.cascade.gears[self.level - 1] if self.level else None


class CascadeService:
    """See the module's text.

    Args:
        chat: admits the media of conversations.
        load: how loaded the models are now, for gears.
        gears: makes the gear box of a cascade that has gears.
        drift: makes the drift test of a step.
        entered: told each cascade and step that a request enters, and whether in the normal gear.

    Raises:
        ConfigErrors: a function that the file names cannot be imported.
    """

    def __init__(
        self,
        cluster: ClusterFile,
        calls: Questions,
        chat: ChatService,
        limits: ImageLimits,
        recorder: CascadeRecorder,
        *,
        load: Callable[[], Load],
        gears: Callable[[Cascade], Shifting],
        drift: Callable[[Shadow], DriftTest],
        entered: Callable[[str, str, bool], None] = lambda cascade, step, plain: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chat = chat
        self._recorder = recorder
        self._load = load
        self._clock = clock
        self._ready: dict[str, _Ready] = {}
        for name, cascade in cluster.cascades.items():
            caller = StepCaller(cluster, cascade, calls, limits)
            runner = Runner(
                name,
                cascade,
                caller,
                functions(name, cascade),
                frozenset(cluster.providers),
                clock,
                partial(entered, name),
            )
            self._ready[name] = _Ready(
                cascade,
                runner,
                Shadows(name, cascade, runner, recorder, drift),
                Savings(_last(cascade).name),
                gears(cascade) if cascade.gears else None,
                _most_images(cluster, cascade),
            )
            recorder.calibrated(name, rules.is_calibrated(cascade))

    def names(self) -> list[str]:
        """Every cascade."""
        return list(self._ready)

    def cards(self) -> list[CascadeCard]:
        """Every cascade with its state."""
        return [self.card(name) for name in self._ready]

    def card(self, name: str) -> CascadeCard:
        """One cascade with its state.

        Raises:
            NotFound: there is none of that name.
        """
        ready = self._find(name)
        gear = ready.gear
        uses = [use for step in ready.cascade.steps for use in (step.use, *(other.use for other in step.fallback))]
        return CascadeCard(
            name,
            ready.cascade,
            tuple(dict.fromkeys(uses)),
            rules.is_calibrated(ready.cascade),
            None if gear is None else gear.name,
            tuple(sorted(ready.shadows.alarms)),
        )

    async def ask(
        self, name: str, image: MediaSource | None, question: str | None, context: RequestContext, *, param: str
    ) -> CascadeResult:
        """Asks about one image, or without one.

        Args:
            param: the request field that the image came from.

        Raises:
            ArgusError: what is wrong with the request, or why no step could answer.
        """
        ready = self._find(name)
        needs = _needs(ready.cascade)
        if image is None and needs.image:
            raise InvalidRequest(f"Cascade {name!r} needs an image.", code="missing_field", param=param)
        if question is None and needs.question:
            raise InvalidRequest(f"Cascade {name!r} needs a question.", code="missing_field", param="question")
        shown = () if image is None else (Medium("image", image, param),)
        said = () if question is None else (question,)
        return await self.converse(name, [Turn("user", (*shown, *said))], None, context, key=param)

    async def converse(
        self,
        name: str,
        turns: Sequence[Turn],
        sampling: Sampling | None,
        context: RequestContext,
        *,
        key: str = "messages",
    ) -> CascadeResult:
        """Asks for the next turn of a conversation.

        Args:
            key: tells this question from others of the same request.

        Raises:
            ArgusError: see `ask`.
        """
        ready = self._find(name)
        if _needs(ready.cascade).image and not any(isinstance(part, Medium) for turn in turns for part in turn.parts):
            raise InvalidRequest(f"Cascade {name!r} needs an image.", code="missing_field", param=key)
        with tracing.span("cascade") as span:
            messages = await self._chat.admit(turns, context, asked=name, images=ready.most_images, videos=0)
            asked = Asked(messages, sampling)
            started = self._clock()
            try:
                result = await ready.runner.run(asked, context, self._shift(name, ready))
            except (Cancelled, asyncio.CancelledError):
                self._left(name, self._clock() - started)
                raise
            self._record(name, result, self._clock() - started)
            if span is not None:
                _describe(span, name, result)
            if isinstance(result, Failed):
                raise result.error
            ready.shadows.consider(result, asked, context, key)
            return result

    async def drained(self) -> None:
        """Returns when no check of an accepted answer is in progress."""
        for ready in self._ready.values():
            await ready.shadows.drained()

    def _find(self, name: str) -> _Ready:
        if name not in self._ready:
            known = ", ".join(self._ready) or "none"
            raise NotFound(
                f"Cascade {name[:80]!r} does not exist; there are {known}.", code="cascade_not_found", param="name"
            )
        return self._ready[name]

    def _shift(self, name: str, ready: _Ready) -> Gear | None:
        if ready.gears is not None:
            self._look(name, ready, ready.gears)
        return ready.gear

    def _look(self, name: str, ready: _Ready, gears: Shifting) -> None:
        """The gear that the present load asks for. While one is engaged it is looked at without requests as well: they
        may have ended, and what is told of it must not stay as it was."""
        level = gears.shift(self._load(), self._clock())
        if level != ready.level:
            ready.level = level
            self._recorder.geared(name, level)
        if level and ready.looking is None:
            pause = max(_LOOK_S, ready.cascade.gear_hold_s)
            ready.looking = asyncio.get_running_loop().call_later(pause, self._look_again, name, ready, gears)

    def _look_again(self, name: str, ready: _Ready, gears: Shifting) -> None:
        ready.looking = None
        self._look(name, ready, gears)

    def _left(self, name: str, seconds: float) -> None:
        """The caller did not wait for the answer; how far it had come is not known."""
        self._recorder.ran(Ran(name, Cancelled.default_code, "none", False, seconds, (), Cancelled.blame))

    def _record(self, name: str, result: CascadeResult | Failed, seconds: float) -> None:
        if isinstance(result, Failed):
            escalated = len({entry.step for entry in result.trace if entry.result != "skipped"}) > 1
            error = result.error
            self._recorder.ran(Ran(name, error.code, "none", escalated, seconds, result.trace, error.fault))
            return
        saved_usd = self._ready[name].savings.ended(result.trace)
        what = "degraded" if result.degraded else "ok" if result.accepted else "unsure"
        outcome = result.outcome or "none"
        self._recorder.ran(
            Ran(
                name,
                what,
                outcome,
                result.escalated,
                seconds,
                result.trace,
                path=result.step,
                saved_usd=saved_usd,
            )
        )


def _describe(span: tracing.Span, name: str, result: CascadeResult | Failed) -> None:
    span.set_attribute("argus.cascade", name)
    if isinstance(result, Failed):
        return
    span.set_attributes(
        {
            "argus.step": result.step,
            "argus.model": result.model,
            "argus.gear": result.gear or "normal",
            "argus.accepted": result.accepted,
            "argus.escalated": result.escalated,
            "argus.degraded": result.degraded,
            "argus.outcome": result.outcome or "none",
            "argus.usd": result.usage.usd,
        }
    )
    if result.confidence is not None:
        span.set_attribute("argus.confidence", result.confidence)


@dataclass(frozen=True, slots=True)
class _Needs:
    image: bool
    question: bool


def _last(cascade: Cascade) -> CascadeStep:
    """The step after which there is none."""
    step = cascade.steps[0]
    while (following := cascade.after(step)) is not None:
        step = following
    return step


def _needs(cascade: Cascade) -> _Needs:
    """What has to be in a question. A step that picks or extracts works on words alone when its prompt takes them."""
    worded = [step for step in cascade.steps if step.prompt is not None and "{question}" in step.prompt]
    return _Needs(
        image=any(
            step.task in ("classify", "caption") or (step.task in ("choose", "extract") and step not in worded)
            for step in cascade.steps
        ),
        question=bool(worded) or any(step.task == "answer" and step.prompt is None for step in cascade.steps),
    )


def _most_images(cluster: ClusterFile, cascade: Cascade) -> int:
    """What every step can be shown: CLIP looks at one image, a chat model at as many as its settings say."""
    bounds = [1 for step in cascade.steps if step.task == "classify"]
    for step in cascade.steps:
        for use in (step.use, *(other.use for other in step.fallback)):
            model = cluster.models.get(use)
            if isinstance(model, GenerativeModel):
                bounds.append(model.most_images)
    return min(bounds, default=_MOST_IMAGES)


def card_fields(card: CascadeCard) -> Mapping[str, object]:
    """A cascade as JSON."""
    return {
        "object": "cascade",
        "name": card.name,
        "answer": card.cascade.answer,
        "calibrated": card.calibrated,
        "gear": card.gear or "normal",
        "gears": [gear.name for gear in card.cascade.gears],
        "drifting": card.drifting,
        "labels": card.cascade.labels or None,
        "uses": card.uses,
        "steps": [
            {
                "name": step.name,
                "use": step.use,
                "task": step.task,
                "rule": step.accept.rule,
                "threshold": rules.threshold_of(
                    step,
                    None if card.cascade.evidence is None else card.cascade.evidence.steps.get(step.name),
                    None,
                ),
                "calibrated": card.cascade.evidence is not None and step.name in card.cascade.evidence.steps,
                "fallback": [other.use for other in step.fallback],
            }
            for step in card.cascade.steps
        ],
    }
