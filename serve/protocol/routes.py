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
            if scope["method"] == "HEAD":  # a stream is not begun: it may never end
                await send(
                    {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
                )
                await send({"type": "http.response.body", "body": b""})
                return
            await response(scope, receive, send)

        self.app = app


class _Router(APIRouter):
    """Answers HEAD wherever it answers GET (RFC 9110, section 9.3.2), which the OpenAPI document need not say."""

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().add_api_route(path, endpoint, **options)
        if "GET" in (options.get("methods") or ("GET",)):
            super().add_api_route(path, endpoint, **{**options, "methods": ["HEAD"], "include_in_schema": False})


def router(prefix: str, tag: str) -> APIRouter:
    """A router of plain routes."""
    return _Router(prefix=prefix, tags=[tag], route_class=PlainRoute)
