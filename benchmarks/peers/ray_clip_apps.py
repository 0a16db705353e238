"""Deployments of `ray_clip`."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import FastAPI, Request, Response
from ray import serve
from ray.serve.handle import DeploymentHandle

from benchmarks.peers.encoder import DECODERS, MAX_BATCH, WAIT_S, Encoder, Settings

_OPTIONS: dict[str, Any] = {"max_ongoing_requests": 512, "ray_actor_options": {"num_cpus": 0.5}}
_app = FastAPI()


@serve.deployment(**_OPTIONS)
class Clip:
    """Decodes in threads beside the model, runs the model in a thread of its own, batches with `@serve.batch`."""

    def __init__(self, settings: Settings) -> None:
        self._encoder = Encoder(settings)
        self._decoders = ThreadPoolExecutor(DECODERS)
        self._model = ThreadPoolExecutor(1)

    async def __call__(self, data: bytes) -> npt.NDArray[np.float32]:
        loop = asyncio.get_running_loop()
        return await self._batched(await loop.run_in_executor(self._decoders, self._encoder.preprocess, data))

    async def ready(self) -> str:
        """Answers once the model is loaded."""
        return "ready"

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_S)
    async def _batched(self, batch: list[Any]) -> list[npt.NDArray[np.float32]]:
        return await asyncio.get_running_loop().run_in_executor(self._model, self._encoder.forward, batch)


@serve.deployment(**_OPTIONS)
@serve.ingress(_app)
class Ingress:
    """Reads the body, hands it on, writes JSON."""

    def __init__(self, clip: DeploymentHandle[Any]) -> None:
        self._clip = clip

    @_app.get("/ready")
    async def ready(self) -> str:
        """Answers when the model does."""
        return await self._clip.ready.remote()

    @_app.post("/embed")
    async def embed(self, request: Request) -> Response:
        """One image."""
        vector = await self._clip.remote(await request.body())
        return Response(
            orjson.dumps({"embedding": vector}, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json"
        )
