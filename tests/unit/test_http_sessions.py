"""`/v1/sessions` over a fake engine and a real store: what is remembered, what is dropped, and what leaves no trace."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.generation.engine import check_room
from deployments.generation.messages import ChatEvent, ChatRequest, Constraint, ImagePart, Text
from deployments.session_store import SessionStoreReplica
from serve.config.models import SessionStoreModel
from tests.support import session_site
from tests.support.session_site import (
    MODELS,
    ROOT,
    TOO_LONG,
    URL,
    Clock,
    SessionSite,
    create,
    done,
    error_of,
    history,
    open_store,
    post,
    released,
    say,
)
from tests.unit.fakes import KEYS, FakeGenerator, Site, cluster, png

# pytest finds fixtures by the names of a module.
built = session_site.built
site = session_site.site
client = session_site.client
URI = "data:image/png;base64," + base64.b64encode(png()).decode()


def image(url: str = URI) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def prompt(site: SessionSite) -> list[tuple[str, list[str]]]:
    """The last prompt: roles, and texts or `image`."""
    messages = site.llava.requests[-1].messages
    return [
        (message.role, [part.text if isinstance(part, Text) else "image" for part in message.parts])
        for message in messages
    ]


async def test_a_session_is_created_found_and_deleted(client: httpx.AsyncClient) -> None:
    made = await done(
        await client.post(
            ROOT,
            json={"model": "llava", "system": "Be brief.", "ttl_s": 60, "max_turns": 2, "metadata": {"topic": "stars"}},
        )
    )
    assert made["object"] == "session" and made["id"].startswith("sess_")
    assert (made["model"], made["system"], made["ttl_s"]) == ("llava", "Be brief.", 60)
    assert (made["max_turns"], made["max_images"], made["max_tokens"]) == (2, 3, 1000)
    assert (made["turns"], made["images"], made["tokens"], made["metadata"]) == (0, 0, 0, {"topic": "stars"})
    assert made["expires_at"] == made["created_at"] + 60
    assert await done(await client.get(f"{ROOT}/{made['id']}")) == made
    assert (await done(await client.get(ROOT)))["data"] == [made]
    assert (await done(await client.delete(f"{ROOT}/{made['id']}")))["deleted"] is True
    for response in (
        await client.get(f"{ROOT}/{made['id']}"),
        await client.delete(f"{ROOT}/{made['id']}"),
        await client.get(f"{ROOT}/{made['id']}/messages"),
        await post(client, made["id"], "hello"),
    ):
        assert error_of(response, 404) == ("session_not_found", "id")


async def test_a_session_needs_no_body(client: httpx.AsyncClient) -> None:
    made = await done(await client.post(ROOT))
    assert (made["model"], made["turns"], made["max_turns"]) == (None, 0, 4)
    assert (await say(client, made["id"], "hello"))["session"]["turns"] == 1
    described = (await client.get("/openapi.json")).json()["paths"][ROOT]["post"]["requestBody"]
    assert described["required"] is False
    for body in (b" ", b"[]", b"{"):
        assert error_of(await client.post(ROOT, content=body), 400) == ("invalid_json", "body")


async def test_messages_are_answered_over_what_was_said(client: httpx.AsyncClient, site: SessionSite) -> None:
    session = await create(client, system="Be brief.")
    first = await say(client, session, [image(), text("what is this")], temperature=0, max_tokens=20)
    assert first["object"] == "chat.completion" and first["model"] == "llava"
    assert first["choices"][0]["message"]["content"] == "what is this (1 media)"
    assert first["usage"]["prompt_tokens"] == 7 and first["usage"]["completion_tokens"] == 4
    session_now = first["session"]
    assert (session_now["id"], session_now["turns"], session_now["images"]) == (session, 1, 1)
    assert (session_now["tokens"], session_now["kept"], session_now["dropped"]) == (11, True, 0)
    assert site.llava.requests[-1].sampling.max_tokens == 20
    second = await say(client, session, "and its colour")
    assert second["choices"][0]["message"]["content"] == "and its colour (1 media)"
    assert prompt(site) == [
        ("system", ["Be brief."]),
        ("user", ["image", "what is this"]),
        ("assistant", ["what is this (1 media)"]),
        ("user", ["and its colour"]),
    ]
    (shown,) = [part for part in site.llava.requests[-1].messages[1].parts if isinstance(part, ImagePart)]
    assert shown.image.data == png()  # type: ignore[union-attr]
    listed = (await done(await client.get(f"{ROOT}/{session}/messages")))["data"]
    assert [message["role"] for message in listed] == ["system", "user", "assistant", "user", "assistant"]
    assert listed[1]["content"][0]["type"] == "image" and listed[1]["content"][0]["bytes"] == len(png())
    assert listed[2]["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}


async def test_an_image_by_url_is_fetched_once(client: httpx.AsyncClient, site: SessionSite) -> None:
    session = await create(client)
    await say(client, session, [image(URL), text("look")])
    site.pages.clear()
    assert (await say(client, session, "again"))["choices"][0]["message"]["content"] == "again (1 media)"


async def test_streams_are_remembered_at_their_end(client: httpx.AsyncClient) -> None:
    session = await create(client)
    response = await post(client, session, "one two", stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    deltas = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
    assert "".join(deltas) == "one two (0 media)"
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["usage"]["completion_tokens"] == 3
    assert (chunks[-1]["session"]["turns"], chunks[-1]["session"]["kept"]) == (1, True)
    assert chunks[-1]["choices"] == [] and chunks[-1]["object"] == "chat.completion.chunk"
    assert await history(client, session) == ["one two"]


async def test_the_oldest_exchanges_go_first_and_it_is_said(client: httpx.AsyncClient, site: SessionSite) -> None:
    session = await create(client, max_turns=3, system="Stay.")
    for word in ("a", "b", "c"):
        assert (await say(client, session, word))["session"]["dropped"] == 0
    answer = await say(client, session, "d")
    assert (answer["session"]["turns"], answer["session"]["dropped"]) == (3, 1)
    assert [role for role, _ in prompt(site)] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert await history(client, session) == ["b", "c", "d"]


async def test_images_are_bounded_by_session_and_model(client: httpx.AsyncClient, site: SessionSite) -> None:
    session = await create(client)
    await say(client, session, [image(), text("a")])
    await say(client, session, [image(URL), text("b")])
    assert (await say(client, session, [image(), text("c")]))["session"]["dropped"] == 1  # the model takes two
    assert await history(client, session) == ["b", "c"]
    many = await post(client, session, [image()] * 4)
    assert error_of(many, 400) == ("too_many_images", "content[3].image_url")  # the session keeps three
    three = await post(client, session, [image()] * 3)
    assert error_of(three, 400) == ("too_many_images", "content[2].image_url")  # the model takes two
    assert (await done(await client.get(f"{ROOT}/{session}")))["images"] == 2


async def test_a_blip2_session_goes_on_with_a_second_picture(client: httpx.AsyncClient, site: SessionSite) -> None:
    session = await create(client, model="blip2")
    await say(client, session, [image(), text("a")])
    assert (await say(client, session, [image(URL), text("b")]))["session"]["dropped"] == 1
    (message,) = site.blip2.requests[-1].messages
    assert sum(isinstance(part, ImagePart) for part in message.parts) == 1
    assert await history(client, session) == ["b"]
    two = await post(client, session, [image(), image()])
    assert error_of(two, 400) == ("too_many_images", "content[1].image_url")


async def test_tokens_of_the_history_are_bounded(client: httpx.AsyncClient) -> None:
    session = await create(client, max_tokens=20)
    assert (await say(client, session, "a b c d"))["session"]["tokens"] == 12  # 7 of the prompt, 5 of the answer
    second = await say(client, session, "e f")
    assert (second["session"]["dropped"], second["session"]["turns"]) == (0, 2)
    await client.delete(f"{ROOT}/{session}")
    session = await create(client, max_tokens=10)
    await say(client, session, "a b c d")
    assert (await say(client, session, "e"))["session"]["dropped"] == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_is_too_long_loses_its_oldest_exchanges(
    client: httpx.AsyncClient, site: SessionSite, stream: bool
) -> None:
    session = await create(client, system="Stay.")
    for word in ("a", "b", "c"):
        await say(client, session, word)
    site.llava.script = [(0, TOO_LONG), (0, TOO_LONG)]
    response = await post(client, session, "d", stream=stream)
    assert response.status_code == 200
    assert prompt(site) == [("system", ["Stay."]), ("user", ["c"]), ("assistant", ["c (0 media)"]), ("user", ["d"])]
    assert await history(client, session) == ["c", "d"]


class Window(FakeGenerator):
    """A model with a window, whose messages are as long as their words."""

    def events(self, request: ChatRequest) -> list[ChatEvent]:
        texts = [part.text for message in request.messages for part in message.parts if isinstance(part, Text)]
        check_room(request.sampling, sum(len(text.split()) for text in texts), 40)
        return [ChatEvent(0, "one two", (1, 2), finish_reason="stop", prompt_tokens=7)]


@pytest.mark.parametrize("stream", [False, True])
async def test_history_gives_way_to_the_answers_room(
    client: httpx.AsyncClient, site: SessionSite, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(FakeGenerator, "events", Window.events)
    session = await create(client)
    for said in ("a " * 14, "b " * 14):  # 16 and 32 of 40 words, the answers' among them
        await say(client, session, said, max_tokens=8)
    assert (await post(client, session, "c d", max_tokens=8, stream=stream)).status_code == 200
    assert await history(client, session) == ["b " * 14, "c d"]
    # A quarter of the window is enough for an answer of any length.
    assert (await post(client, session, "e " * 8, stream=stream)).status_code == 200
    assert await history(client, session) == ["b " * 14, "c d", "e " * 8]
    # A message alone may fill the window, as a plain chat request may.
    assert (await post(client, session, "f " * 40, stream=stream)).status_code == 200
    assert await history(client, session) == ["f " * 40]
    assert site.llava.requests[-1].sampling.room == 0


async def test_another_clients_session_does_not_exist(client: httpx.AsyncClient, site: SessionSite) -> None:
    session = await create(client)
    async with site.client(headers={"X-API-Key": KEYS["bob"]}) as bob:
        for response in (
            await bob.get(f"{ROOT}/{session}"),
            await bob.get(f"{ROOT}/{session}/messages"),
            await post(bob, session, "hello"),
            await bob.delete(f"{ROOT}/{session}"),
        ):
            assert error_of(response, 404) == ("session_not_found", "id")
        assert (await done(await bob.get(ROOT)))["data"] == []
    async with site.client() as nobody:
        assert error_of(await nobody.get(f"{ROOT}/{session}"), 401)[0] == "unauthenticated"
    assert (await done(await client.get(f"{ROOT}/{session}")))["turns"] == 0


async def test_sessions_expire(client: httpx.AsyncClient, site: SessionSite, tmp_path: Path) -> None:
    clock = Clock()
    site.sessions.__init__(open_store(tmp_path / "other", clock))  # type: ignore[misc]
    session = await create(client, ttl_s=60)
    clock.now += 59
    assert (await say(client, session, "a"))["session"]["expires_at"] == clock.now + 60
    clock.now += 61
    assert error_of(await post(client, session, "b"), 404) == ("session_not_found", "id")


async def test_the_message_names_its_model(client: httpx.AsyncClient, site: SessionSite) -> None:
    session = await create(client, model="blip2")
    assert (await say(client, session, "a"))["model"] == "blip2"
    assert (await say(client, session, "b", model="llava"))["model"] == "llava"
    assert (await say(client, session, "c"))["model"] == "blip2" and len(site.blip2.requests) == 2


async def test_answers_may_be_constrained(client: httpx.AsyncClient, site: SessionSite) -> None:
    session = await create(client)
    await say(client, session, "a", response_format={"type": "json_object"}, seed=3, stop=["x"], logprobs=True)
    sampling = site.llava.requests[-1].sampling
    assert (sampling.constraint, sampling.seed, sampling.stop, sampling.n) == (Constraint(), 3, ("x",), 1)


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"model": "nope"}, 404, "model_not_found", "model"),
        ({"model": "clip"}, 400, "task_not_supported", "model"),
        ({"ttl_s": 0}, 400, "invalid_field", "ttl_s"),
        ({"ttl_s": 1e9}, 400, "invalid_field", "ttl_s"),
        ({"max_turns": 5}, 400, "invalid_field", "max_turns"),
        ({"max_turns": 0}, 400, "invalid_field", "max_turns"),
        ({"max_images": 4}, 400, "invalid_field", "max_images"),
        ({"max_tokens": 1001}, 400, "invalid_field", "max_tokens"),
        ({"system": ""}, 400, "invalid_field", "system"),
        ({"system": "x" * 501}, 400, "text_too_long", "system"),
        ({"metadata": {"a": 1}}, 400, "invalid_field", "metadata.a"),
        ({"metadata": {str(i): "" for i in range(17)}}, 400, "invalid_field", "metadata"),
        ({"metadata": {"a": "x" * 513}}, 400, "invalid_field", "metadata.a"),
        ({"owner": "bob"}, 400, "unknown_field", "owner"),
    ],
)
async def test_a_session_that_cannot_be(
    client: httpx.AsyncClient, fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    assert error_of(await client.post(ROOT, json=fields), status) == (code, param)
    assert (await done(await client.get(ROOT)))["data"] == []


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({}, "missing_field", "content"),
        ({"content": []}, "empty_message", "content"),
        ({"content": 5}, "invalid_field", "content"),
        ({"content": [{"type": "sound"}]}, "invalid_field", "content[0].type"),
        ({"content": [text("x"), image("data:image/png;base64,AAAA")]}, "not_an_image", "content[1].image_url"),
        ({"content": [image("https://elsewhere.example/x.png")]}, "url_not_allowed", "content[0].image_url"),
        ({"content": "x" * 501}, "text_too_long", "content"),
        ({"content": "x", "n": 2}, "unknown_field", "n"),
        ({"content": "x", "messages": []}, "unknown_field", "messages"),
        ({"content": "x", "temperature": 3}, "invalid_field", "temperature"),
        ({"content": "x", "tools": [{}]}, "unsupported_parameter", "tools"),
        ({"content": "x", "model": "clip"}, "task_not_supported", "model"),
        ({"content": "x", "stream_options": {}}, "invalid_field", "stream_options"),
    ],
)
async def test_a_message_that_cannot_be(
    client: httpx.AsyncClient, site: SessionSite, fields: dict[str, Any], code: str, param: str
) -> None:
    session = await create(client)
    status = 403 if code == "url_not_allowed" else 400
    assert error_of(await client.post(f"{ROOT}/{session}/messages", json=fields), status) == (code, param)
    await released(site)
    assert (await say(client, session, "fine"))["session"]["turns"] == 1


async def test_a_full_store_says_so(client: httpx.AsyncClient, site: SessionSite, tmp_path: Path) -> None:
    settings = SessionStoreModel(kind="session_store", path=str(tmp_path / "small"), max_sessions=1)
    site.sessions.__init__(SessionStoreReplica(settings, Clock()))  # type: ignore[misc]
    await create(client)
    assert error_of(await client.post(ROOT, json={}), 507) == ("out_of_capacity", None)


async def test_without_a_store_there_are_no_sessions() -> None:
    site = Site(cluster(models={name: MODELS[name] for name in ("clip", "llava")}))
    async with site.client() as client:
        for response in (
            await client.post(ROOT, json={}),
            await client.get(ROOT),
            await client.get(f"{ROOT}/sess_x"),
            await post(client, "sess_x", "hello"),
        ):
            assert error_of(response, 404) == ("not_configured", None)
