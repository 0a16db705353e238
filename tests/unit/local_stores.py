"""Real stores in this process, in the place of their deployments."""

from __future__ import annotations

import asyncio
from typing import Any

from serve.context import RequestContext


class LocalStore:
    """A `ModelHandle` of a store replica.

    Attributes:
        failing: errors that the next calls of a method raise, before it runs.
        lost: errors that the next calls of a method raise after it has run.
        calls: methods called.
    """

    def __init__(self, replica: Any) -> None:
        self.replica = replica
        self.failing: dict[str, list[Exception]] = {}
        self.lost: dict[str, list[Exception]] = {}
        self.calls: list[str] = []

    async def call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        context.remaining_s()
        self.calls.append(method)
        await asyncio.sleep(0)  # as a real call would, it lets others run first
        if self.failing.get(method):
            raise self.failing[method].pop(0)
        answer = await getattr(self.replica, method)(*args, **kwargs)
        if self.lost.get(method):
            raise self.lost[method].pop(0)
        return answer
