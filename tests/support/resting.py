"""A model for tests of routing: says which replica was asked, and can stay busy."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator


class Resting:
    """Its answers are the number of the replica's process."""

    async def where(self) -> int:
        return os.getpid()

    async def stay(self) -> AsyncGenerator[int, None]:
        """Says where it is, then keeps its place until it is left."""
        yield os.getpid()
        await asyncio.Event().wait()

    async def linger(self) -> int:
        await asyncio.sleep(2)
        return os.getpid()
