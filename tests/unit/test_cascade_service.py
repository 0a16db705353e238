"""Gears, shadows, functions of one's own, and what is reported of all of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from PIL import Image

from deployments.generation.messages import ImagePart
from deployments.messages import EncodedImage
from serve.calls import Usage
from serve.cascade.drift import DriftTest
from serve.cascade.entry import functions
from serve.cascade.gears import GearBox
from serve.cascade.recorder import Ran, ShadowResult
from serve.cascade.service import CascadeService
from serve.cascade.types import StepAnswer
from serve.chat import ChatService
from serve.config.load import ConfigErrors
from serve.context import RequestContext
from serve.dataplane import DataPlane
from serve.errors import Cancelled, InvalidRequest, NotFound, Unavailable
from serve.media.admit import MediaDoor
from serve.media.image import ImageLimits
from serve.media.source import MediaBytes
from serve.resilience.load import Load
from tests.unit.cascade_fakes import FakeCalls, Says, file, guard
from tests.unit.fakes import FakeFetcher, png

SURE, UNSURE = Says(logits=(9, 0, 0)), Says(logits=(1.5, 0, 0))
CALM, BUSY, FULL = Load(0.0, 0.0), Load(0.06, 0.0), Load(0.5, 0.0)
GEARS = [
    {"name": "busy", "above_queue_wait_ms": 50, "thresholds": {"screen": 0.5}},
    {"name": "full", "above_queue_wait_ms": 200, "max_tokens": 5, "max_image_side": 64, "api_overflow": True},
]


class Reported:
    """A `CascadeRecorder` that keeps everything."""

    def __init__(self) -> None:
        self.runs: list[Ran] = []
        self.shadows: list[tuple[str, ShadowResult]] = []
        self.alarms: list[bool] = []
        self.uncalibrated: dict[str, bool] = {}
        self.levels: list[int] = []

    def ran(self, ran: Ran) -> None:
        self.runs.append(ran)

    def shadowed(self, cascade: str, step: str, result: ShadowResult) -> None:
        self.shadows.append((step, result))

    def drifting(self, cascade: str, step: str, alarm: bool, evidence: float) -> None:
        self.alarms.append(alarm)
        self.evidence = evidence

    def calibrated(self, cascade: str, calibrated: bool) -> None:
        self.uncalibrated[cascade] = not calibrated

    def geared(self, cascade: str, level: int) -> None:
        self.levels.append(level)


class Made:
    """A service over scripted models."""

    def __init__(self, cascade: dict[str, Any], **says: list[Says]) -> None:
        cluster = file(it=cascade)
        self.calls = FakeCalls(says)
        self.load = CALM
        self.reported = Reported()
        door = MediaDoor(ImageLimits(), FakeFetcher({}))
        chat = ChatService(cluster, DataPlane(cluster, {}, self.calls, door), self.calls, door)
        self.service = CascadeService(
            cluster,
            self.calls,
            chat,
            ImageLimits(),
            self.reported,
            load=lambda: self.load,
            gears=lambda one: GearBox(one.gears, one.gear_hold_s),
            drift=lambda shadow: DriftTest(shadow.alarm_error),
            clock=self.calls.clock,
        )

    def context(self, request_id: str = "r1") -> RequestContext:
        return RequestContext(request_id, "tester", self.calls.now + 30)

    async def ask(self, data: bytes | None = None, request_id: str = "r1", question: str | None = None) -> Any:
        image = MediaBytes(data or png(), None)
        return await self.service.ask("it", image, question, self.context(request_id), param="image")


async def test_a_gear_lowers_the_threshold_while_the_load_is_high() -> None:
    made = Made(guard(gears=GEARS, gear_hold_s=5), clip=[UNSURE], llava=[Says("gun")])
    assert (await made.ask()).step == "analyse"
    made.load = BUSY
    fast = await made.ask()
    assert (fast.step, fast.gear, fast.trace[0].threshold) == ("screen", "busy", 0.5)
    assert made.service.card("it").gear == "busy"
    made.load = CALM
    assert (await made.ask()).gear == "busy", "it is held for a while"
    made.calls.now += 6
    assert (await made.ask()).gear is None
    assert made.reported.levels == [1, 0]


async def test_the_first_request_after_a_quiet_time_is_served_in_the_normal_gear() -> None:
    made = Made(guard(gears=GEARS, gear_hold_s=5), clip=[UNSURE], llava=[Says("gun")])
    made.load = BUSY
    assert (await made.ask()).gear == "busy"
    made.load = CALM
    made.calls.now += 5
    assert (await made.ask()).gear is None


async def test_what_is_told_of_a_gear_does_not_wait_for_a_request() -> None:
    made = Made(guard(gears=GEARS, gear_hold_s=0.01), clip=[UNSURE], llava=[Says("gun")])
    made.load = BUSY
    await made.ask()
    made.load = CALM
    made.calls.now += 60
    for _ in range(12_000):
        if made.reported.levels == [1, 0]:
            break
        await asyncio.sleep(0.01)
    assert made.service.card("it").gear is None


async def test_a_gear_saves_tokens_and_pixels_and_asks_providers_at_once() -> None:
    made = Made(guard(gears=GEARS), clip=[UNSURE], llava=[Says("gun")], gpt=[Says("gun"), Says(error=Unavailable("x"))])
    made.load = FULL
    result = await made.ask(png(size=(400, 200)))
    assert [(entry.model, entry.result) for entry in result.trace] == [("clip", "went_on"), ("gpt", "accepted")]
    name, request, *_ = made.calls.asked[-1]
    assert name == "gpt"
    assert request.sampling.max_tokens == 5
    (shown,) = [part.image for part in request.messages[0].parts if isinstance(part, ImagePart)]
    assert isinstance(shown, EncodedImage)
    with Image.open(__import__("io").BytesIO(shown.data)) as picture:
        assert picture.size == (64, 32)
    back = await made.ask()
    assert [entry.model for entry in back.trace] == ["clip", "gpt", "llava"], (
        "the model is the provider's fallback then"
    )


async def test_a_share_of_accepted_answers_is_checked_afterwards() -> None:
    made = Made(guard(shadow={"share": 0.5}), clip=[SURE], llava=[Says("safe")])
    for i in range(40):
        await made.ask(request_id=f"r{i}")
        await made.service.drained()
    checks = made.calls.names().count("llava")
    assert 8 < checks < 32
    assert made.reported.shadows == [("screen", "agreed")] * checks
    assert all(not alarm for alarm in made.reported.alarms)
    shadowed = [c for (name, *_), c in zip(made.calls.asked, made.calls.contexts, strict=True) if name == "llava"]
    assert {(c.client, c.priority) for c in shadowed} == {("shadow", "low")}
    assert all(len(ran.trace) == 1 for ran in made.reported.runs), "the client's trace knows nothing of it"


async def test_accepted_answers_that_turn_wrong_raise_the_alarm() -> None:
    made = Made(guard(shadow={"share": 1.0, "alarm_error": 0.05}), clip=[SURE], llava=[Says("gun")])
    for i in range(60):
        await made.ask(request_id=f"r{i}")
        await made.service.drained()
    assert made.reported.shadows[0] == ("screen", "disagreed")
    assert made.reported.alarms[-1] and made.reported.evidence >= 100
    assert not made.reported.alarms[0]
    assert made.service.card("it").drifting == ("screen",)


async def test_checks_are_bounded_and_may_fail() -> None:
    made = Made(guard(shadow={"share": 1.0, "max_in_flight": 2}), clip=[SURE], llava=[Says(error=Unavailable("x"))])
    await asyncio.gather(*(made.ask(request_id=f"r{i}") for i in range(5)))
    await made.service.drained()
    assert sorted(result for _, result in made.reported.shadows) == ["dropped"] * 3 + ["failed"] * 2
    assert made.reported.alarms == [], "a check that failed says nothing of the answer"


async def test_what_is_escalated_needs_no_check() -> None:
    made = Made(guard(shadow={"share": 1.0}), clip=[UNSURE], llava=[Says("gun")])
    await made.ask()
    await made.service.drained()
    assert made.calls.names() == ["clip", "llava"]
    assert made.reported.shadows == []


async def test_what_is_reported() -> None:
    made = Made(guard(), clip=[SURE, UNSURE, UNSURE], llava=[Says("gun"), Says("what?")])
    for _ in range(3):
        await made.ask()
    assert made.reported.uncalibrated == {"it": True}
    assert [(ran.result, ran.outcome, ran.escalated) for ran in made.reported.runs] == [
        ("ok", "allow", False),
        ("ok", "block", True),
        ("degraded", "review", True),
    ]
    assert [ran.path for ran in made.reported.runs] == [guard()["steps"][n]["name"] for n in (0, 1, 0)]
    assert made.reported.runs[1].seconds == pytest.approx(0.2)
    broken = Made(guard(), clip=[Says(error=Unavailable("a"))], llava=[Says("?")])
    with pytest.raises(Exception, match="none of the labels"):
        await broken.ask()
    assert (broken.reported.runs[0].result, broken.reported.runs[0].fault) == ("invalid_output", "server")
    assert broken.reported.runs[0].path == "none"
    assert {ran.fault for ran in made.reported.runs} == {"none"}


async def test_a_caller_who_does_not_wait_is_reported() -> None:
    made = Made(guard(), clip=[Says(error=Cancelled("Gone."))])
    with pytest.raises(Cancelled):
        await made.ask()
    assert [(ran.result, ran.fault, ran.escalated) for ran in made.reported.runs] == [("cancelled", "gone", False)]


async def test_an_answer_that_needed_no_paid_step_saves_its_usual_price() -> None:
    made = Made(
        guard(steps=[*guard()["steps"][:1], {"name": "hosted", "use": "gpt", "task": "choose"}]),
        clip=[SURE, UNSURE, SURE],
        gpt=[Says("gun", usage=Usage(usd=0.01))],
    )
    for _ in range(3):
        await made.ask()
    assert [ran.saved_usd for ran in made.reported.runs] == [0, 0, pytest.approx(0.01)]


async def test_what_a_cascade_needs() -> None:
    made = Made(guard(), clip=[SURE])
    with pytest.raises(InvalidRequest, match="needs an image"):
        await made.service.ask("it", None, None, made.context(), param="image")
    with pytest.raises(NotFound, match="there are it"):
        await made.service.ask("that", None, None, made.context(), param="image")
    answer = {"answer": "text", "steps": [{"name": "a", "use": "llava", "task": "answer"}]}
    asking = Made(answer, llava=[Says("hello")])
    with pytest.raises(InvalidRequest, match="needs a question"):
        await asking.ask()
    assert (await asking.service.ask("it", None, "Who?", asking.context(), param="image")).value == "hello"
    intent = {"name": "a", "use": "llava", "task": "choose", "prompt": "{labels}: which is {question}?"}
    reading = Made({"answer": "label", "labels": ["praise", "blame"], "steps": [intent]}, llava=[Says("praise")])
    read = await reading.service.ask("it", None, "Well done!", reading.context(), param="image")
    assert read.value == "praise", "words alone are enough for a step that is asked about words"


def likes_short(answer: StepAnswer, before: StepAnswer | None) -> bool:
    """A rule of someone's own."""
    return len(str(answer.value)) <= 4


async def test_a_function_of_ones_own_decides() -> None:
    cascade = guard()
    cascade["steps"][0]["accept"] = {"rule": "python", "function": "tests.unit.test_cascade_service:likes_short"}
    made = Made(cascade, clip=[Says(logits=(0, 1, 0)), Says(logits=(1, 0, 0))], llava=[Says("gun")])
    assert (await made.ask()).step == "analyse", "knife is too long"
    assert (await made.ask()).step == "screen"


@pytest.mark.parametrize(
    ("path", "said"),
    [("no.such.module:f", "cannot be imported"), ("json:nothing", "cannot be"), ("json:__doc__", "no f")],
)
def test_a_function_that_is_not_there(path: str, said: str) -> None:
    cascade = guard()
    cascade["steps"][0]["accept"] = {"rule": "python", "function": path}
    with pytest.raises(ConfigErrors) as caught:
        functions("it", file(it=cascade).cascades["it"])
    assert caught.value.problems[0].startswith(f"cascades.it.steps.0.accept.function: got '{path}'")
    assert said in caught.value.problems[0]
