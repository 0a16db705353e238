"""Where the Gaussians of a scene are, read from its file in the store: of a large scene, a small part of it."""

from __future__ import annotations

import asyncio
import struct
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from deployments.rendering.messages import SceneRef
from deployments.scenes.types import Bounds
from serve.context import RequestContext
from serve.errors import ArgusError, NotFound

Float32 = npt.NDArray[np.float32]
# Bytes of a scene's file, by its digest: from, and how many at most.
Read = Callable[[str, int, int, RequestContext], Awaitable[bytes]]
# Of the centres kept, in bytes; an editor asks about one scene again and again.
_KEPT: Final = 64 * 1024 * 1024
# A safetensors file begins with the length of its header.
_LENGTH: Final = 8


class Centres:
    """See the module's text.

    Args:
        read: from the store.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._kept: OrderedDict[str, Float32] = OrderedDict()

    async def of(self, ref: SceneRef, context: RequestContext) -> Float32:
        """(N, 3) float32, in the scene's order.

        Raises:
            NotFound: `scene_gone`.
        """
        if ref.digest not in self._kept:
            found = await self._load(ref, context)
            self._kept[ref.digest] = found
            while sum(one.nbytes for one in self._kept.values()) > _KEPT and len(self._kept) > 1:
                self._kept.popitem(last=False)
        self._kept.move_to_end(ref.digest)
        return self._kept[ref.digest]

    async def _load(self, ref: SceneRef, context: RequestContext) -> Float32:
        """From our own format; see `deployments.splat.scene_file`."""
        (length,) = struct.unpack("<Q", await self._bytes(ref, 0, _LENGTH, context))
        header: dict[str, Any] = orjson.loads(await self._bytes(ref, _LENGTH, length, context))
        start, end = header["means"]["data_offsets"]
        if header["means"]["dtype"] != "F32":
            raise ArgusError("The scene's file is not as it was written.")
        data = await self._bytes(ref, _LENGTH + length + start, end - start, context)
        return np.frombuffer(data, "<f4").reshape(-1, 3)

    async def _bytes(self, ref: SceneRef, offset: int, length: int, context: RequestContext) -> bytes:
        parts, end = [], offset + length
        while offset < end:
            part = await self._read(ref.digest, offset, end - offset, context)
            if not part:
                raise NotFound("The scene's file is gone.", code="scene_gone", param="version")
            parts.append(part)
            offset += len(part)
        return await asyncio.to_thread(b"".join, parts)


def bounds_of(centres: Float32) -> Bounds:
    """The box around these (N, 3), N at least 1, whole."""
    least, most = centres.min(axis=0), centres.max(axis=0)
    centre = (least + most) / 2

    def vector(values: Float32) -> tuple[float, float, float]:
        return float(values[0]), float(values[1]), float(values[2])

    return Bounds(vector(least), vector(most), vector(centre), float(np.linalg.norm(most - centre)))
