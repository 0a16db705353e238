"""Whether every model answers, however many ask at once."""

from __future__ import annotations

import asyncio
import time

import pytest

from serve.context import RequestContext
from serve.errors import DeadlineExceeded, Unavailable
from serve.readiness import Readiness


class Models:
    """Are asked, and answer once they are let."""

    def __init__(self) -> None:
        self.rounds = 0
        self.failure: Exception | None = None
        self.gate = asyncio.Event()

    async def ask(self, context: RequestContext) -> None:
        self.rounds += 1
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure


def context(left_s: float = 60.0) -> RequestContext:
    return RequestContext("id", "anonymous", time.monotonic() + left_s)


async def test_many_who_ask_at_once_share_one_round() -> None:
    models = Models()
    readiness = Readiness(models.ask)
    asking = [asyncio.create_task(readiness.check(context())) for _ in range(1000)]
    await asyncio.sleep(0)
    models.gate.set()
    await asyncio.gather(*asking)
    assert models.rounds == 1
    await readiness.check(context())
    assert models.rounds == 2, "a round that is over is no answer for later ones"


async def test_one_who_leaves_does_not_take_the_answer_from_the_others() -> None:
    models = Models()
    readiness = Readiness(models.ask)
    first, second = (asyncio.create_task(readiness.check(context())) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    models.gate.set()
    await second
    assert models.rounds == 1


async def test_all_are_told_what_fails() -> None:
    models = Models()
    models.failure = Unavailable("Loading.")
    models.gate.set()
    readiness = Readiness(models.ask)
    told = await asyncio.gather(*(readiness.check(context()) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in told] == [Unavailable] * 3


async def test_a_short_deadline_is_its_own() -> None:
    models = Models()
    readiness = Readiness(models.ask)
    patient = asyncio.create_task(readiness.check(context()))
    with pytest.raises(DeadlineExceeded):
        await readiness.check(context(0.01))
    models.gate.set()
    await patient
