"""A segment of a film drawn and encoded: while a frame is encoded, the next ones are drawn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from deployments.base import CpuPool
from deployments.rendering.encode import eight_bits
from deployments.rendering.film import FilmWriter
from deployments.rendering.messages import FilmRequest, Float32
from serve.errors import InvalidRequest

T = TypeVar("T")
R = TypeVar("R")


def check_film(request: FilmRequest) -> None:
    """Raises `InvalidRequest` (`invalid_field`) for frames that are no film."""
    if len({(camera.width, camera.height) for camera in request.cameras}) != 1:
        raise InvalidRequest("The frames of a film have one size.", code="invalid_field", param="cameras")
    if request.times_s and len(request.times_s) != len(request.cameras):
        raise InvalidRequest(
            f"times_s has {len(request.times_s)} entries for {len(request.cameras)} frames.",
            code="invalid_field",
            param="times_s",
        )


async def shoot(request: FilmRequest, draw: Callable[[int], Awaitable[Float32]], pool: CpuPool, ahead: int) -> bytes:
    """The segment's MP4 file.

    Args:
        draw: gives a frame by its number: (height, width, 3) float32 from 0 to 1.
        pool: encodes.
        ahead: frames that may be drawn, or wait, while one is encoded.

    Raises:
        ArgusError: what `draw` raises, and see `FilmWriter`.
    """
    first, count = request.cameras[0], len(request.cameras)
    writer = await pool.run(FilmWriter, first.width, first.height, request.fps, count, request.quality)
    async with aclosing(in_order(range(count), draw, ahead)) as frames:
        async for frame in frames:
            await pool.run(_add, writer, frame)
    return await pool.run(writer.finish)


def _add(writer: FilmWriter, frame: Float32) -> None:
    writer.add(eight_bits(frame))


async def in_order(items: Sequence[T], make: Callable[[T], Awaitable[R]], ahead: int) -> AsyncGenerator[R, None]:
    """What `make` makes of each item, in their order, with up to `ahead` of the next ones in the making."""
    coming: deque[asyncio.Future[R]] = deque()
    try:
        for item in items:
            coming.append(asyncio.ensure_future(make(item)))
            if len(coming) > ahead:
                yield await coming.popleft()
        while coming:
            yield await coming.popleft()
    finally:
        for left in coming:
            left.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
