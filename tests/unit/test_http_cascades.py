"""Cascades over HTTP: `/v1/cascades`, as a chat model, and in the list of models."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from serve.errors import InvalidMedia, Unavailable
from tests.unit.cascade_site import CASCADES, SCREENED, CascadeSite
from tests.unit.fakes import png

URI = "data:image/png;base64," + base64.b64encode(png()).decode()
GEARED = {**SCREENED, "gears": [{"name": "busy", "above_requests_per_s": 1e-9, "thresholds": {"screen": 0.0}}]}
FILE = {"image": ("a.png", png(), "image/png")}
SHOWN = {"type": "image_url", "image_url": {"url": URI}}


@pytest.fixture(scope="module")
def built() -> CascadeSite:
    return CascadeSite()


@pytest.fixture
def site(built: CascadeSite) -> CascadeSite:
    built.reset()
    return built


@pytest.fixture
async def http(site: CascadeSite) -> AsyncIterator[httpx.AsyncClient]:
    async with site.client() as client:
        yield client


@pytest.fixture
async def client(http: httpx.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://argus/v1", api_key="none", http_client=http, max_retries=0)


async def test_an_answer_with_its_trace(http: httpx.AsyncClient, site: CascadeSite) -> None:
    site.screen.logits = {"safe": 0.3}
    response = await http.post("/v1/cascades/moderation", files=FILE)
    assert response.status_code == 200, response.text
    assert response.headers["x-argus-gear"] == "normal"
    body = response.json()
    assert (body["object"], body["cascade"], body["calibrated"]) == ("cascade.answer", "moderation", False)
    (result,) = body["results"]
    assert (result["answer"], result["outcome"], result["step"], result["model"]) == (
        "knife",
        "block",
        "analyse",
        "llava",
    )
    assert result["confidence"] == pytest.approx(0.8)
    screen, analyse = result["trace"]
    assert (screen["result"], screen["threshold"]) == ("went_on", 0.9)
    assert "went on to analyse" in screen["why"]
    assert (analyse["result"], analyse["usage"]["completion_tokens"]) == ("accepted", 2)
    assert body["usage"]["total_tokens"] == 9


async def test_the_trace_can_be_left_out(http: httpx.AsyncClient) -> None:
    for send in ({"json": {"image": URI, "explain": False}}, {"files": FILE, "data": {"explain": "false"}}):
        (result,) = (await http.post("/v1/cascades/moderation", **send)).json()["results"]  # type: ignore[arg-type]
        assert "trace" not in result
        assert result["answer"] == "safe"


async def test_an_image_that_is_bad_leaves_the_others_alone(http: httpx.AsyncClient, site: CascadeSite) -> None:
    site.screen.failing[png("blue")] = InvalidMedia("truncated", code="truncated_image")
    files = [("image", ("a.png", png(colour), "image/png")) for colour in ("red", "blue")]
    good, bad = (await http.post("/v1/cascades/moderation", files=files)).json()["results"]
    assert (good["index"], good["answer"]) == (0, "safe")
    assert (bad["index"], bad["error"]["code"]) == (1, "truncated_image")
    alone = await http.post("/v1/cascades/moderation", files={"image": ("b.png", png("blue"), "image/png")})
    assert (alone.status_code, alone.json()["error"]["code"]) == (400, "truncated_image")


async def test_a_question_without_an_image(http: httpx.AsyncClient, site: CascadeSite) -> None:
    site.chat.says = "Paris"
    body = (await http.post("/v1/cascades/vqa", json={"question": "What is the capital?"})).json()
    assert body["results"][0]["answer"] == "Paris"


@pytest.mark.parametrize(
    ("name", "body", "wanted"),
    [
        ("nothing", {"image": URI}, (404, "cascade_not_found", "name")),
        ("moderation", {}, (400, "missing_field", "image")),
        ("vqa", {"image": URI}, (400, "missing_field", "question")),
        ("moderation", {"image": "!"}, (400, "invalid_base64", "image")),
        ("moderation", {"images": [URI] * 7}, (400, "too_many_inputs", "images")),
        ("moderation", {"image": URI, "colour": 1}, (400, "unknown_field", "colour")),
        ("moderation", {"image": URI, "explain": 3}, (400, "invalid_field", "explain")),
    ],
)
async def test_refused(http: httpx.AsyncClient, name: str, body: dict[str, Any], wanted: tuple[int, str, str]) -> None:
    response = await http.post(f"/v1/cascades/{name}", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == wanted


async def test_an_error_of_the_last_step_is_the_requests(http: httpx.AsyncClient, site: CascadeSite) -> None:
    site.screen.raises = Unavailable("gone")
    site.chat.says = "I do not know"
    response = await http.post("/v1/cascades/moderation", json={"image": URI})
    assert (response.status_code, response.json()["error"]["code"]) == (502, "invalid_output")


async def test_what_there_is(http: httpx.AsyncClient) -> None:
    listed = (await http.get("/v1/cascades")).json()["data"]
    assert [card["name"] for card in listed] == list(CASCADES)
    card = (await http.get("/v1/cascades/moderation")).json()
    assert card == listed[0]
    assert (card["calibrated"], card["gear"], card["uses"]) == (False, "normal", ["clip", "llava"])
    assert card["steps"][0]["threshold"] == 0.9
    assert (await http.get("/v1/cascades/nothing")).status_code == 404


async def test_a_gear_is_never_silent() -> None:
    site = CascadeSite(cascades={"moderation": GEARED})
    site.screen.logits = {"safe": 0.1}
    async with site.client() as client:
        response = await client.post("/v1/cascades/moderation", json={"image": URI})
        assert response.headers["x-argus-gear"] == response.json()["gear"] == "busy"
        assert response.json()["results"][0]["step"] == "screen"
        moderated = await client.post("/v1/moderate", json={"image": URI})
        chat = await client.post(
            "/v1/chat/completions", json={"model": "moderation", "messages": [{"role": "user", "content": [SHOWN]}]}
        )
    assert moderated.headers["x-argus-gear"] == chat.headers["x-argus-gear"] == "busy"


async def test_a_cascade_is_a_chat_model(client: openai.AsyncOpenAI, site: CascadeSite) -> None:
    site.chat.says = "a cat"
    answer = await client.chat.completions.create(
        model="vqa",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [SHOWN, {"type": "text", "text": "What is it?"}]},  # type: ignore[list-item]
        ],
        max_tokens=5,
        temperature=0.2,
    )
    assert answer.choices[0].message.content == "a cat"
    assert answer.model == "vqa"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 9
    trace = answer.model_extra
    assert trace is not None
    assert trace["argus"]["trace"][0]["step"] == "ask"
    request = site.chat.requests[0]
    assert [message.role for message in request.messages] == ["system", "user"]
    assert (request.sampling.max_tokens, request.sampling.temperature) == (5, 0.2)


async def test_a_label_is_a_completion_too(client: openai.AsyncOpenAI) -> None:
    messages: Any = [{"role": "user", "content": [SHOWN]}]
    plain = await client.chat.completions.create(model="moderation", messages=messages, extra_body={"explain": False})
    assert plain.choices[0].message.content == "safe"
    assert plain.model_extra is not None
    assert plain.model_extra["argus"]["outcome"] == "allow"
    assert "trace" not in plain.model_extra["argus"]


async def test_a_stream_brings_the_answer_and_the_trace(client: openai.AsyncOpenAI, site: CascadeSite) -> None:
    site.chat.says = "a cat"
    stream = await client.chat.completions.create(
        model="vqa",
        messages=[{"role": "user", "content": "What is it?"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices) == "a cat"
    assert any(chunk.usage is not None and chunk.usage.total_tokens == 9 for chunk in chunks)
    extra = [chunk.model_extra["argus"] for chunk in chunks if chunk.model_extra and "argus" in chunk.model_extra]
    assert [one["trace"][0]["model"] for one in extra] == ["llava"]


@pytest.mark.parametrize("usage", [True, False])
async def test_a_gathered_stream_has_its_usage_and_its_trace(
    client: openai.AsyncOpenAI, site: CascadeSite, usage: bool
) -> None:
    site.chat.says = "a cat"
    options: Any = {"stream_options": {"include_usage": True}} if usage else {}
    asked: Any = [{"role": "user", "content": "What is it?"}]
    extra = []
    async with client.chat.completions.stream(model="vqa", messages=asked, **options) as stream:
        async for event in stream:
            if event.type == "chunk" and event.chunk.model_extra:
                extra.append(event.chunk.model_extra["argus"])
        whole = await stream.get_final_completion()
    assert whole.choices[0].message.content == "a cat"
    assert (None if whole.usage is None else whole.usage.total_tokens) == (9 if usage else None)
    assert [one["trace"][0]["model"] for one in extra] == ["llava"]


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"n": 2}, (400, "unsupported_parameter", "n")),
        ({"logprobs": True}, (400, "unsupported_parameter", "logprobs")),
        ({"response_format": {"type": "json_object"}}, (400, "unsupported_parameter", "response_format")),
        ({"explain": "yes"}, (400, "invalid_field", "explain")),
        ({"messages": [{"role": "assistant", "content": "x"}]}, (400, "last_message_not_user", "messages[0]")),
        ({"model": "moderation"}, (400, "missing_field", "messages")),
        (
            {"model": "moderation", "messages": [{"role": "user", "content": [SHOWN, SHOWN]}]},
            (400, "too_many_images", "messages[0].content[1].image_url"),
        ),
    ],
)
async def test_chats_that_a_cascade_refuses(
    http: httpx.AsyncClient, more: dict[str, Any], wanted: tuple[int, str, str]
) -> None:
    body = {"model": "vqa", "messages": [{"role": "user", "content": "What?"}], **more}
    response = await http.post("/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == wanted


async def test_cascades_are_listed_as_models(client: openai.AsyncOpenAI) -> None:
    models = {model.id: model async for model in client.models.list()}
    assert set(CASCADES) <= set(models)
    assert models["moderation"].model_extra is not None
    assert models["moderation"].model_extra["kind"] == "cascade"
    assert (await client.models.retrieve("vqa")).id == "vqa"


async def test_the_document_names_them(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    operation = paths["/v1/cascades/{name}"]["post"]
    assert {"application/json", "multipart/form-data", "image/jpeg"} <= set(operation["requestBody"]["content"])
    assert {"400", "404", "429", "503", "504"} <= set(operation["responses"])
    (name,) = [one for one in operation["parameters"] if one["in"] == "path"]
    assert name["schema"]["enum"] == list(CASCADES)
    assert {"/v1/moderate", "/v1/products/analyze", "/v1/search/products"} <= set(paths)
