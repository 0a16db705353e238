"""Requests of one stream side by side: order within a request, bounds, and what ends them all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import pytest

from serve.protocol.interleave import Interleaved


class Stage:
    """Answers that go on when they are told to; a request is `NAME` or `NAME:anything`."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self._gates: dict[str, asyncio.Semaphore] = {}

    def gate(self, request: str) -> asyncio.Semaphore:
        return self._gates.setdefault(request, asyncio.Semaphore(0))

    def let(self, request: str, pieces: int = 100) -> None:
        for _ in range(pieces):
            self.gate(request).release()

    async def answer(self, request: str) -> AsyncGenerator[str, None]:
        self.begun.append(request)
        try:
            for piece in range(3):
                await self.gate(request).acquire()
                if request.endswith("broken"):
                    raise ZeroDivisionError(request)
                yield f"{request}-{piece}"
        finally:
            self.ended.append(request)


def name(request: str) -> str:
    return request.partition(":")[0]


async def sent(*requests: str, then: Callable[[], None] | None = None) -> AsyncIterator[str]:
    for request in requests:
        yield request
    if then is not None:
        then()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_replies_interleave_and_keep_their_order_within_a_request() -> None:
    stage = Stage()
    replies = Interleaved(sent("a", "b"), stage.answer, name).replies()
    heard = []
    for turn in ("b", "a", "a", "b", "b", "a"):
        stage.let(turn, 1)
        heard.append(await anext(replies))
    assert heard == ["b-0", "a-0", "a-1", "b-1", "b-2", "a-2"]
    with pytest.raises(StopAsyncIteration):
        await anext(replies)


async def test_requests_of_one_name_are_answered_in_turn_beside_others() -> None:
    stage = Stage()
    replies = Interleaved(sent("a:1", "a:2", "b"), stage.answer, name).replies()
    first = asyncio.create_task(anext(replies))
    await settle()
    assert stage.begun == ["a:1", "b"]
    for request in ("a:2", "b", "a:1"):
        stage.let(request)
    heard = [await first, *[reply async for reply in replies]]
    assert [reply for reply in heard if reply.startswith("a")] == [f"a:{i}-{j}" for i in (1, 2) for j in range(3)]
    assert len(heard) == 9


async def test_no_more_than_the_bound_are_in_progress() -> None:
    stage = Stage()
    replies = Interleaved(sent("a", "b", "c"), stage.answer, name, most=2).replies()
    first = asyncio.create_task(anext(replies))
    await settle()
    assert stage.begun == ["a", "b"]
    for request in "abc":
        stage.let(request)
    heard = [await first, *[reply async for reply in replies]]
    assert stage.begun == ["a", "b", "c"]
    assert len(heard) == 9


async def test_a_slow_reader_holds_the_answers_back() -> None:
    stage = Stage()
    for request in "abcd":
        stage.let(request)
    replies = Interleaved(sent(*"abcd"), stage.answer, name, most=2).replies()
    await anext(replies)
    await settle()
    assert stage.ended == ["a"], "one piece is read, two may wait, and the answers in progress hold back the rest"
    assert "d" not in stage.begun
    assert len([reply async for reply in replies]) == 11


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_leaving_ends_every_answer(how: str) -> None:
    stage = Stage()
    replies = Interleaved(sent("a", "a:2", "b"), stage.answer, name).replies()
    stage.let("a", 1)
    await anext(replies)
    if how == "close":
        await replies.aclose()
    else:
        waiting = asyncio.create_task(anext(replies))
        await settle()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert sorted(stage.ended) == sorted(stage.begun) == ["a", "b"]


@pytest.mark.parametrize("broken", ["answer", "requests"])
async def test_an_error_ends_all_and_is_raised(broken: str) -> None:
    stage = Stage()

    def fail() -> None:
        raise ZeroDivisionError("the stream broke")

    requests = sent("a", "b:broken") if broken == "answer" else sent("a", then=fail)
    stage.let("b:broken")
    with pytest.raises(ZeroDivisionError):
        async for _ in Interleaved(requests, stage.answer, name).replies():
            pass
    assert sorted(stage.ended) == sorted(stage.begun)


async def test_no_requests_no_replies() -> None:
    assert [reply async for reply in Interleaved(sent(), Stage().answer, name).replies()] == []
