"""Servers, resolvers and fetchers that tests of media by URL share."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from serve.errors import ArgusError, DeadlineExceeded
from serve.media.fetch import FetchPolicy, MediaFetcher, Resolver, resolve

Handler = Callable[[str, dict[str, str], asyncio.StreamWriter], Awaitable[None]]
MAX_BYTES = 10_000


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on 127.0.0.1 that hands path, lower-case headers and the open socket to `handler`; yields its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            await handler(head[0].split(" ")[1], headers, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answer(body: bytes = b"", status: int = 200, **headers: str) -> Handler:
    fields = {"Content-Type": "image/png", "Content-Length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }

    async def handler(path: str, request: dict[str, str], writer: asyncio.StreamWriter) -> None:
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
        writer.write(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body)
        await writer.drain()

    return handler


def names(**table: str | list[str]) -> Resolver:
    """A resolver with fixed answers; keyword `a_example` answers for a.example. Everything else does not exist."""

    async def resolver(host: str, port: int) -> list[str]:
        found = table.get(host.replace(".", "_"))
        if found is None:
            raise OSError("no such host")
        return [found] if isinstance(found, str) else found

    return resolver


@asynccontextmanager
async def fetcher(
    *allow_hosts: str, resolver: Resolver = resolve, tls: ssl.SSLContext | None = None, **policy: float
) -> AsyncIterator[MediaFetcher]:
    limits = {"max_bytes": MAX_BYTES, "timeout_s": 20.0} | policy
    made = MediaFetcher(FetchPolicy(allow_hosts=allow_hosts, **limits), resolver=resolver, ssl_context=tls)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.aclose()


async def code_of(awaitable: Awaitable[object]) -> str:
    with pytest.raises(ArgusError) as caught:
        await awaitable
    assert 400 <= caught.value.status < 500 or isinstance(caught.value, DeadlineExceeded)
    return caught.value.code
