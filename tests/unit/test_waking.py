"""Models without replicas: who waits for the first one, who is told to come again, and that nobody keeps them awake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from serve.context import RequestContext
from serve.errors import ModelFailed, Unavailable
from serve.handles import ModelHandle
from serve.waking import STARTING, WakingHandle
from tests.support.virtual_loop import run_virtually


class Sleeper:
    """A model whose first replica takes `start_s`, on the time of the running loop."""

    def __init__(self, start_s: float = 40.0) -> None:
        self.start_s = start_s
        self.ready_at: float | None = None
        self.asked: list[str] = []
        self.error: Exception | None = None

    def sleep(self) -> None:
        self.ready_at = None

    async def call(
        self, method: str, context: RequestContext, *args: Any, affinity: str | None = None, **kwargs: Any
    ) -> Any:
        self.asked.append(method)
        await self._started()
        if self.error is not None:
            raise self.error
        return method

    async def stream(
        self, method: str, context: RequestContext, *args: Any, affinity: str | None = None
    ) -> AsyncGenerator[Any, None]:
        self.asked.append(method)
        await self._started()
        for piece in range(3):
            yield piece

    async def _started(self) -> None:
        now = _now()
        if self.ready_at is None:
            self.ready_at = now + self.start_s
        await asyncio.sleep(max(0.0, self.ready_at - now))


def _handle(model: ModelHandle, **settings: Any) -> WakingHandle:
    return WakingHandle(
        "llava",
        model,
        clock=_now,
        **{"start_s": 60.0, "keep_s": 100.0, "most_waiting": 3, **settings},
    )


def _now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture(autouse=True)
def _deadlines_are_on_the_loops_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.context.time", SimpleNamespace(monotonic=_now))


def _within(seconds: float) -> RequestContext:
    """A context that ends in so many seconds."""
    return RequestContext("r", "alice", _now() + seconds)


def test_the_first_call_starts_a_replica_and_waits_for_it() -> None:
    async def main() -> None:
        model = Sleeper()
        assert await _handle(model).call("chat", _within(90)) == "chat"
        assert model.asked == ["info", "chat"]
        assert _now() == pytest.approx(40, abs=1)

    run_virtually(main())


def test_all_wait_for_one_waking_call() -> None:
    async def main() -> None:
        model = Sleeper()
        handle = _handle(model)
        answers = await asyncio.gather(*(handle.call("chat", _within(90)) for _ in range(3)))
        assert answers == ["chat"] * 3
        assert model.asked.count("info") == 1

    run_virtually(main())


def test_a_deadline_that_is_too_early_is_refused_at_once_with_the_time_that_is_left() -> None:
    async def main() -> None:
        model = Sleeper()
        handle = _handle(model)
        with pytest.raises(Unavailable, match="not be there before the deadline") as caught:
            await handle.call("chat", _within(30))
        assert _now() < 1, "at once, so that it may ask another"
        assert (caught.value.code, caught.value.status) == (STARTING, 503)
        assert caught.value.retry_after_s == pytest.approx(59.5, abs=0.1)
        # What it began goes on: who comes when it was told to is answered.
        await asyncio.sleep(caught.value.retry_after_s)
        assert await handle.call("chat", _within(1)) == "chat"

    run_virtually(main())


def test_more_than_may_wait_are_told_to_come_again() -> None:
    async def main() -> None:
        handle = _handle(Sleeper())
        waiting = [asyncio.create_task(handle.call("chat", _within(90))) for _ in range(3)]
        await asyncio.sleep(10)
        with pytest.raises(Unavailable, match="3 calls wait for it already") as caught:
            await handle.call("chat", _within(90))
        assert caught.value.retry_after_s == pytest.approx(50)
        assert await asyncio.gather(*waiting) == ["chat"] * 3
        assert await handle.call("chat", _within(90)) == "chat", "then there is room again"

    run_virtually(main())


def test_it_learns_how_long_a_start_takes() -> None:
    async def main() -> None:
        model = Sleeper(start_s=20.0)
        handle = _handle(model, start_s=100.0)
        await handle.call("chat", _within(300))
        await asyncio.sleep(500)
        model.sleep()
        with pytest.raises(Unavailable) as caught:
            await handle.call("chat", _within(30))
        assert caught.value.retry_after_s == pytest.approx(59.5, abs=0.1), "halfway from 100 to 20"

    run_virtually(main())


def test_a_model_that_answered_lately_is_asked_directly() -> None:
    async def main() -> None:
        model = Sleeper()
        handle = _handle(model)
        await handle.call("chat", _within(90))
        for _ in range(5):
            await asyncio.sleep(70)
            await handle.call("chat", _within(1))
        assert model.asked.count("info") == 1
        await asyncio.sleep(90)
        await handle.call("chat", _within(1))
        assert model.asked.count("info") == 2, "after most of the time that a replica is kept, it is not sure any more"

    run_virtually(main())


def test_a_deadline_that_passes_while_it_starts_is_an_error_that_says_so() -> None:
    async def main() -> None:
        handle = _handle(Sleeper(start_s=200.0))
        with pytest.raises(Unavailable, match="was not there before the deadline") as caught:
            await handle.call("chat", _within(70))
        assert caught.value.code == STARTING
        assert _now() == pytest.approx(70)
        assert handle._waiting == 0

    run_virtually(main())


def test_who_goes_away_takes_only_himself() -> None:
    async def main() -> None:
        handle = _handle(Sleeper())
        gone = asyncio.create_task(handle.call("chat", _within(90)))
        stays = asyncio.create_task(handle.call("chat", _within(90)))
        await asyncio.sleep(5)
        gone.cancel()
        assert await stays == "chat"
        with pytest.raises(asyncio.CancelledError):
            await gone

    run_virtually(main())


def test_a_replica_that_cannot_start_fails_those_who_wait_and_is_tried_again() -> None:
    async def main() -> None:
        model = Sleeper()
        model.error = ModelFailed("no such checkpoint")
        handle = _handle(model)
        with pytest.raises(Unavailable, match="could not be started"):
            await handle.call("chat", _within(90))
        model.error = None
        assert await handle.call("chat", _within(90)) == "chat"

    run_virtually(main())


def test_a_stream_waits_like_a_call() -> None:
    async def main() -> None:
        model = Sleeper()
        handle = _handle(model)
        assert [piece async for piece in handle.stream("chat_stream", _within(90))] == [0, 1, 2]
        assert model.asked == ["info", "chat_stream"]

    run_virtually(main())
