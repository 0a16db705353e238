"""Whether every model answers: asked by anybody, without a key, as often as they like.

A probe asks every model, so whoever asked a thousand times a second would have each model asked as often. Those who
ask while a round is on its way share it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

from serve import tracing
from serve.context import RequestContext
from serve.errors import DeadlineExceeded

# Seconds within which models answer a probe; one that is later is not ready.
_ROUND_S: Final = 5.0


class Readiness:
    """One round of questions at a time.

    Args:
        ask: asks every model, within the context's deadline; raises what the first one that fails does.
    """

    def __init__(self, ask: Callable[[RequestContext], Awaitable[object]]) -> None:
        self._ask = ask
        self._round: asyncio.Task[None] | None = None

    async def check(self, context: RequestContext) -> None:
        """Returns when every model answers.

        Raises:
            ArgusError: of the first that does not.
            DeadlineExceeded: they did not in time.
        """
        if self._round is None or self._round.done():
            shared = RequestContext(context.request_id, context.client, time.monotonic() + _ROUND_S)
            with tracing.use(None):  # it belongs to nobody's request alone
                self._round = asyncio.create_task(self._run(shared))
            self._round.add_done_callback(_heard)
        try:
            async with asyncio.timeout(context.remaining_s()):
                await asyncio.shield(self._round)
        except TimeoutError:
            raise DeadlineExceeded("The deadline passed before every model had answered.") from None

    async def _run(self, context: RequestContext) -> None:
        await self._ask(context)


def _heard(task: asyncio.Task[None]) -> None:
    """Nobody may be left to hear how the round ended."""
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()
