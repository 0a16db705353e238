"""Anthropic's Messages API through the official SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks.fake_providers import FakeAnthropic, Fault
from deployments.generation.messages import ChatRequest, Constraint, ImagePart, Message, Sampling, Text
from serve.errors import InvalidOutput, Unavailable, Unsupported
from tests.support.provider_servers import asking, picture, pointed_at, showing, streamed

CLOSED = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
OPEN = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.fixture
async def server() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as server:
        yield server


@pytest.fixture
async def claude(server: FakeAnthropic, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    async with pointed_at(server, monkeypatch, "anthropic") as provider:
        yield provider


def sent(server: FakeAnthropic) -> dict[str, Any]:
    body: dict[str, Any] = server.requests[-1].body
    return body


def wanting(schema: dict[str, Any] | None) -> ChatRequest:
    return asking("?", sampling=Sampling(constraint=Constraint(None if schema is None else json.dumps(schema))))


async def test_a_conversation_with_several_images(server: FakeAnthropic, claude: Any) -> None:
    request = ChatRequest(
        (
            Message("system", (Text("Be brief."),)),
            Message("user", (ImagePart(picture()), ImagePart(picture(kind="JPEG")), Text("Differences?"))),
            Message("assistant", (Text("None."),)),
            Message("user", (Text("Sure?"),)),
        ),
        Sampling(temperature=0.0, stop=("mat",)),
    )
    answer = await claude.chat(request, 10)
    assert (answer.result.answers[0].text, answer.result.answers[0].finish_reason) == ("A cat on a ", "stop")
    body = sent(server)
    assert body["system"] == "Be brief."
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    kinds = [part["source"]["media_type"] for part in body["messages"][0]["content"][:2]]
    assert kinds == ["image/png", "image/jpeg"]
    assert body["max_tokens"] == 1024, "the API insists on a limit"
    assert body["temperature"] == 0


async def test_cached_tokens_are_part_of_the_prompt(claude: Any) -> None:
    answer = await claude.chat(showing(), 10)
    assert answer.result.cached_tokens == 20
    fresh = answer.usage.prompt_tokens - 20
    assert answer.usage.usd == pytest.approx((fresh * 3 + 20 * 0.3 + 4 * 15) / 1e6)


async def test_a_stream_is_the_whole_answer_in_pieces(claude: Any) -> None:
    events, used = await streamed(claude, showing())
    whole = await claude.chat(showing(), 10)
    assert "".join(event.text for event in events) == whole.result.answers[0].text
    assert events[-1].finish_reason == "stop"
    assert used == whole.usage
    short = asking("?", sampling=Sampling(max_tokens=2))
    assert (await streamed(claude, short))[0][-1].finish_reason == "length"


async def test_several_answers_are_several_calls(server: FakeAnthropic, claude: Any) -> None:
    one = await claude.chat(asking("?"), 10)
    three = await claude.chat(asking("?", sampling=Sampling(max_tokens=50, n=3)), 10)
    assert len(three.result.answers) == 3
    assert three.usage.usd == pytest.approx(3 * one.usage.usd)
    assert server.calls == 4
    with pytest.raises(Unsupported):
        await streamed(claude, asking("?", sampling=Sampling(n=2)))


async def test_one_of_several_answers_that_fails_ends_the_others(server: FakeAnthropic, claude: Any) -> None:
    server.script = [Fault("hang"), Fault("503"), Fault("hang")]
    with pytest.raises(Unavailable):
        await claude.chat(asking("?", sampling=Sampling(n=3)), 60)


@pytest.mark.parametrize(
    ("way", "schema", "field"),
    [
        ("schema", CLOSED, "output_config"),
        ("schema", OPEN, "system"),
        ("schema", None, "system"),
        ("tool", OPEN, "tools"),
        ("tool", None, "tools"),
        ("prompt", CLOSED, "system"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_each_way_of_asking_for_json(
    server: FakeAnthropic, monkeypatch: pytest.MonkeyPatch, way: str, schema: Any, field: str, stream: bool
) -> None:
    server.answer = '{"n":3}'
    async with pointed_at(server, monkeypatch, "anthropic", json_output=way) as claude:
        if stream:
            events, _ = await streamed(claude, wanting(schema))
            text = "".join(event.text for event in events)
        else:
            text = (await claude.chat(wanting(schema), 10)).result.answers[0].text
    assert json.loads(text) == {"n": 3}
    assert {"output_config", "tools", "system"} & sent(server).keys() == {field}


async def test_a_tools_input_is_checked_too(server: FakeAnthropic, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = '{"n": "three"}'
    async with pointed_at(server, monkeypatch, "anthropic", json_output="tool") as claude:
        with pytest.raises(InvalidOutput):
            await claude.chat(wanting(OPEN), 10)


async def test_newer_models_are_sent_no_temperature(server: FakeAnthropic, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pointed_at(server, monkeypatch, "anthropic", model="claude-opus-5-5") as claude:
        await claude.chat(asking("?", sampling=Sampling(temperature=0.0, top_p=0.5)), 10)
    assert sent(server).keys() == {"model", "max_tokens", "messages"}


async def test_log_probabilities_are_refused_before_anything_is_sent(server: FakeAnthropic, claude: Any) -> None:
    with pytest.raises(Unsupported):
        await claude.chat(asking("?", sampling=Sampling(logprobs=1)), 10)
    assert server.calls == 0


async def test_overload_within_a_stream(server: FakeAnthropic, claude: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    monkeypatch.setattr("benchmarks.fake_providers.anthropic._events", lambda *_: [error])
    with pytest.raises(Unavailable):
        await streamed(claude, asking("?"))
