"""OpenAI's Chat Completions, through the official SDK against a server that checks requests as the API does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks.fake_providers import FakeOpenAI, Fault
from benchmarks.fake_providers.media import check_data_uri
from deployments.generation.messages import ChatRequest, Constraint, ImagePart, Message, Sampling, Text, VideoPart
from deployments.messages import PixelValues
from serve.config.providers import ImagePreparation
from serve.errors import ContextTooLong, InvalidOutput, InvalidRequest, Unavailable, Unsupported
from tests.support.provider_servers import asking, picture, pointed_at, showing, streamed

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string"}},
    "required": ["colour"],
    "additionalProperties": False,
}
JSON = Sampling(max_tokens=50, constraint=Constraint(json.dumps(SCHEMA)))


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


@pytest.fixture
async def gpt(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    async with pointed_at(server, monkeypatch, "openai") as provider:
        yield provider


def sent(server: FakeOpenAI) -> dict[str, Any]:
    body: dict[str, Any] = server.requests[-1].body
    return body


async def test_a_conversation_with_several_images(server: FakeOpenAI, gpt: Any) -> None:
    request = ChatRequest(
        (
            Message("system", (Text("Be brief."),)),
            Message("user", (Text("First:"), ImagePart(picture()), Text("second:"), ImagePart(picture(), "low"))),
            Message("assistant", (Text("Two."),)),
            Message("user", (Text("Sure?"),)),
        ),
        Sampling(max_tokens=20, temperature=0.0, top_p=0.5, seed=7, stop=("mat", "dog")),
    )
    answer = await gpt.chat(request, 10)
    assert answer.result.answers[0].text == "A cat on a ", "what follows a stop is left out"
    body = sent(server)
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    parts = body["messages"][1]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "text", "image_url"]
    assert [part["image_url"]["detail"] for part in parts[1::2]] == ["auto", "low"]
    assert check_data_uri(parts[1]["image_url"]["url"]) == (64, 48)
    assert (body["temperature"], body["top_p"], body["seed"], body["stop"]) == (0, 0.5, 7, ["mat", "dog"])


async def test_what_is_charged_is_what_the_server_counted(gpt: Any) -> None:
    answer = await gpt.chat(showing(images=2), 10)
    used = answer.usage
    assert (used.prompt_tokens, used.completion_tokens, answer.result.cached_tokens) == (173, 4, 86)
    # gpt-4o: 2.50 a million for 87 tokens, 1.25 for the 86 cached ones, 10 for the answer's.
    assert used.usd == pytest.approx((87 * 2.5 + 86 * 1.25 + 4 * 10) / 1e6)


async def test_the_estimate_is_no_less_than_what_is_charged(gpt: Any) -> None:
    request = showing(images=3)
    used, estimated = (await gpt.chat(request, 10)).usage, gpt.estimate(request)
    assert estimated.prompt_tokens >= used.prompt_tokens
    assert estimated.completion_tokens == 50
    assert estimated.usd >= used.usd


async def test_several_answers_with_log_probabilities(server: FakeOpenAI, gpt: Any) -> None:
    answer = await gpt.chat(asking("?", sampling=Sampling(max_tokens=9, n=2, logprobs=2)), 10)
    first, second = answer.result.answers
    assert first.text == second.text == "".join(one.token for one in first.logprobs)
    assert [other.token for other in first.logprobs[0].top] == ["A ca", "~0"]
    assert [other.data for other in first.logprobs[0].top] == [b"A ca", None], "as the API told"
    assert b"".join(one.data or b"" for one in first.logprobs).decode() == first.text
    assert sent(server)["top_logprobs"] == 2


async def test_models_that_reason_are_asked_for_no_log_probabilities(
    server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pointed_at(
        server, monkeypatch, "openai", model="gpt-5", token_parameter="max_completion_tokens"
    ) as reasoning:
        with pytest.raises(Unsupported) as caught:
            await reasoning.chat(asking("?", sampling=Sampling(logprobs=0)), 10)
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "logprobs")
        assert server.calls == 0
        await reasoning.chat(asking("?"), 10)
    assert server.calls == 1 and "logprobs" not in sent(server)


async def test_a_stream_is_the_whole_answer_in_pieces(gpt: Any) -> None:
    sampling = Sampling(max_tokens=9, n=2, logprobs=0)
    events, used = await streamed(gpt, asking("?", sampling=sampling))
    whole = await gpt.chat(asking("?", sampling=sampling), 10)
    for index, answer in enumerate(whole.result.answers):
        own = [event for event in events if event.index == index]
        assert "".join(event.text for event in own) == answer.text
        assert [event.finish_reason for event in own if event.finish_reason] == ["stop"]
        assert own[-1].finish_reason == "stop", "the reason is in the last event"
        assert tuple(one for event in own for one in event.logprobs) == answer.logprobs
        assert own[-1].prompt_tokens == used.prompt_tokens
    assert used == whole.usage


async def test_an_answer_that_is_cut_short_says_so(gpt: Any) -> None:
    request = asking("?", sampling=Sampling(max_tokens=2))
    assert (await gpt.chat(request, 10)).result.answers[0].finish_reason == "length"
    assert (await streamed(gpt, request))[0][-1].finish_reason == "length"


@pytest.mark.parametrize("way", ["schema", "prompt"])
async def test_json_that_fits_a_schema(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    server.answer = '{"colour": "red"}'
    async with pointed_at(server, monkeypatch, "openai", json_output=way) as gpt:
        answer = await gpt.chat(showing(sampling=JSON), 10)
        assert json.loads(answer.result.answers[0].text) == {"colour": "red"}
        if way == "schema":
            assert sent(server)["response_format"]["json_schema"]["strict"] is True
        else:
            assert "colour" in sent(server)["messages"][0]["content"]
        events, _ = await streamed(gpt, showing(sampling=JSON))
        assert "".join(event.text for event in events) == '{"colour": "red"}'
        server.answer = '{"colour": 3}'
        with pytest.raises(InvalidOutput, match="colour"):
            await gpt.chat(showing(sampling=JSON), 10)
        with pytest.raises(InvalidOutput):
            await streamed(gpt, showing(sampling=JSON))


async def test_a_schema_that_is_not_strict_is_a_hint(server: FakeOpenAI, gpt: Any) -> None:
    server.answer = '{"colour": "red", "more": 1}'
    loose = json.dumps({"type": "object", "properties": {"colour": {"type": "string"}}})
    await gpt.chat(asking("?", sampling=Sampling(constraint=Constraint(loose))), 10)
    assert sent(server)["response_format"]["json_schema"]["strict"] is False


async def test_any_json_object(server: FakeOpenAI, gpt: Any) -> None:
    server.answer = '{"a": [1, 2]}'
    await gpt.chat(asking("What is this?", sampling=Sampling(constraint=Constraint())), 10)
    assert len(sent(server)["messages"]) == 2, "the API wants the word JSON in a message"
    await gpt.chat(asking("Give JSON.", sampling=Sampling(constraint=Constraint())), 10)
    assert len(sent(server)["messages"]) == 1
    server.answer = "[1]"
    with pytest.raises(InvalidOutput):
        await gpt.chat(asking("Give JSON.", sampling=Sampling(constraint=Constraint())), 10)


async def test_json_in_a_fence_is_taken_out_of_it(server: FakeOpenAI, gpt: Any) -> None:
    server.answer = '```json\n{"colour": "red"}\n```'
    assert (await gpt.chat(showing(sampling=JSON), 10)).result.answers[0].text == '{"colour": "red"}'


async def test_a_model_that_reasons_is_sent_neither_temperature_nor_max_tokens(
    server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"model": "gpt-5-mini", "token_parameter": "max_completion_tokens"}
    async with pointed_at(server, monkeypatch, "openai", **more) as gpt:
        await gpt.chat(asking("?", sampling=Sampling(max_tokens=9, temperature=0.0)), 10)
    assert sent(server).keys() == {"model", "messages", "max_completion_tokens"}


async def test_images_are_shrunk_before_they_are_sent(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    images = ImagePreparation(max_side=300, low_max_side=100, detail="low").model_dump()
    async with pointed_at(server, monkeypatch, "openai", images=images) as gpt:
        big = picture((600, 200), kind="JPEG")
        await gpt.chat(asking(ImagePart(big, "high"), ImagePart(big), "?"), 10)
    urls = [part["image_url"] for part in sent(server)["messages"][0]["content"][:2]]
    assert [url["detail"] for url in urls] == ["high", "low"], "what the request leaves open is asked for cheaply"
    assert [check_data_uri(url["url"]) for url in urls] == [(300, 100), (100, 33)]


async def test_a_server_without_usage_is_counted_by_us(
    server: FakeOpenAI, gpt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.fake_providers.openai._usage", lambda *_: None)
    request = showing()
    used = (await gpt.chat(request, 10)).usage
    assert used.prompt_tokens == gpt.estimate(request).prompt_tokens
    assert used.completion_tokens > 0
    assert used.usd > 0


async def test_a_stream_that_ends_as_if_all_were_said(
    server: FakeOpenAI, gpt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = "benchmarks.fake_providers.openai._events"
    monkeypatch.setattr(real, lambda *_: [b'data: {"id":"1","object":"chat.completion.chunk","choices":[]}\n\n'])
    with pytest.raises(Unavailable):
        await streamed(gpt, asking("?"))


async def test_what_cannot_be_sent_is_refused_before_it_is(server: FakeOpenAI, gpt: Any) -> None:
    import numpy as np

    with pytest.raises(Unsupported):
        await gpt.chat(asking(VideoPart(b"video"), "?"), 10)
    with pytest.raises(InvalidRequest):
        await gpt.chat(asking(ImagePart(PixelValues(np.zeros((3, 8, 8), np.float32))), "?"), 10)
    assert server.calls == 0


async def test_a_prompt_beyond_the_window_is_not_sent(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pointed_at(server, monkeypatch, "openai", context_tokens=100) as gpt:
        with pytest.raises(ContextTooLong):
            await gpt.chat(asking("word " * 400), 10)
        assert server.calls == 0
        await gpt.chat(asking("word " * 20), 10)


async def test_a_spent_account_is_not_a_rate(server: FakeOpenAI, gpt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"error": {"message": "You exceeded your current quota", "type": "q", "code": "insufficient_quota"}}
    monkeypatch.setattr(server, "error", lambda *_: body)
    server.script = [Fault("429")]
    with pytest.raises(Unavailable) as caught:
        await gpt.chat(asking("?"), 10)
    assert caught.value.code == "provider_quota"


async def test_milliseconds_go_before_seconds(server: FakeOpenAI, gpt: Any) -> None:
    server.script = [Fault("429", retry_after=9, headers={"retry-after-ms": "250"})]
    with pytest.raises(Exception) as caught:
        await gpt.chat(asking("?"), 10)
    assert caught.value.retry_after_s == 0.25  # type: ignore[attr-defined]
