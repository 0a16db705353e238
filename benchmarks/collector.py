"""An OTLP collector that keeps nothing: where spans go while their cost is measured."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.servers import free_port


class Collector:
    """What has arrived.

    Attributes:
        address: for `tracing.endpoint`, http/protobuf.
        received_bytes: of all exports.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.received_bytes = 0


@contextmanager
def collector() -> Iterator[Collector]:
    """Takes whatever is posted, in a thread of this process, for the time of the block."""
    port = free_port(19_200)
    found = Collector(f"http://127.0.0.1:{port}")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.received_bytes += len(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="collector", daemon=True)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
