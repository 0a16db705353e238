"""A server that nobody should reach, or that tells what it was sent: it keeps requests, and answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, dict[str, str], bytes]


@dataclass(frozen=True, slots=True)
class Reached:
    """One request; names of headers in small letters."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def nothing(request: Reached) -> Answer:
    """An empty answer."""
    return 200, {}, b""


@dataclass
class Sink:
    """Listens on loopback within a `with` block."""

    answer: Callable[[Reached], Answer] = nothing
    requests: list[Reached] = field(default_factory=list)

    def __enter__(self) -> Sink:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                outer._take(self)

            do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _any  # noqa: N815 (the library's names)

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def _take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Reached(handler.command, handler.path, headers, body)
        self.requests.append(request)
        status, fields, content = self.answer(request)
        handler.send_response(status)
        for name, value in {**fields, "content-length": str(len(content))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)
