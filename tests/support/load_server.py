"""A small server for load tests: HTTP and gRPC in a process of its own, which can be told to stall.

    python -m tests.support.load_server

It prints its two ports. `GET /ask?number=N` answers at once; with `stall=SECONDS` as well it holds up everybody. `GET
/asked` says how often it was asked.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from aiohttp import web
from tritonclient.grpc import service_pb2, service_pb2_grpc


class _Live(service_pb2_grpc.GRPCInferenceServiceServicer):
    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)


_ASKED = web.AppKey("asked", list[str])


async def _ask(request: web.Request) -> web.Response:
    request.app[_ASKED].append(request.query["number"])
    if stall := request.query.get("stall"):
        time.sleep(float(stall))  # noqa: ASYNC251 (this is the stall)
    await asyncio.sleep(float(request.query.get("after", "0.001")))
    if request.query.get("refuse"):
        error = {"code": "overloaded", "message": "too much"}
        return web.json_response({"error": error}, status=429)
    seen = request.headers.get("X-API-Key", "")
    return web.json_response({"number": int(request.query["number"]), "key": seen})


async def _asked(request: web.Request) -> web.Response:
    return web.json_response(len(request.app[_ASKED]))


async def _serve() -> None:
    app = web.Application()
    app[_ASKED] = []
    app.router.add_get("/ask", _ask)
    app.router.add_get("/asked", _asked)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Live(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(runner.addresses[0][1], port, flush=True)
    await asyncio.Event().wait()


@dataclass(frozen=True, slots=True)
class LoadServer:
    """Where it listens."""

    http: str
    grpc: str

    def asked(self) -> int:
        """How often it was asked over HTTP."""
        return int(httpx.get(f"{self.http}/asked", trust_env=False, timeout=60).json())


@contextmanager
def load_server() -> Iterator[LoadServer]:
    """Runs it for the time of the block."""
    command = [sys.executable, "-m", "tests.support.load_server"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        http, port = process.stdout.readline().split()
        yield LoadServer(f"http://127.0.0.1:{http}", f"127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    asyncio.run(_serve())
