"""A deadline around work that knows of none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from serve.errors import DeadlineExceeded


@asynccontextmanager
async def within(deadline: float, what: str) -> AsyncIterator[None]:
    """Cancels the block's waiting at a deadline on `time.monotonic()`.

    Args:
        what: had not happened by then, for the message: `the scene was loaded`.

    Raises:
        DeadlineExceeded: it passed.
    """
    try:
        async with asyncio.timeout(deadline - time.monotonic()) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise DeadlineExceeded(f"The deadline passed before {what}.") from None
