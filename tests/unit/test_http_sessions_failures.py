"""`/v1/sessions` when answers fail, readers leave, or the store is away: a history is whole or as it was."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from deployments.generation.messages import ChatEvent, Sampling
from serve.chat import Turn
from serve.context import RequestContext
from serve.errors import InvalidRequest, ModelFailed, Overloaded, Unavailable
from tests.support import session_site
from tests.support.session_site import ROOT, TOO_LONG, SessionSite, create, done, error_of, history, post, released, say

# pytest finds fixtures by the names of a module.
built = session_site.built
site = session_site.site
client = session_site.client


async def asked(site: SessionSite, times: int = 1) -> None:
    """Returns when the model has been asked so often."""
    while len(site.llava.requests) < times:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_a_message_that_is_too_long_alone_is_refused(client: httpx.AsyncClient, site: SessionSite) -> None:
    session = await create(client)
    await say(client, session, "a")
    site.llava.script = [(0, TOO_LONG)] * 2
    assert error_of(await post(client, session, "b"), 400) == ("prompt_too_long", "content")
    assert len(site.llava.requests) == 3 and await history(client, session) == ["a"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_answer_leaves_no_trace(client: httpx.AsyncClient, site: SessionSite, stream: bool) -> None:
    session = await create(client)
    await say(client, session, "a")
    before = await done(await client.get(f"{ROOT}/{session}"))
    for error in (ModelFailed("It broke."), Overloaded("Full."), InvalidRequest("No.", param="messages[2].content[1]")):
        site.llava.script = [(0, error)]
        response = await post(client, session, "b", stream=stream)
        assert error_of(response, error.status)[0] == error.code
    assert response.json()["error"]["param"] == "content[1]"
    site.llava.script = [(1, ModelFailed("It broke in the middle."))]
    response = await post(client, session, "b b b", stream=stream)
    assert "It broke in the middle." in response.text and "[DONE]" not in response.text
    await released(site)
    assert await done(await client.get(f"{ROOT}/{session}")) == before
    assert (await say(client, session, "c"))["session"]["turns"] == 2


async def test_an_answer_that_its_deadline_cut_is_not_kept(client: httpx.AsyncClient, site: SessionSite) -> None:
    session = await create(client)
    whole = site.llava.events

    def cut(request: Any) -> list[ChatEvent]:
        return [ChatEvent(0, "half an ans", (1, 2), finish_reason="cut", prompt_tokens=5)]

    site.llava.events = cut  # type: ignore[method-assign]
    try:
        answer = await say(client, session, "a")
    finally:
        site.llava.events = whole  # type: ignore[method-assign]
    assert answer["choices"][0]["message"]["content"] == "half an ans"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert (answer["session"]["kept"], answer["session"]["turns"]) == (False, 0)
    await released(site)
    assert (await say(client, session, "b"))["session"]["kept"] is True


@pytest.mark.parametrize("stream", [False, True])
async def test_a_second_message_at_once_is_refused(client: httpx.AsyncClient, site: SessionSite, stream: bool) -> None:
    session, other = await create(client), await create(client)
    site.llava.hang.clear()
    first = asyncio.create_task(post(client, session, "first", stream=stream))
    await asked(site)
    for second in (await post(client, session, "second"), await post(client, session, "second", stream=True)):
        assert error_of(second, 409) == ("session_busy", "id")
        assert second.headers["retry-after"] == "1"
    elsewhere = asyncio.create_task(post(client, other, "hello"))
    site.llava.hang.set()
    assert (await first).status_code == (await elsewhere).status_code == 200
    assert await history(client, session) == ["first"]
    await say(client, session, "third")
    assert await history(client, session) == ["first", "third"]


async def test_a_lost_turn_changes_nothing(client: httpx.AsyncClient, site: SessionSite) -> None:
    """The store was restarted and forgot the lease: both are answered, the first to end is kept."""
    session = await create(client)
    site.llava.hang.clear()
    first = asyncio.create_task(post(client, session, "first", stream=True))
    await asked(site)
    site.sessions.replica._store._leases.clear()
    whole, site.llava.hang = site.llava.hang, asyncio.Event()
    site.llava.hang.set()
    assert (await say(client, session, "second"))["session"]["turns"] == 1
    whole.set()
    lost = (await first).text
    assert '"session_busy"' in lost and "[DONE]" not in lost
    assert await history(client, session) == ["second"]


async def test_a_reader_who_leaves_leaves_no_trace(client: httpx.AsyncClient, site: SessionSite) -> None:
    session = await create(client)
    service = site.services.sessions
    context = RequestContext("r", "alice", time.monotonic() + 30)
    asking = await service.begin(session, Turn("user", ("one two three",)), Sampling(), context)
    events = service.stream(asking, context)
    assert (await anext(events)).text == "one"
    assert error_of(await post(client, session, "other"), 409)[0] == "session_busy"
    await events.aclose()
    await released(site)
    assert site.llava.closed == 1 and await history(client, session) == []
    assert (await say(client, session, "other"))["session"]["turns"] == 1


async def test_a_client_that_goes_away_leaves_no_trace(client: httpx.AsyncClient, site: SessionSite) -> None:
    session = await create(client)
    site.llava.hang.clear()
    for stream in (False, True):
        request = asyncio.create_task(post(client, session, "hello", stream=stream))
        await asked(site, 2 if stream else 1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await released(site)
    site.llava.hang.set()
    assert await history(client, session) == []
    assert (await say(client, session, "again"))["session"]["turns"] == 1


async def test_a_store_that_is_away_for_a_moment_is_waited_for(client: httpx.AsyncClient, site: SessionSite) -> None:
    session = await create(client)
    for method in ("begin", "append"):
        site.sessions.failing[method] = [Unavailable("gone")]
        site.sessions.lost[method] = [Unavailable("gone after it was done")]
    answer = await say(client, session, "once")
    assert answer["session"]["turns"] == 1 and await history(client, session) == ["once"]
    assert len(site.llava.requests) == 1


async def test_a_deletion_whose_answer_is_lost_is_none_the_less_done(
    client: httpx.AsyncClient, site: SessionSite
) -> None:
    session = await create(client)
    site.sessions.lost["delete"] = [Unavailable("gone after it was done")]
    answer = await client.delete(f"/v1/sessions/{session}")
    assert answer.status_code == 200 and answer.json()["deleted"] is True
    assert (await client.delete(f"/v1/sessions/{session}")).status_code == 404


async def test_an_answer_that_cannot_be_stored_is_an_error(client: httpx.AsyncClient, site: SessionSite) -> None:
    session = await create(client)
    for stream in (False, True):
        site.sessions.failing["append"] = [ModelFailed("disk")]
        response = await post(client, session, "a", stream=stream)
        assert '"model_failed"' in response.text and "[DONE]" not in response.text
        await released(site)
    assert await history(client, session) == []
