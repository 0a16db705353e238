"""Hand-made HTTP/2: a real gRPC server takes what is meant to be right, so that what is wrong is wrong on purpose."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.chaos import http2

METHOD = "/chaos.Echo/Say"


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Remembers the messages that reach it."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[tuple[bytes, str]] = asyncio.Queue()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        async def say(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            await self.got.put((request, dict(details.invocation_metadata).get("x-api-key", "")))
            return request

        return grpc.unary_unary_rpc_method_handler(say) if details.method == METHOD else None


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, int]]:
    handler, server = Echo(), grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield handler, port
    await server.stop(None)


async def test_a_right_call_arrives(echo: tuple[Echo, int]) -> None:
    handler, port = echo
    payload = random.Random(1).randbytes(40_000)  # more than one frame
    _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join(http2.call(METHOD, http2.message(payload), {"x-api-key": "key"})))
    async with asyncio.timeout(60):
        assert await handler.got.get() == (payload, "key")
    writer.close()


@given(st.binary(min_size=1, max_size=400), st.randoms(use_true_random=False))
def test_a_mutation_is_made_of_any_call(body: bytes, draw: random.Random) -> None:
    frames = http2.call(METHOD, http2.message(body), {})
    assert http2.mutated(frames, draw)  # never an error, never nothing


def test_a_length_can_lie() -> None:
    assert http2.frame(http2.DATA, 0, 1, b"abc", length=0xFFFFFF)[:3] == b"\xff\xff\xff"
    assert http2.message(b"abc", length=2**31)[1:5] == b"\x80\x00\x00\x00"
    with pytest.raises(ValueError, match="at most"):
        http2.header_block({"name": "x" * 200})
