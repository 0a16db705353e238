"""Whoever is answered before its body has come: a real server ends its connection, and keeps everybody else's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import uvicorn

from serve.protocol.unread import Body
from tests.unit.fakes import KEYS, Site, cluster

POST = "POST /v1/classify HTTP/1.1\r\nhost: here\r\ncontent-type: image/png\r\n"


class Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    app = Site(cluster(keys=True)).app
    server = Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve())
    await server.listening.wait()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def told_while_dripping(port: int, head: str) -> bytes:
    """All that the server says before it ends the connection of a client that sends a byte now and then.

    Raises:
        TimeoutError: it does not end it.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    told = asyncio.create_task(reader.read())
    try:
        writer.write(head.encode())
        for _ in range(600):
            with suppress(ConnectionError):
                writer.write(b"x")
                await writer.drain()
            if (await asyncio.wait([told], timeout=0.1))[0]:
                return told.result()
        raise TimeoutError
    finally:
        told.cancel()
        writer.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (f"{POST}content-length: 100000\r\n\r\n", b"401"),
        (f"{POST}transfer-encoding: chunked\r\n\r\nfffff\r\n", b"401"),
        (f"{POST}x-api-key: {KEYS['alice']}\r\nx-argus-timeout-ms: 2000\r\ncontent-length: 50000\r\n\r\n", b"408"),
        ("GET /v1/healthz HTTP/1.1\r\nhost: here\r\ncontent-length: 100000\r\n\r\n", b"200"),
    ],
)
async def test_a_body_that_does_not_end_holds_no_connection(port: int, head: str, status: bytes) -> None:
    told = await told_while_dripping(port, head)
    assert told.startswith(b"HTTP/1.1 " + status)
    assert b"connection: close" in told.lower()


async def test_a_refused_client_whose_body_came_keeps_its_connection(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Body, "drain_s", 600.0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        streams = []
        for _ in range(2):
            answer = await client.post("/v1/classify", content=b"x" * 3_000_000)
            assert answer.status_code == 401
            assert "connection" not in answer.headers
            streams.append(answer.extensions["network_stream"].get_extra_info("client_addr"))
        assert streams[0] == streams[1]


async def test_a_client_that_asks_first_is_not_told_to_send(port: int) -> None:
    told = await told_while_dripping(port, f"{POST}expect: 100-continue\r\ncontent-length: 100000\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 401")
