"""Who looks at `/v1/scenes/{name}/stream`: turns the camera without rest, and says how many pictures have come."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from itertools import cycle
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.load import Run, Sample

# As often as a screen is drawn, which is more often than pictures come.
_CAMERAS_PER_S = 60.0


async def watch(address: str, wishes: Sequence[dict[str, Any]], warm_up_s: float, seconds: float) -> Run:
    """Looks for so many seconds; each sample is the time from one picture to the next, or an error.

    Args:
        address: of the stream, `ws://...`.
        wishes: messages with a camera each, one after the other and again.
    """
    run = Run(warm_up_s, seconds)
    began = time.monotonic()
    async with connect(f"{address}?max_fps=60", max_size=None) as socket:
        turning = asyncio.create_task(_turn(socket, wishes))
        try:
            last, seen = 0.0, 0
            while last < seconds:
                message = await socket.recv()
                sample = Sample(last, ended=time.monotonic() - began)
                last = sample.ended or 0.0
                if isinstance(message, str):
                    sample.error = json.loads(message)["error"]["code"]
                else:
                    seen += 1
                    await socket.send(json.dumps({"seen": seen}))
                run.samples.append(sample)
        finally:
            turning.cancel()
    run.closed = time.monotonic() - began
    return run


async def _turn(socket: ClientConnection, wishes: Sequence[dict[str, Any]]) -> None:
    for wish in cycle(wishes):
        await socket.send(json.dumps(wish))
        await asyncio.sleep(1 / _CAMERAS_PER_S)
