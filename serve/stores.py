"""Calls to the stores of the cluster: not there at all, or not there for a moment."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from serve import tracing
from serve.context import RequestContext
from serve.errors import ArgusError, NotFound
from serve.handles import ModelHandle
from serve.resilience.retry import pause_before_retry


class StoreClient:
    """A store deployment, which has one replica: while that one is replaced, calls wait and try again.

    The methods of our stores may be sent twice.

    Args:
        handle: None when the cluster file names no such store.
        kind: of the model, for the message that says so.
    """

    def __init__(self, handle: ModelHandle | None, kind: str, missing: str | None = None) -> None:
        self._handle = handle
        self._kind = kind
        self._missing = missing or f"This cluster has no model of kind {kind}."

    async def call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the store.

        Raises:
            NotFound: `not_configured`.
            ArgusError: whatever else went wrong.
        """
        return await self._sent(method, context, args, kwargs, deletes=False)

    async def delete(self, context: RequestContext, *args: Any) -> None:
        """Deletes what it names. When the answer to a first call was lost, a second finds nothing: the first did it.

        Raises:
            NotFound: `not_configured`, or there is nothing of the name.
            ArgusError: whatever else went wrong.
        """
        await self._sent("delete", context, args, {}, deletes=True)

    async def _sent(
        self, method: str, context: RequestContext, args: Sequence[Any], kwargs: Mapping[str, Any], *, deletes: bool
    ) -> Any:
        if self._handle is None:
            raise NotFound(self._missing, code="not_configured")
        for attempt in itertools.count(1):
            try:
                with tracing.span("store", tracing.Kind.CLIENT) as span:
                    if span is not None:
                        span.set_attributes({"argus.store": self._kind, "argus.method": method})
                    return await self._handle.call(method, context, *args, **kwargs)
            except ArgusError as error:
                if deletes and attempt > 1 and isinstance(error, NotFound):
                    return None
                pause = pause_before_retry(error, attempt, context.left_s(), random.random())
                if pause is None:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("the loop returns or raises")
