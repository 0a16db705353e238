"""Bodies that are not wanted: whoever is answered before its body has come must not hold its connection with the rest.

Servers and proxies wait for the rest of a body after its answer, for as long as a byte comes now and then; without a
key, too. So the connection ends with such an answer (RFC 9112, 9.6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, ClassVar

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]


class Body:
    """The body of one request, and whether all of it was read.

    Args:
        headers: by their lower-case names.
        receive: ASGI's.

    Attributes:
        drain_s: what is under way has mostly come by then, and the client keeps its connection; and one that sends much
            reads its answer before it finds the connection closed.
    """

    drain_s: ClassVar[float] = 1.0

    def __init__(self, headers: Mapping[bytes, bytes], receive: _Receive) -> None:
        self._receive = receive
        self._waits = b"expect" in headers
        self.is_read = not headers.get(b"content-length", b"").strip(b" 0") and b"transfer-encoding" not in headers

    async def receive(self) -> _Message:
        """ASGI's, and notes the end."""
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self.is_read = True
        return message

    async def drain(self) -> None:
        """Reads on for a moment; nothing of a client that waits to be told to send (`Expect: 100-continue`)."""
        if self.is_read or self._waits:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self.drain_s):
                while not self.is_read:
                    await self.receive()
