"""`/v1/chat/completions`, `/v1/caption` and `/v1/vqa` over a fake engine: what clients may send and what they get."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import openai
import pytest

from deployments.generation.messages import ChatEvent, Constraint, ImagePart, Text
from serve.errors import ModelFailed, Overloaded, Unavailable
from tests.unit.fakes import FakeGenerator, Site, cluster, png

URI = "data:image/png;base64," + base64.b64encode(png()).decode()
MODELS = {
    "clip": {"kind": "clip", "checkpoint": "openai/clip-vit-large-patch14"},
    "llava": {"kind": "llava", "checkpoint": "llava-hf/llava-1.5-7b-hf", "max_images": 2},
    "blip2": {"kind": "blip2", "checkpoint": "Salesforce/blip2-opt-2.7b", "autoscaling": {"max_replicas": 2}},
}


@pytest.fixture(scope="module")
def built() -> Site:
    return Site(cluster(models=MODELS))


@pytest.fixture
def site(built: Site) -> Site:
    built.reset()
    return built


@pytest.fixture
async def http(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with site.client() as client:
        yield client


@pytest.fixture
async def client(http: httpx.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://argus/v1", api_key="none", http_client=http, max_retries=0)


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def image(url: str = URI, **more: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


ASK: dict[str, Any] = {"messages": [user(image(), text("What is this thing?"))]}


def chunks(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def refused(http: httpx.AsyncClient, body: dict[str, Any]) -> tuple[int, str, str | None]:
    response = await http.post("/v1/chat/completions", json=body)
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


async def test_an_answer(client: openai.AsyncOpenAI, site: Site) -> None:
    answer = await client.chat.completions.create(model="llava", **ASK)
    assert answer.choices[0].message.content == "What is this thing? (1 media)"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 5, 12)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    (message,) = site.llava.requests[0].messages
    assert [type(part) for part in message.parts] == [ImagePart, Text]


async def test_everything_that_can_be_asked_for_reaches_the_model(client: openai.AsyncOpenAI, site: Site) -> None:
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}}
    await client.chat.completions.create(
        model="llava",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": "Two"},
            {"role": "user", "content": [image(URI, detail="low"), text("Three")]},  # type: ignore[list-item]
        ],
        max_completion_tokens=3,
        temperature=0.3,
        top_p=0.9,
        seed=7,
        stop=["x", "y"],
        n=2,
        logprobs=True,
        top_logprobs=4,
        response_format={"type": "json_schema", "json_schema": {"name": "it", "schema": schema}},
        user="somebody",
        frequency_penalty=0,
    )
    request = site.llava.requests[0]
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "user"]
    shown = request.messages[-1].parts[0]
    assert isinstance(shown, ImagePart)
    assert shown.detail == "low"
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.seed) == (3, 0.3, 0.9, 7)
    assert (sampling.stop, sampling.n, sampling.logprobs) == (("x", "y"), 2, 4)
    assert sampling.constraint is not None
    assert json.loads(sampling.constraint.json_schema or "") == schema


async def test_a_json_object(client: openai.AsyncOpenAI, site: Site) -> None:
    await client.chat.completions.create(model="llava", response_format={"type": "json_object"}, **ASK)
    assert site.llava.requests[0].sampling.constraint == Constraint(None)


async def test_several_answers_with_logprobs(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="llava", n=2, logprobs=True, max_tokens=2, **ASK)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    logprobs = answer.choices[1].logprobs
    assert logprobs is not None
    assert [(token.token, token.logprob) for token in logprobs.content or ()] == [("What", -0.5), ("is", -0.5)]


async def test_a_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="llava", stream=True, stream_options={"include_usage": True}, n=2, **ASK
    )
    seen = [chunk async for chunk in stream]
    texts = ["", ""]
    for chunk in seen:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["What is this thing? (1 media)"] * 2
    assert seen[0].choices[0].delta.role == "assistant"
    assert [choice.finish_reason for chunk in seen for choice in chunk.choices if choice.finish_reason] == ["stop"] * 2
    assert seen[-1].choices == []
    assert seen[-1].usage is not None
    assert seen[-1].usage.completion_tokens == 10
    assert all(chunk.usage is None for chunk in seen[:-1])
    assert len({chunk.id for chunk in seen}) == 1


async def test_a_stream_ends_with_done_and_is_not_buffered(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/chat/completions", json={**ASK, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert chunks(response)[-1] == "[DONE]"
    assert all("usage" not in chunk for chunk in chunks(response)[:-1])


async def test_what_fails_before_the_first_event_has_an_honest_status(http: httpx.AsyncClient, site: Site) -> None:
    site.llava.script = [(0, Overloaded("full", retry_after_s=2))]
    response = await http.post("/v1/chat/completions", json={**ASK, "stream": True})
    assert (response.status_code, response.json()["error"]["code"]) == (429, "overloaded")
    assert response.headers["retry-after"] == "2"
    assert len(site.llava.requests) == 1


async def test_what_fails_later_is_an_event_and_no_done(http: httpx.AsyncClient, site: Site) -> None:
    site.llava.script = [(2, Unavailable("gone", code="engine_died"))]
    response = await http.post("/v1/chat/completions", json={**ASK, "stream": True})
    assert response.status_code == 200
    assert chunks(response)[-1]["error"]["code"] == "engine_died"
    assert len(site.llava.requests) == 1
    (ended,) = site.recorder.requests
    assert (ended.outcome, ended.fault, ended.status) == ("engine_died", "server", 200)


async def test_an_engine_that_died_before_it_said_anything_is_asked_again(http: httpx.AsyncClient, site: Site) -> None:
    site.llava.script = [(0, Unavailable("gone")), (0, Unavailable("gone"))]
    response = await http.post("/v1/chat/completions", json={**ASK, "stream": True})
    assert chunks(response)[-1] == "[DONE]"
    assert len(site.llava.requests) == 3


async def test_a_whole_answer_is_asked_for_again_even_if_it_had_begun(http: httpx.AsyncClient, site: Site) -> None:
    site.llava.script = [(2, Unavailable("gone", code="engine_died"))]
    response = await http.post("/v1/chat/completions", json=ASK)
    assert response.json()["choices"][0]["message"]["content"] == "What is this thing? (1 media)"
    assert len(site.llava.requests) == 2


async def test_a_model_that_fails_is_not_asked_again(http: httpx.AsyncClient, site: Site) -> None:
    site.llava.script = [(0, ModelFailed("broken"))]
    assert await refused(http, ASK) == (500, "model_failed", None)
    assert len(site.llava.requests) == 1


async def test_no_attempt_after_the_deadline(http: httpx.AsyncClient, site: Site) -> None:
    site.llava.script = [(0, Unavailable("gone", retry_after_s=60))] * 2
    response = await http.post("/v1/chat/completions", json=ASK, headers={"x-argus-timeout-ms": "5000"})
    assert response.status_code == 503
    assert len(site.llava.requests) == 1


async def streaming(site: Site, send: Callable[[Any], Awaitable[None]]) -> None:
    """The application with one client, which asks for a stream, stays, and says nothing more."""
    body = json.dumps({**ASK, "stream": True}).encode()
    bodies = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return bodies.pop() if bodies else await asyncio.Future()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": [(b"content-type", b"application/json")],
        "query_string": b"",
        "asgi": {"spec_version": "2.4"},
    }
    await site.app(scope, receive, send)


async def test_a_reader_does_not_wait_for_the_end_of_a_complete_answers_call(site: Site) -> None:
    ended, bodies = asyncio.Event(), list[bytes]()

    async def send(message: Any) -> None:
        bodies.append(message.get("body", b""))
        if message["type"] == "http.response.body" and not message.get("more_body"):
            ended.set()

    site.llava.ends.clear()
    task = asyncio.create_task(streaming(site, send))
    await ended.wait()
    assert b"".join(bodies).endswith(b"data: [DONE]\n\n")
    assert not task.done()
    site.llava.ends.set()
    await task
    assert site.recorder.requests[-1].outcome == "ok"
    assert site.llava.closed == 0


async def test_a_reader_who_leaves_stops_the_model(site: Site) -> None:
    reading = asyncio.Event()

    async def send(message: Any) -> None:
        if b"What" in message.get("body", b""):
            reading.set()
            await asyncio.Future()  # a client that takes no more

    task = asyncio.create_task(streaming(site, send))
    await reading.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert site.recorder.requests[-1].outcome == "cancelled"
    assert site.llava.closed == 1


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"messages": []}, (400, "invalid_field", "messages")),
        ({"messages": [{"role": "assistant", "content": "x"}]}, (400, "last_message_not_user", "messages[0]")),
        ({"messages": [user()]}, (400, "empty_message", "messages[0].content")),
        ({"messages": [{"role": "robot", "content": "x"}]}, (400, "invalid_field", "messages[0].role")),
        ({"messages": [user({"type": "input_audio"})]}, (400, "invalid_field", "messages[0].content[0].type")),
        ({"messages": [user(image("nonsense!"))]}, (400, "invalid_base64", "messages[0].content[0].image_url")),
        (
            {"messages": [user(image("http://10.0.0.1/x.png"), text("x"))]},
            (403, "url_not_allowed", "messages[0].content[0].image_url"),
        ),
        (
            {"messages": [user(image(), image()), user(image(), text("x"))]},
            (400, "too_many_images", "messages[1].content[0].image_url"),
        ),
        (
            {"messages": [user({"type": "video_url", "video_url": {"url": URI}})]},
            (415, "unsupported_video_type", "messages[0].content[0].video_url"),
        ),
        ({"messages": [user(text("x" * 300_000))]}, (413, "payload_too_large", "body")),
        ({"model": "clip"}, (400, "task_not_supported", "model")),
        ({"model": "nobody"}, (404, "model_not_found", "model")),
        ({"tools": [{"type": "function"}]}, (400, "unsupported_parameter", "tools")),
        ({"presence_penalty": 0.5}, (400, "unsupported_parameter", "presence_penalty")),
        ({"colour": "red"}, (400, "unknown_field", "colour")),
        ({"n": 9}, (400, "invalid_field", "n")),
        ({"n": True}, (400, "invalid_field", "n")),
        ({"max_tokens": "5"}, (400, "invalid_field", "max_tokens")),
        ({"stream": "no"}, (400, "invalid_field", "stream")),
        ({"logprobs": 1}, (400, "invalid_field", "logprobs")),
        ({"temperature": "0.5"}, (400, "invalid_field", "temperature")),
        ({"temperature": 2.5}, (400, "invalid_field", "temperature")),
        ({"top_p": 0}, (400, "invalid_field", "top_p")),
        ({"max_tokens": 0}, (400, "invalid_field", "max_tokens")),
        ({"max_tokens": 3, "max_completion_tokens": 4}, (400, "invalid_field", "max_tokens")),
        ({"stop": ["a", "b", "c", "d", "e"]}, (400, "invalid_field", "stop")),
        ({"stop": ""}, (400, "invalid_field", "stop")),
        ({"top_logprobs": 3}, (400, "invalid_field", "top_logprobs")),
        ({"stream_options": {"include_usage": True}}, (400, "invalid_field", "stream_options")),
        ({"response_format": {"type": "yaml"}}, (400, "invalid_field", "response_format.type")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x y", "schema": {}}}},
            (400, "invalid_field", "response_format.json_schema.name"),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "deep", "schema": deep(300)}}},
            (400, "invalid_json_schema", "response_format.json_schema.schema"),
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}, user(text("Hm?"))]},
            (400, "invalid_field", "messages[0].tool_calls"),
        ),
    ],
)
async def test_what_is_refused(
    http: httpx.AsyncClient, site: Site, change: dict[str, Any], expected: tuple[int, str, str]
) -> None:
    assert await refused(http, {**ASK, **change}) == expected
    assert site.llava.requests == []


async def test_an_answer_can_be_sent_back_as_the_client_holds_it(client: openai.AsyncOpenAI, site: Site) -> None:
    first = await client.chat.completions.create(model="llava", **ASK)
    said = first.choices[0].message
    # As some libraries keep it: with the fields that this answer left empty.
    kept = {**said.model_dump(), "annotations": [], "audio": None, "function_call": None, "tool_calls": None}
    read = (await client.chat.completions.parse(model="llava", **ASK)).choices[0].message
    typed = {**read.model_dump(), "parsed": {"colour": "red"}}
    site.llava.reset()
    for turn in (said, said.model_dump(), kept, read, read.model_dump(), typed):
        messages: Any = [*ASK["messages"], turn, user(text("Are you sure?"))]
        await client.chat.completions.create(model="llava", messages=messages)
    assert len(site.llava.requests) == 6
    for asked in site.llava.requests:
        assert asked.messages[-2].parts == (Text(said.content or ""),)


async def test_parameters_that_ask_for_nothing_are_taken(http: httpx.AsyncClient) -> None:
    neutral = {"tools": [], "tool_choice": "auto", "logit_bias": {}, "store": False, "presence_penalty": 0.0, "n": None}
    assert (await http.post("/v1/chat/completions", json={**ASK, **neutral})).status_code == 200


async def test_too_much_text(site: Site) -> None:
    small = Site(cluster(models=MODELS, limits={"max_prompt_chars": 20}))
    async with small.client() as http:
        assert await refused(http, {"messages": [user(text("x" * 21))]}) == (400, "text_too_long", "messages")


async def test_repeats_of_an_image_share_an_affinity_where_there_are_several_replicas(
    client: openai.AsyncOpenAI, site: Site
) -> None:
    other = "data:image/png;base64," + base64.b64encode(png("blue")).decode()
    for url in (URI, URI, other):
        await client.chat.completions.create(model="blip2", messages=[user(image(url), text("x"))])  # type: ignore[list-item]
        await client.chat.completions.create(model="llava", messages=[user(image(url), text("x"))])  # type: ignore[list-item]
    first, again, different = site.blip2.affinities
    assert first is not None
    assert first == again != different
    assert site.llava.affinities == [None] * 3


async def test_captions_are_asked_of_the_captioning_model(http: httpx.AsyncClient, site: Site) -> None:
    response = await http.post("/v1/caption", json={"images": [URI, "broken"]})
    body = response.json()
    assert response.status_code == 200
    assert body["model"] == "blip2"
    assert body["results"][0]["caption"] == "(1 media)"
    assert (body["results"][1]["error"]["code"], body["results"][1]["error"]["param"]) == (
        "invalid_base64",
        "images[1]",
    )
    assert body["usage"]["total_tokens"] == 8


async def test_a_caption_of_a_chat_model_is_asked_for_in_words(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/caption?model=llava", content=png(), headers={"content-type": "image/png"})
    assert response.json()["results"][0]["caption"] == "Describe the image. (1 media)"


async def test_questions_and_images_pair_up(http: httpx.AsyncClient) -> None:
    one = await http.post("/v1/vqa", json={"image": URI, "questions": ["What, then?", "Where?"]})
    assert [result["answer"] for result in one.json()["results"]] == ["What, then? (1 media)", "Where? (1 media)"]
    every = await http.post("/v1/vqa", json={"images": [URI, URI], "question": "Why?"})
    assert [result["question"] for result in every.json()["results"]] == ["Why?"] * 2
    assert every.json()["model"] == "llava"


async def test_an_answer_that_its_deadline_cut_has_openais_word_for_it_everywhere(
    http: httpx.AsyncClient, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = [ChatEvent(0, "half", (1,), finish_reason="cut", prompt_tokens=7)]
    monkeypatch.setattr(FakeGenerator, "events", lambda self, request: cut)
    for path, body in {
        "caption": {"image": URI},
        "vqa": {"image": URI, "question": "Why?"},
        "compare": {"models": ["llava"], "prompt": "Why?"},
    }.items():
        (result,) = (await http.post(f"/v1/{path}", json=body)).json()["results"]
        assert result["finish_reason"] == "length", path
    chat = (await http.post("/v1/chat/completions", json={**ASK, "model": "llava"})).json()
    assert chat["choices"][0]["finish_reason"] == "length"


async def test_a_question_in_a_form_keeps_its_commas(http: httpx.AsyncClient) -> None:
    files = {"image": ("a.png", png(), "image/png")}
    response = await http.post("/v1/vqa", files=files, data={"questions": "What, where, when?"})
    assert response.json()["results"][0]["answer"] == "What, where, when? (1 media)"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"question": "x"}, "missing_field", "image"),
        ({"image": URI}, "missing_field", "question"),
        ({"image": URI, "question": "x", "questions": ["y"]}, "missing_field", "question"),
        ({"images": [URI, URI], "questions": ["a", "b", "c"]}, "invalid_field", "questions"),
        ({"image": URI, "questions": ["a", " "]}, "empty_text", "questions[1]"),
        ({"image": URI, "question": "  "}, "empty_text", "question"),
        ({"image": URI, "questions": ["a"] * 7}, "too_many_inputs", "questions"),
        ({"images": [URI] * 7, "question": "a"}, "too_many_inputs", "images"),
        ({"image": "broken", "question": "a"}, "invalid_base64", "image"),
        ({"image": URI, "question": "a", "max_tokens": 1000}, "invalid_field", "max_tokens"),
    ],
)
async def test_questions_that_are_refused(http: httpx.AsyncClient, body: Any, code: str, param: str) -> None:
    error = (await http.post("/v1/vqa", json=body)).json()["error"]
    assert (error["code"], error["param"]) == (code, param)
