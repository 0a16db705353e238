"""Clients that mean no good: some send as slowly as they can, others frames that are none."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks.chaos import http2
from benchmarks.chaos.callers import Caller, Classify, GrpcReady, Turns
from benchmarks.chaos.inside import neighbours
from benchmarks.chaos.scenario import Scenario
from benchmarks.chaos.site import Site

# Connections that send a byte of their headers a second, and such that send one of their bodies.
_SLOW_HEADERS, _SLOW_BODIES = 200, 60
_BYTE_EVERY_S: Final = 0.5
# They are ended by then: headers have ten seconds, a body its request's deadline.
_BODY_S, _HEADERS_END_S, _BODIES_END_S = 5.0, 20.0, 15.0
_FUZZED: Final = 150
_AT_ONCE: Final = 10
_ANSWER_S: Final = 3.0
_PATH: Final = "/inference.GRPCInferenceService/ModelInfer"
_OVERSIZED: Final = 40 * 1024 * 1024
_OVERSIZED_S: Final = 60.0


@dataclass(frozen=True)
class _Slow:
    """Connections that begin well and then send a byte now and then.

    Attributes:
        status: that they are answered with.
        longest_s: until they are closed.
    """

    kind: str
    count: int
    start: str
    status: int
    longest_s: float

    def wrong(self, ended: Sequence[tuple[float, bytes]]) -> list[str]:
        """What is not as it should be, given for each how long it was kept and what it was told."""
        found = []
        late = sum(seconds > self.longest_s for seconds, _ in ended)
        if late:
            found.append(f"{late} of {self.count} with slow {self.kind} were kept longer than {self.longest_s:g} s")
        others = [answer for _, answer in ended if not answer.startswith(f"HTTP/1.1 {self.status} ".encode())]
        if others:
            found.append(f"{len(others)} of {self.count} slow {self.kind} got no {self.status}, but {others[0][:60]!r}")
        return found


@asynccontextmanager
async def _slow(site: Site, wrong: list[str]) -> AsyncIterator[None]:
    """Hundreds of connections that are always about to send the rest."""
    head = (
        "POST /v1/classify?labels=a,b&model=staged HTTP/1.1\r\nhost: argus\r\ncontent-type: image/png\r\n"
        f"x-argus-timeout-ms: {1e3 * _BODY_S:.0f}\r\ncontent-length: 100000\r\n"
    )
    kinds = (
        _Slow("headers", _SLOW_HEADERS, "GET /v1/models HTTP/1.1\r\nhost: argus\r\nx-more: ", 408, _HEADERS_END_S),
        _Slow("bodies", _SLOW_BODIES, f"{head}x-api-key: {site.key}\r\n\r\n", 408, _BODIES_END_S),
        _Slow("bodies without a key", _SLOW_BODIES, f"{head}\r\n", 401, _BODIES_END_S),
    )
    tasks = {kind: [asyncio.create_task(_drip(site, kind.start)) for _ in range(kind.count)] for kind in kinds}
    try:
        yield
        for kind, dripping in tasks.items():
            wrong += kind.wrong(await asyncio.gather(*dripping))
    finally:
        for task in itertools.chain.from_iterable(tasks.values()):
            task.cancel()


async def _drip(site: Site, start: str) -> tuple[float, bytes]:
    """Sends a byte now and then until the server has had enough; how long that took, and what it said."""
    host, _, port = site.http.removeprefix("http://").partition(":")
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(host, int(port))
    reading = asyncio.create_task(reader.read())
    try:
        writer.write(start.encode())
        while not reading.done() and time.monotonic() - began < 2 * _HEADERS_END_S:
            writer.write(b"x")
            with suppress(ConnectionError):
                await writer.drain()
            await asyncio.wait([reading], timeout=_BYTE_EVERY_S)
        answer = b""
        if reading.done() and not reading.cancelled() and reading.exception() is None:
            answer = reading.result()
        return time.monotonic() - began, answer
    finally:
        reading.cancel()
        writer.close()


@asynccontextmanager
async def _fuzzed(site: Site, wrong: list[str]) -> AsyncIterator[None]:
    """Frames that are none, messages that are none, and messages that are far too large."""
    before = set(site.replicas("router"))
    places = asyncio.Semaphore(_AT_ONCE)
    draw = random.Random(8)
    right = service_pb2.ModelInferRequest(model_name="neighbour.classify", id="1").SerializeToString()
    sent = []
    for number in range(_FUZZED):
        if number % 3 == 0:  # right frames, a message that is none
            body = http2.message(draw.randbytes(draw.randint(0, 300)))
            sent.append(b"".join(http2.call(_PATH, body, {"x-api-key": site.key})))
        elif number % 3 == 1:  # a message that states another length than it has
            body = http2.message(right, length=draw.choice((0, 1, 2**20, 2**31, 2**32 - 1)))
            sent.append(b"".join(http2.call(_PATH, body, {"x-api-key": site.key})))
        else:
            sent.append(http2.mutated(http2.call(_PATH, http2.message(right), {"x-api-key": site.key}), draw))
    await asyncio.gather(*(_throw(site, data, places) for data in sent))
    await _send_oversized(site, wrong)
    yield
    gone = before - set(site.replicas("router"))
    if gone:
        wrong.append(f"{len(gone)} of {len(before)} routers ended")


async def _throw(site: Site, data: bytes, places: asyncio.Semaphore) -> None:
    """Sends bytes on a connection of their own, and waits a moment for what may come back."""
    host, _, port = site.grpc.partition(":")
    async with places:
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except ConnectionError:
            return  # the neighbours' requests will say so
        try:
            with suppress(ConnectionError, TimeoutError):
                writer.write(data)
                await writer.drain()
                async with asyncio.timeout(_ANSWER_S):
                    await reader.read()
        finally:
            writer.close()


async def _send_oversized(site: Site, wrong: list[str]) -> None:
    """A message beyond `limits.max_body_bytes` is refused with a code, not with silence."""
    request = service_pb2.ModelInferRequest(model_name="neighbour.classify", id="large")
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(b"\x00" * _OVERSIZED)
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(site.grpc, options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            await stub.ModelInfer(request, timeout=_OVERSIZED_S, metadata=[("x-api-key", site.key)])
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT):
                wrong.append(f"a message of {_OVERSIZED} bytes: {error.code()}, {error.details()!r:.120}")
        else:
            wrong.append(f"a message of {_OVERSIZED} bytes was accepted")


def _usual() -> Sequence[Caller]:
    return [Classify(6), Turns(2), *neighbours()]


SCENARIOS: Final = (
    Scenario("slow-clients", "headers and bodies sent a byte at a time", "main", _usual, _slow, seconds=24.0),
    Scenario(
        "grpc-frames",
        "fuzzed and oversized gRPC frames",
        "main",
        lambda: [Classify(6), GrpcReady(6, "staged"), *neighbours()],
        _fuzzed,
        seconds=20.0,
    ),
)
