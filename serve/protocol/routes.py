"""Routes that FastAPI documents and does not run.

FastAPI resolves dependencies and validates for every request, which our routes do themselves (`bodies`). A `PlainRoute`
keeps its place in the OpenAPI document and calls the endpoint directly: it takes the request and the path's
parameters, as strings, and returns a response.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

Endpoint = Callable[..., Awaitable[Response]]


class PlainRoute(APIRoute):
    """See the module's text."""

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        takes_request = "request" in endpoint.__annotations__

        async def app(scope: Any, receive: Any, send: Any) -> None:
            request = Request(scope, receive, send)
            arguments = {**scope["path_params"], "request": request} if takes_request else scope["path_params"]
            response = await endpoint(**arguments)
            await response(scope, receive, send)

        self.app = app


def router(prefix: str, tag: str) -> APIRouter:
    """A router of plain routes."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=PlainRoute)
