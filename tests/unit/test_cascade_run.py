"""What a cascade does: decisions, fallbacks, deadlines, and a trace that says all of it."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.generation.messages import ImagePart, Sampling
from serve.calls import Usage
from serve.cascade.run import Failed, Runner
from serve.cascade.steps import StepCaller
from serve.cascade.types import Asked, CascadeResult
from serve.config.cascades import Gear
from serve.errors import (
    ArgusError,
    BudgetExceeded,
    DeadlineExceeded,
    InvalidMedia,
    InvalidOutput,
    Overloaded,
    RateLimited,
    Unavailable,
)
from serve.media.image import ImageLimits
from tests.unit.cascade_fakes import FakeCalls, Says, asked, context, file, guard, texts

SURE, UNSURE = Says(logits=(9, 0, 0)), Says(logits=(1, 0.8, 0))
TEXT: dict[str, Any] = {
    "answer": "text",
    "steps": [
        {"name": "quick", "use": "blip2", "task": "answer", "accept": {"rule": "confidence", "at_least": 0.5}},
        {"name": "strong", "use": "llava", "task": "answer", "prompt": "Q: {question} A:"},
        {"name": "hosted", "use": "gpt", "task": "answer"},
    ],
}


def runner(calls: FakeCalls, cascade: dict[str, Any]) -> Runner:
    cluster = file(it=cascade)
    made = cluster.cascades["it"]
    caller = StepCaller(cluster, made, calls, ImageLimits())
    return Runner("it", made, caller, {}, frozenset(cluster.providers), calls.clock)


async def run(
    calls: FakeCalls,
    cascade: dict[str, Any] | None = None,
    given: Asked | None = None,
    *,
    seconds: float = 30.0,
    gear: Gear | None = None,
) -> CascadeResult:
    result = await runner(calls, cascade or guard()).run(given or asked(), context(calls, seconds), gear)
    assert isinstance(result, CascadeResult), result
    return result


async def failed(calls: FakeCalls, cascade: dict[str, Any], *, seconds: float = 30.0) -> Failed:
    result = await runner(calls, cascade).run(asked("What?"), context(calls, seconds), None)
    assert isinstance(result, Failed)
    return result


def walked(result: CascadeResult | Failed) -> list[tuple[str, str, str]]:
    return [(entry.step, entry.model, entry.result) for entry in result.trace]


async def test_a_sure_screen_answers_alone() -> None:
    calls = FakeCalls({"clip": [SURE]})
    result = await run(calls)
    assert (result.value, result.outcome, result.step, result.model) == ("safe", "allow", "screen", "clip")
    assert (result.accepted, result.degraded, result.escalated, result.calibrated) == (True, False, False, False)
    assert result.confidence == pytest.approx(0.99975, abs=1e-4)
    (entry,) = result.trace
    assert entry.why == "confidence 1.000 reaches 0.900"
    assert entry.threshold == 0.9
    assert entry.seconds == 0.1


async def test_an_unsure_one_goes_on() -> None:
    calls = FakeCalls({"clip": [UNSURE], "llava": [Says("Knife.", probability=0.8)]})
    result = await run(calls)
    assert walked(result) == [("screen", "clip", "went_on"), ("analyse", "llava", "accepted")]
    assert (result.value, result.outcome) == ("knife", "block")
    assert result.confidence == pytest.approx(0.8)
    assert "went on to analyse" in result.trace[0].why
    assert result.escalated
    assert result.seconds == pytest.approx(0.2)


async def test_a_calibrated_step_uses_its_temperature_and_its_threshold() -> None:
    from tests.unit.test_cascade_config import calibration

    cascade = guard(calibration={**calibration(temperature=3.0, threshold=0.8), "cascade": "it"})
    calls = FakeCalls({"clip": [Says(logits=(6, 0, 0))], "llava": [Says("gun")]})
    result = await run(calls, cascade)
    assert result.calibrated
    assert result.trace[0].threshold == 0.8
    # softmax(6/3, 0, 0) = 0.787, though softmax(6, 0, 0) = 0.995
    assert result.trace[0].confidence == pytest.approx(0.787, abs=1e-3)
    assert result.step == "analyse"


async def test_media_are_the_same_objects_in_every_step() -> None:
    given = asked()
    calls = FakeCalls({"clip": [UNSURE], "llava": [Says("gun")]})
    await run(calls, given=given)
    (_, classify, _, _), (_, chat, _, _) = calls.asked
    shown = [part.image for part in chat.messages[0].parts if isinstance(part, ImagePart)]
    assert classify.images[0] is given.images[0] is shown[0]


async def test_a_fallback_takes_over_by_the_kind_of_failure() -> None:
    calls = FakeCalls({"clip": [UNSURE], "llava": [Says(error=Unavailable("gone"))], "gpt": [Says("gun")]})
    result = await run(calls)
    assert walked(result)[1:] == [("analyse", "llava", "failed"), ("analyse", "gpt", "accepted")]
    entry = result.trace[1]
    assert (entry.failure, entry.error) == ("unavailable", "unavailable")
    assert "fell back to gpt" in entry.why
    assert (result.value, result.model, result.degraded) == ("gun", "gpt", False)
    assert calls.asked[1][3], "the call knows that there is another way to go"


async def test_a_failure_that_no_fallback_covers_leaves_the_earlier_answer() -> None:
    calls = FakeCalls({"clip": [UNSURE], "llava": [Says(error=RateLimited("busy"))]})
    result = await run(calls)
    assert (result.value, result.degraded, result.accepted, result.outcome) == ("safe", True, False, "review")
    assert "ended" in result.trace[1].why


async def test_or_the_error_when_the_file_wants_that() -> None:
    calls = FakeCalls({"clip": [UNSURE], "llava": [Says(error=RateLimited("busy"))]})
    result = await failed(calls, guard(on_failure="error"))
    assert isinstance(result.error, RateLimited)
    assert walked(result) == [("screen", "clip", "went_on"), ("analyse", "llava", "failed")]


async def test_a_step_that_fails_goes_on_to_the_next() -> None:
    calls = FakeCalls({"clip": [Says(error=Unavailable("gone"))], "llava": [Says("gun")]})
    result = await run(calls)
    assert walked(result)[0] == ("screen", "clip", "failed")
    assert "went on to analyse" in result.trace[0].why
    assert (result.value, result.degraded) == ("gun", False)


@pytest.mark.parametrize("error", [Overloaded("full"), RateLimited("busy"), BudgetExceeded("spent")])
async def test_a_screen_without_capacity_does_not_send_its_requests_to_the_dearer_model(error: ArgusError) -> None:
    calls = FakeCalls({"clip": [Says(error=error)], "llava": [Says("gun")]})
    result = await failed(calls, guard())
    assert result.error is error
    assert calls.names() == ["clip"]
    assert not calls.asked[0][3], "nothing makes the screen hurry, since the next step is no fallback"
    assert "ended" in result.trace[0].why


async def test_unless_it_declares_where_they_overflow_to() -> None:
    first, *rest = TEXT["steps"]
    overflowing = first | {"fallback": [{"on": ["rate_limited"], "use": "gpt"}], "accept": {"rule": "always"}}
    calls = FakeCalls({"blip2": [Says(error=Overloaded("full"))], "gpt": [Says("a dog")]})
    result = await run(calls, TEXT | {"steps": [overflowing, *rest]}, asked("What?"))
    assert walked(result) == [("quick", "blip2", "failed"), ("quick", "gpt", "accepted")]


async def test_an_image_that_no_model_can_read_is_asked_of_one_only() -> None:
    calls = FakeCalls({"clip": [Says(error=InvalidMedia("truncated"))], "llava": [Says("gun")]})
    result = await failed(calls, guard())
    assert isinstance(result.error, InvalidMedia)
    assert calls.names() == ["clip"]


async def test_words_that_are_no_label_are_a_failure() -> None:
    calls = FakeCalls({"clip": [UNSURE], "llava": [Says("I cannot say")], "gpt": [Says("gun")]})
    result = await run(calls)
    assert (result.degraded, result.trace[1].failure) == (True, "invalid_output")
    cascade = guard()
    cascade["steps"][1]["fallback"] = [{"on": ["invalid_output"], "use": "gpt"}]
    calls = FakeCalls({"clip": [UNSURE], "llava": [Says("I cannot say")], "gpt": [Says("gun")]})
    assert (await run(calls, cascade)).value == "gun"


async def test_what_fails_everywhere_is_the_last_error() -> None:
    calls = FakeCalls(
        {"clip": [Says(error=Unavailable("a"))], "llava": [Says(error=Unavailable("b"))], "gpt": [Says("?")]}
    )
    result = await failed(calls, guard())
    assert isinstance(result.error, InvalidOutput)
    assert [entry.result for entry in result.trace] == ["failed"] * 3


async def test_each_step_has_its_share_of_the_time_left() -> None:
    cascade = guard(deadline_s=10)
    cascade["steps"][0]["deadline_share"] = 0.3
    calls = FakeCalls({"clip": [Says(logits=(0, 0, 0), seconds=2.0)], "llava": [Says("gun")]})
    await run(calls, cascade)
    assert calls.asked[0][2] == pytest.approx(3.0)
    assert calls.asked[1][2] == pytest.approx(8.0 * 0.95), "some is kept, for what is in hand to be sent"


async def test_a_clients_shorter_deadline_holds() -> None:
    calls = FakeCalls({"clip": [SURE]})
    await run(calls, guard(deadline_s=10), seconds=4)
    assert calls.asked[0][2] == pytest.approx(2.0), "half of it: there are two steps"


async def test_a_step_that_hangs_costs_its_share_only() -> None:
    calls = FakeCalls({"clip": [Says(seconds=60)], "llava": [Says("gun", seconds=1)]})
    result = await run(calls)
    assert result.trace[0].failure == "timeout"
    assert (result.value, result.degraded) == ("gun", False)
    assert result.seconds == pytest.approx(6.0)


async def test_time_that_is_up_leaves_the_answer_in_hand() -> None:
    calls = FakeCalls({"clip": [UNSURE], "llava": [Says("gun", seconds=60)], "gpt": [Says("gun", seconds=60)]})
    result = await run(calls, seconds=2)
    assert (result.value, result.degraded, result.outcome) == ("safe", True, "review")
    assert result.seconds < 2
    expired = await failed(FakeCalls({"clip": [SURE]}), guard(), seconds=0)
    assert isinstance(expired.error, DeadlineExceeded)
    assert walked(expired) == [("screen", "clip", "skipped")]


async def test_a_budget_that_is_spent_leaves_the_answer_in_hand() -> None:
    calls = FakeCalls({"blip2": [Says("a cat", probability=0.3)], "llava": [Says(error=BudgetExceeded("spent"))]})
    cascade = {**TEXT, "steps": TEXT["steps"][:2]}
    result = await run(calls, cascade, asked("What?"))
    assert (result.value, result.degraded, result.trace[1].failure) == ("a cat", True, "over_budget")


async def test_what_the_last_rule_does_not_accept_is_given_and_said_to_be_so() -> None:
    cascade = guard()
    cascade["steps"][1]["accept"] = {"rule": "confidence", "at_least": 0.7}
    calls = FakeCalls({"clip": [UNSURE], "llava": [Says("safe", probability=0.6)]})
    result = await run(calls, cascade)
    assert (result.value, result.accepted, result.degraded, result.outcome) == ("safe", False, False, "review")


async def test_questions_and_prompts() -> None:
    calls = FakeCalls({"blip2": [Says("no idea", probability=0.1)], "llava": [Says("a cat")]})
    given = Asked(asked("What {labels} is {question}?").messages, Sampling(temperature=0.4, max_tokens=9))
    result = await run(calls, TEXT, given)
    assert result.value == "a cat"
    first, second = (request for _, request, *_ in calls.asked)
    assert texts(first) == ["What {labels} is {question}?"]
    assert texts(second) == ["Q: What {labels} is {question}? A:"], "a client's braces are text"
    assert (second.sampling.temperature, second.sampling.max_tokens) == (0.4, 9)


async def test_a_provider_is_asked_for_probabilities_only_where_a_rule_needs_them() -> None:
    calls = FakeCalls({"gpt": [Says("yes", probability=None)]})
    one = {"name": "a", "use": "gpt", "task": "answer"}
    await run(calls, {"answer": "text", "steps": [one]}, asked("What?"))
    await run(
        calls,
        {"answer": "text", "steps": [{**one, "accept": {"rule": "confidence", "at_least": 0.5}}]},
        asked("What?"),
    )
    assert [request.sampling.logprobs for _, request, *_ in calls.asked] == [None, 0]


async def test_labels_as_json_are_constrained() -> None:
    cascade = guard()
    cascade["steps"] = [{"name": "a", "use": "llava", "task": "choose", "parse": "json", "prompt": "One of {labels}?"}]
    calls = FakeCalls({"llava": [Says('{"label": "gun"}')]})
    assert (await run(calls, cascade)).value == "gun"
    request = calls.asked[0][1]
    assert '"enum":["safe","knife","gun"]' in request.sampling.constraint.json_schema
    assert texts(request) == ["One of safe, knife, gun?"]


async def test_json_that_does_not_fit_goes_on_under_the_schema_rule() -> None:
    step = {"name": "a", "use": "llava", "task": "extract", "accept": {"rule": "schema"}}
    cascade = {
        "answer": "json",
        "json_schema": {"type": "object", "required": ["colour"]},
        "steps": [step, {**step, "name": "b", "use": "gpt"}],
    }
    calls = FakeCalls({"llava": [Says('{"shape": "star"}')], "gpt": [Says('{"colour": "red"}')]})
    result = await run(calls, cascade)
    assert result.value == {"colour": "red"}
    assert "'colour' is a required property" in result.trace[0].why
    calls = FakeCalls({"llava": [Says('{"shape": "star"}')], "gpt": [Says("{}")]})
    last = await failed(calls, cascade)
    assert isinstance(last.error, InvalidOutput), "JSON that does not fit is never handed out"


async def test_a_captioner_of_images_alone_gets_no_words() -> None:
    cascade = {
        "answer": "text",
        "steps": [
            {"name": "a", "use": "blip2", "task": "caption", "accept": {"rule": "confidence", "at_least": 0.99}},
            {"name": "b", "use": "llava", "task": "caption"},
        ],
    }
    calls = FakeCalls({"blip2": [Says("a thing")], "llava": [Says("a red star")]})
    await run(calls, cascade)
    assert [texts(request) for _, request, *_ in calls.asked] == [[], ["Describe the image."]]


async def test_costs_and_cached_answers_are_in_the_trace() -> None:
    calls = FakeCalls(
        {
            "clip": [Says(logits=(0, 0, 0), cached=True)],
            "llava": [Says(error=Unavailable("x"))],
            "gpt": [Says("gun", usage=Usage(100, 5, 0.002))],
        }
    )
    result = await run(calls)
    assert [entry.cached for entry in result.trace] == [True, False, False]
    assert result.usage == Usage(100, 5, 0.002)
