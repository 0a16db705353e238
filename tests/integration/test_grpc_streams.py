"""Several requests in progress on one stream, over real gRPC, with tritonclient's stream API."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2_grpc

from serve.protocol.interleave import MOST_IN_PROGRESS
from serve.protocol.oip_grpc import GrpcSkin
from tests.unit.fakes import KEYS, FakeGenerator, Site, cluster

MODELS = {"llava": {"kind": "llava", "checkpoint": "llava-hf/llava-1.5-7b-hf"}}


class Held(FakeGenerator):
    """Holds answers to texts that begin with `slow` before their second word, until `release` is set.

    Attributes:
        ended: attempts that are over, however they ended.
    """

    def reset(self) -> None:
        super().reset()
        self.release = asyncio.Event()
        self.ended = 0

    async def stream(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        try:
            async for event in super().stream(*args, **kwargs):
                yield event
                if event.text == "slow":
                    await self.release.wait()
        finally:
            self.ended += 1


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def site(held: Held) -> Site:
    return Site(cluster(models=MODELS), more={"llava": held})


@pytest.fixture
async def address(site: Site) -> AsyncIterator[str]:
    skin = GrpcSkin()
    skin.set_up_grpc(site.services, site.inference)
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(skin, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


class Stream:
    """tritonclient's stream, its answers in a queue."""

    def __init__(self, address: str) -> None:
        self.client = triton.InferenceServerClient(address)
        self.answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.client.start_stream(
            lambda result, error: self.answers.put((result, error)), headers={"x-api-key": KEYS["alice"]}
        )

    def ask(self, text: str, request_id: str) -> None:
        tensor = triton.InferInput("TEXT", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode()], np.object_))
        self.client.async_stream_infer("llava.chat", [tensor], request_id=request_id)

    async def next(self) -> tuple[str, str, bool]:
        """Request id, text, and whether it is the request's last response."""
        result, error = await asyncio.to_thread(self.answers.get, timeout=30)
        assert error is None, error
        response = result.get_response()
        final = response.parameters["triton_final_response"].bool_param
        return response.id, result.as_numpy("TEXT")[0].decode(), final

    async def close(self, *, cancel: bool = False) -> None:
        await asyncio.to_thread(self.client.stop_stream, cancel_requests=cancel)
        await asyncio.to_thread(self.client.close)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(6_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("what was waited for has not come within half a minute")


async def test_a_short_answer_overtakes_a_long_one(address: str, held: Held) -> None:
    stream = Stream(address)
    stream.ask("slow story", "long")
    assert await stream.next() == ("long", "slow", False)
    stream.ask("two words", "short")
    short = [await stream.next() for _ in range(3)]
    assert short == [("short", "two", False), ("short", " words", False), ("short", " (0 media)", True)]
    held.release.set()
    assert [await stream.next() for _ in range(2)] == [("long", " story", False), ("long", " (0 media)", True)]
    await stream.close()


async def test_a_client_that_stops_sending_still_gets_every_answer(address: str, held: Held) -> None:
    stream = Stream(address)
    for number in range(12):  # more than are in progress at once
        stream.ask("slow one", f"r{number}")
    await until(lambda: len(held.requests) == MOST_IN_PROGRESS)
    closing = asyncio.create_task(stream.close())
    held.release.set()
    await closing
    answers: dict[str, list[str]] = {}
    while not stream.answers.empty():
        request, text, _ = await stream.next()
        answers.setdefault(request, []).append(text)
    assert answers == {f"r{number}": ["slow", " one", " (0 media)"] for number in range(12)}


async def test_requests_without_an_id_are_answered_in_turn(address: str, held: Held) -> None:
    stream = Stream(address)
    for word in ("slow", "next"):
        stream.ask(word, "")
    assert (await stream.next())[1] == "slow"
    assert len(held.requests) == 1
    held.release.set()
    assert [(await stream.next())[1] for _ in range(3)] == [" (0 media)", "next", " (0 media)"]
    await stream.close()


async def test_cancelling_the_stream_cancels_all_of_it(address: str, held: Held, site: Site) -> None:
    stream = Stream(address)
    for request in ("a", "b", "c"):
        stream.ask("slow story", request)
    assert {(await stream.next())[0] for _ in range(3)} == {"a", "b", "c"}
    assert held.ended == 0
    await stream.close(cancel=True)
    await until(lambda: held.ended == 3)
    await until(lambda: len(site.recorder.requests) == 3)
    assert {record.outcome for record in site.recorder.requests} == {"cancelled"}
