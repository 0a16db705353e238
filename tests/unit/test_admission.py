"""Admission: a bound on what is in progress, given back however a request ends."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import Overloaded
from serve.resilience.admission import Admission


def test_the_limit_is_kept_and_places_come_back() -> None:
    admission = Admission(2)
    with admission:
        with admission:
            with pytest.raises(Overloaded) as caught, admission:
                pytest.fail("a third request was let in")
            assert "2 requests" in caught.value.message
            assert caught.value.retry_after_s is not None
            assert caught.value.retry_after_s > 0
        with admission:
            pass


def test_a_refused_request_takes_and_gives_nothing() -> None:
    counts: list[int] = []
    admission = Admission(1, counts.append)
    with admission:
        for _ in range(3):
            with pytest.raises(Overloaded), admission:
                pass
        assert counts == [1]
    assert counts == [1, 0]


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError(), KeyboardInterrupt()])
def test_a_place_comes_back_after_an_error(error: BaseException) -> None:
    admission = Admission(1)
    with pytest.raises(type(error)), admission:
        raise error
    with admission:
        pass


async def test_a_cancelled_request_gives_its_place_back() -> None:
    admission = Admission(1)
    entered = asyncio.Event()

    async def request() -> None:
        with admission:
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await entered.wait()
    with pytest.raises(Overloaded), admission:
        pass
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with admission:
        pass


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=40))
def test_never_more_than_the_limit(limit: int, arrivals: list[bool]) -> None:
    counts: list[int] = [0]
    admission = Admission(limit, counts.append)
    inside: list[ExitStack] = []
    for arrives in arrivals:
        if arrives:
            stack = ExitStack()
            try:
                stack.enter_context(admission)
            except Overloaded:
                assert len(inside) == limit
            else:
                inside.append(stack)
        elif inside:
            inside.pop(0).close()
        assert counts[-1] == len(inside) <= limit
