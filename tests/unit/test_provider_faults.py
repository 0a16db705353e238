"""Every way in which a provider fails, through the official clients: which of our errors it becomes, and its end."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import pickle
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks.fake_providers import KEY, FakeServer, Fault, in_thread
from deployments.generation.messages import ChatEvent, Constraint, Sampling
from serve.errors import (
    ArgusError,
    ContentRefused,
    ContextTooLong,
    DeadlineExceeded,
    Forbidden,
    InvalidOutput,
    InvalidRequest,
    NotFound,
    RateLimited,
    Unavailable,
)
from serve.resilience.failures import failure_class
from tests.support.provider_servers import KEY_VARIABLE, WAYS, asking, pointed_at, showing, streamed

HTTP_WAYS = ("openai", "gemini", "anthropic")
# The wait is so short that a test which meets it takes no time, and so long that a machine under load can answer.
SOON_S = 1.0

Pair = tuple[FakeServer, Any]


@pytest.fixture(params=WAYS)
async def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    async with WAYS[request.param][0]() as server, pointed_at(server, monkeypatch, request.param) as provider:
        yield server, provider


@pytest.fixture(params=HTTP_WAYS)
async def hosted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    async with WAYS[request.param][0]() as server, pointed_at(server, monkeypatch, request.param) as provider:
        yield server, provider


async def failure_of(provider: Any, stream: bool, timeout_s: float = 10.0, request: Any = None) -> ArgusError:
    with pytest.raises(ArgusError) as caught:
        if stream:
            await streamed(provider, request or showing(), timeout_s)
        else:
            await provider.chat(request or showing(), timeout_s)
    return caught.value


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("mode", "kind", "failure"),
    [
        ("429", RateLimited, "rate_limited"),
        ("500", Unavailable, "unavailable"),
        ("503", Unavailable, "unavailable"),
        ("reset", Unavailable, "unavailable"),
        ("malformed", Unavailable, "unavailable"),
        ("404", NotFound, "other"),
        ("400", InvalidRequest, "invalid_request"),
        ("401", Forbidden, "other"),
    ],
)
async def test_each_failure_becomes_ours(
    pair: Pair, mode: str, kind: type[ArgusError], failure: str, stream: bool
) -> None:
    server, provider = pair
    server.script = [Fault(mode)]
    error = await failure_of(provider, stream)
    assert type(error) is kind
    assert failure_class(error) == failure
    assert server.calls == 1, "only the router tries again"
    assert KEY not in error.message
    answer = await provider.chat(showing(), 10)  # the connection that broke is not used again
    assert answer.result.answers[0].text == "A cat on a mat."


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_never_answers_ends_at_the_deadline_and_is_let_go(pair: Pair, stream: bool) -> None:
    server, provider = pair
    server.script = [Fault("hang")]
    assert type(await failure_of(provider, stream, timeout_s=SOON_S)) is DeadlineExceeded
    await until(lambda: server.gone == 1 and server.in_flight == 0)


async def test_a_stream_that_stalls_ends_at_the_deadline(hosted: Pair) -> None:
    server, provider = hosted
    server.event_s = 30
    assert type(await failure_of(provider, True, timeout_s=SOON_S)) is DeadlineExceeded
    await until(lambda: server.in_flight == 0)


async def test_a_call_that_is_cancelled_lets_its_connection_go(pair: Pair) -> None:
    server, provider = pair
    server.script = [Fault("hang")]
    call = asyncio.create_task(provider.chat(showing(), 60))
    await until(lambda: server.in_flight == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: server.gone == 1 and server.in_flight == 0)


async def test_a_stream_that_is_left_lets_its_connection_go(hosted: Pair) -> None:
    server, provider = hosted
    server.event_s = 0.05
    server.answer = "word " * 500
    stream = provider.chat_stream(asking("Go on.", sampling=Sampling(max_tokens=1000)), 60)
    assert isinstance(await anext(stream), ChatEvent)
    await stream.aclose()
    await until(lambda: server.gone == 1 and server.in_flight == 0)


async def test_a_stream_that_is_cut_gives_what_came_and_then_fails(hosted: Pair) -> None:
    server, provider = hosted
    server.script = [Fault("cut", after_events=2)]
    seen: list[Any] = []
    with pytest.raises(Unavailable):
        async for item in provider.chat_stream(asking("Go on."), 10):
            seen.append(item)
    text = "".join(item.text for item in seen)
    assert "A cat on a mat.".startswith(text)
    assert all(item.finish_reason is None for item in seen), "what was cut is not finished"


async def test_an_answer_that_is_cut_is_no_answer(hosted: Pair) -> None:
    server, provider = hosted
    server.script = [Fault("cut")]
    assert type(await failure_of(provider, False)) is Unavailable


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("mode", ["refuse", "refuse_answer"])
async def test_what_the_policy_refuses(hosted: Pair, mode: str, stream: bool) -> None:
    server, provider = hosted
    server.script = [Fault(mode)]
    error = await failure_of(provider, stream)
    assert type(error) is ContentRefused
    assert not error.retryable


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_prompt_that_does_not_fit(hosted: Pair, stream: bool) -> None:
    server, provider = hosted
    server.script = [Fault("too_long")]
    error = await failure_of(provider, stream)
    assert type(error) is ContextTooLong
    assert failure_class(error) == "context_too_long"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_json_that_is_none(pair: Pair, stream: bool) -> None:
    server, provider = pair
    server.script = [Fault("invalid_output")]
    request = asking("As JSON.", sampling=Sampling(max_tokens=50, constraint=Constraint()))
    assert type(await failure_of(provider, stream, request=request)) is InvalidOutput


async def test_nobody_listens(pair: Pair) -> None:
    server, provider = pair
    await provider.chat(showing(), 10)
    await server.__aexit__(None, None, None)
    try:
        assert type(await failure_of(provider, False)) is Unavailable
        assert type(await failure_of(provider, True)) is Unavailable
    finally:
        await server.__aenter__()  # the fixture ends it again


@pytest.mark.parametrize("mode", ["429", "503"])
async def test_how_long_to_wait_in_seconds_and_as_a_date(hosted: Pair, mode: str) -> None:
    server, provider = hosted
    date = email.utils.formatdate(time.time() + 120, usegmt=True)
    server.script = [
        Fault(mode, retry_after=7),
        Fault(mode, retry_after=date),
        Fault(mode),
        Fault(mode, retry_after="soon"),
    ]
    assert (await failure_of(provider, False)).retry_after_s == 7
    wait = (await failure_of(provider, False)).retry_after_s
    assert wait is not None
    assert 60 < wait <= 121
    assert (await failure_of(provider, False)).retry_after_s is None
    assert (await failure_of(provider, False)).retry_after_s is None, "what cannot be read is not guessed"


@pytest.mark.parametrize("way", WAYS)
async def test_a_wrong_key_is_told_without_being_told(
    way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = "sk-wrong-5d2c8a77"
    more = {"needs_key": True} if way.startswith("oip") else {}
    caplog.set_level(logging.DEBUG)
    async with WAYS[way][0](**more) as server, pointed_at(server, monkeypatch, way) as provider:
        monkeypatch.setenv(KEY_VARIABLE, wrong)
        for stream in (False, True):
            error = await failure_of(provider, stream)
            assert type(error) is Forbidden
            assert wrong not in repr(error) + str(error) + repr(provider) + repr(vars(provider))
            assert wrong[:8] not in error.message
            assert pickle.loads(pickle.dumps(error)).message == error.message
    assert wrong not in "".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("way", WAYS)
async def test_a_key_that_is_not_there(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with WAYS[way][0]() as server, pointed_at(server, monkeypatch, way) as provider:
        monkeypatch.delenv(KEY_VARIABLE)
        error = await failure_of(provider, False)
        assert (type(error), error.code) == (Forbidden, "provider_key_missing")
        assert server.calls == 0


async def test_calls_beside_each_other_do_not_disturb_each_other(pair: Pair) -> None:
    server, provider = pair
    server.script = [None, Fault("503"), None, Fault("reset"), None, Fault("malformed")]
    results = await asyncio.gather(*(provider.chat(showing(), 10) for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(result, Unavailable) for result in results) == 3
    assert sum(not isinstance(result, Exception) for result in results) == 3


async def test_a_server_of_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = WAYS["openai"][0]
    with in_thread(kind()) as server:
        async with pointed_at(server, monkeypatch, "openai") as provider:
            assert (await provider.chat(showing(), 10)).result.answers[0].text == "A cat on a mat."


async def until(true: Any) -> None:
    """Waits until the server has noticed, however long that takes it."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - the servers have no events for their counters
            await asyncio.sleep(0.01)
