"""Behind Ray Serve's own proxy: a request that it leaves unanswered is answered, and no other is touched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import httpx
import pytest

from serve import loopback
from serve.plain_proxy import AnswersAll

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


async def silent(scope: Message, receive: Any, send: Send) -> None:
    """What Ray Serve's proxy does when the router of a request is gone."""


async def half(scope: Message, receive: Any, send: Send) -> None:
    """The same, when half of an answer was sent."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})


async def sent_by(app: Any, kind: str) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    await AnswersAll(app)({"type": kind}, receive, send)
    return sent


async def test_no_answer_becomes_ours() -> None:
    transport = httpx.ASGITransport(AnswersAll(silent))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        answer = await client.get("/v1/models")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("unavailable", "unavailable_error")


async def test_an_answer_that_began_is_left_alone() -> None:
    assert [message["type"] for message in await sent_by(half, "http")] == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_what_is_no_request_is_left_alone(kind: str) -> None:
    assert await sent_by(silent, kind) == []


def test_it_stands_where_there_is_no_haproxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(loopback.ENVIRONMENT, raising=False)
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    assert loopback.http_proxy_callback() == []
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY")
    (only,) = loopback.http_proxy_callback()
    assert only.cls is AnswersAll
