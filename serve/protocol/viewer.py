"""`/viewer/{scene}`: a page that shows a 3D scene, drawn by the browser or, where it cannot, by the server.

The page is static: it reads the scene's name from its own address and asks the API for the rest, with a key when the
cluster wants one. So the page itself is answered without a key, and nothing of a request is ever written into it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse

from serve.errors import NotFound
from serve.protocol import routes
from serve.scenes.service import is_name

PREFIX: Final = "/viewer"
FOLDER: Final = Path(__file__).parents[1] / "viewer"

_TYPES: Final = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
_IMPORT_MAP: Final = re.compile(r'<script type="importmap">(.*?)</script>', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the viewer.

    Attributes:
        packed: the same file as gzip, where there is one.
        etag: of its content.
    """

    path: Path
    packed: Path | None
    media_type: str
    etag: str

    def response(self, request: Request, headers: dict[str, str], status: int = 200) -> Response:
        """The file, or word that the browser's copy is still good."""
        headers = {**headers, "cache-control": "no-cache", "x-content-type-options": "nosniff", "etag": self.etag}
        if self.packed is not None:
            headers["vary"] = "accept-encoding"
        if status == 200 and self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if self.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            return FileResponse(self.packed, status, headers, self.media_type)
        return FileResponse(self.path, status, headers, self.media_type)


def build(folder: Path = FOLDER) -> APIRouter:
    """The routes, over the viewer's files."""
    router = routes.router(PREFIX, "viewer")
    assets = find_assets(folder)
    page = assets.pop("index.html")
    page_headers = {
        "content-security-policy": content_security_policy(page.path.read_text()),
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
    }

    @router.get("/{scene}", include_in_schema=False)
    async def view(scene: str, request: Request) -> Response:
        # Of what no scene can be called (percent-encoding that is no text among it), the page itself says so.
        return page.response(request, page_headers, 200 if is_name(scene) else 404)

    @router.get("/assets/{path:path}", include_in_schema=False)
    async def asset(path: str, request: Request) -> Response:
        if path not in assets:
            raise NotFound(f"The viewer has no file '{path}'.", code="asset_not_found", param="path")
        return assets[path].response(request, {})

    return router


def find_assets(folder: Path) -> dict[str, Asset]:
    """What there is to be asked for, by path below `folder`: requests are looked up here, never on the disk."""
    return {
        path.relative_to(folder).as_posix(): _asset(path, _TYPES[path.suffix])
        for path in sorted(folder.rglob("*"))
        if path.suffix in _TYPES and path.is_file()
    }


def content_security_policy(page: str) -> str:
    """Nothing but our own files and the API. The one inline script is the import map, which cannot be a file: it is let
    in by its digest. Spark compiles WebAssembly and sorts in a worker that it makes from a blob."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in _IMPORT_MAP.findall(page)]
    scripts = " ".join(["'self'", "'wasm-unsafe-eval'", *(f"'sha256-{digest}'" for digest in digests)])
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {scripts}",
            "worker-src blob:",
            "style-src 'self'",
            "img-src 'self' blob:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


def _asset(path: Path, media_type: str) -> Asset:
    packed = path.with_name(f"{path.name}.gz")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    return Asset(path, packed if packed.is_file() else None, media_type, f'W/"{digest}"')
