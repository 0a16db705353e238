"""The HTTP application: every skin's routes over one data plane, behind one edge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.staticfiles import StaticFiles

from deployments.florence2.tasks import TASKS
from serve.auth import Authenticator
from serve.jobs.runner import JobRunner
from serve.protocol import (
    captions,
    cascades,
    chat,
    compare,
    documents,
    indexes,
    job_operations,
    jobs,
    moderation,
    native,
    oip_http,
    openai,
    products,
    reconstructions,
    scene_stream,
    scenes,
    sessions,
    support,
    videos,
    viewer,
    vision,
)
from serve.protocol.document import completed, security
from serve.protocol.edge import DOCS_ASSETS, App, Edge, is_open
from serve.protocol.oip import InferenceService
from serve.protocol.routes import PlainRoute
from serve.protocol.socket_edge import SocketEdge
from serve.services import Services

DESCRIPTION = "Vision models behind one data plane: zero-shot classification, embeddings, image search and chat."


def build(services: Services, inference: InferenceService, start: Callable[[], None] = lambda: None) -> App:
    """An ASGI app.

    Args:
        start: called on the event loop that will serve, before the first request.
    """
    app = unguarded(services, inference, start)
    guards = (services.authenticator, services.limits, services.admission, services.tenants, services.recorder)
    return Edge(app, *guards, sockets=SocketEdge(app, *guards))


def unguarded(services: Services, inference: InferenceService, start: Callable[[], None] = lambda: None) -> _Routes:
    """Every route, without the edge that says who may ask."""
    operations = job_operations.operations(services)
    runner = JobRunner(services.jobs, operations, long=job_operations.LONG)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        start()
        async with runner.started():
            yield

    app = _Routes(
        title="Argus",
        version=services.version,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    limits = services.limits
    app.include_router(native.build(services.plane))
    app.include_router(captions.build(services.chat, limits))
    app.include_router(compare.build(services.compare, limits))
    app.include_router(vision.build(services.vision))
    app.include_router(openai.build(services.plane, services.cascades))
    app.include_router(chat.build(services.chat, services.cascades, limits.max_body_bytes))
    app.include_router(cascades.build(services.cascades, limits))
    app.include_router(moderation.build(services.cascades, limits))
    app.include_router(products.build(services.products, limits))
    app.include_router(videos.build(services.videos, limits))
    app.include_router(documents.build(services.documents, limits))
    app.include_router(scenes.build(services.scenes))
    app.include_router(scene_stream.build(services.scenes, services.admission, services.recorder))
    app.include_router(reconstructions.build(services.reconstructions, services.jobs, limits))
    app.include_router(viewer.build())
    app.include_router(jobs.build(services.jobs, operations, limits))
    app.include_router(sessions.build(services.sessions, limits.max_body_bytes))
    app.include_router(support.build(services.knowledge, services.support, limits.max_body_bytes))
    app.include_router(indexes.build(services.search, limits.max_body_bytes))
    app.include_router(oip_http.build(inference, limits.max_body_bytes, services.version))
    _add_docs(app)
    app.index_fixed_paths()
    app.authenticator = services.authenticator
    app.names = {
        "/v1/models/{name}": [card.name for card in services.plane.models()] + services.cascades.names(),
        "/v1/cascades/{name}": services.cascades.names(),
        "/v1/vision/{task}": list(TASKS),
        "/v2/models/{model}": inference.names(),
    }
    return app


def _add_docs(app: FastAPI) -> None:
    """The page at /docs with scripts that fastapi-offline carries: FastAPI's own takes them from a CDN."""
    folder = files("fastapi_offline") / "static"
    app.mount(DOCS_ASSETS, StaticFiles(directory=str(folder)))

    async def docs(request: Request) -> Response:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Argus",
            swagger_js_url=f"{DOCS_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{DOCS_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{DOCS_ASSETS}/favicon.png",
        )

    app.add_route("/docs", docs, include_in_schema=False)


class _Routes(FastAPI):
    """FastAPI's routing and documentation without its error handling: errors reach the edge, which says them."""

    names: Mapping[str, Sequence[str]] = {}
    authenticator: Authenticator

    def openapi(self) -> dict[str, Any]:
        """Made once, with what this cluster knows of itself; its keys may come and go."""
        if self.openapi_schema is None:
            self.openapi_schema = completed(super().openapi(), self.names, is_open)
        return {**self.openapi_schema, "security": security(self.authenticator.needs_key)}

    def build_middleware_stack(self) -> Any:
        """Called once by FastAPI; our plain routes need none of its middleware."""
        return self._route

    def index_fixed_paths(self) -> None:
        """Called once all routes are there: those without parameters are then found by one look-up."""
        self._fixed: dict[tuple[str, str], APIRoute] = {
            (method, route.path): route
            for route in self.router.routes
            if isinstance(route, PlainRoute) and "{" not in route.path
            for method in route.methods
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        route = self._fixed.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await super().__call__(scope, receive, send)
            return
        scope.update(route=route, path_params={})
        await route.app(scope, receive, send)

    async def _route(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.router(scope, receive, send)
        except HTTPException as error:
            if error.status_code == 405:  # the framework names the first route's methods only
                raise HTTPException(405, headers={"Allow": ", ".join(sorted(self._allowed(scope)))}) from None
            raise

    def _allowed(self, scope: Any) -> set[str]:
        found: set[str] = set()
        for route in self.router.routes:
            if route.matches(scope)[0] is not Match.NONE:
                found |= getattr(route, "methods", None) or set()
        return found
