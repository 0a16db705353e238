"""Deployments of `bare`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import FastAPI, Request
from ray import serve
from ray.serve.handle import DeploymentHandle

_OPTIONS: dict[str, Any] = {"max_ongoing_requests": 512, "ray_actor_options": {"num_cpus": 0.2}}
_app = FastAPI()


@serve.deployment(**_OPTIONS)
class Model:
    """Takes the body, answers with its length."""

    async def __call__(self, body: bytes) -> dict[str, int]:
        return {"bytes": len(body)}


@serve.deployment(**_OPTIONS)
@serve.ingress(_app)
class FastapiIngress:
    """Reads the body and hands it on."""

    def __init__(self, model: DeploymentHandle[Any]) -> None:
        self._model = model

    @_app.get("/ready")
    async def ready(self) -> str:
        """For the start."""
        return "ready"

    @_app.post("/v1/classify")
    async def classify(self, request: Request) -> dict[str, int]:
        """One hop."""
        return await self._model.remote(await request.body())


@serve.deployment(**_OPTIONS)
@serve.ingress()
class AsgiIngress:
    """The same without a framework."""

    def __init__(self, model: DeploymentHandle[Any]) -> None:
        self._model = model

    def __serve_build_asgi_app__(self) -> Callable[..., Awaitable[None]]:
        """Called by Ray Serve."""

        async def app(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Any) -> None:
            if scope["type"] == "lifespan":
                await _lifespan(receive, send)
            else:
                await self._answer(scope, receive, send)

        return app

    async def _answer(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        answer = orjson.dumps(await self._model.remote(body))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


async def _lifespan(receive: Callable[[], Awaitable[Any]], send: Any) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})
