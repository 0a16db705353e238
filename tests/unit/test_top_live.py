"""`argus top` in a terminal, beside an endpoint that can fall silent."""

from __future__ import annotations

import itertools
import os
import pty
import select
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serve.runtime import state

METRIC = 'ray_argus_requests_total{{route="/v1/classify",protocol="http",outcome="ok",fault="none"}} {count}\n'
PATIENCE_S = 60


class Endpoint(ThreadingHTTPServer):
    """Metrics of which each look finds more; `silent` refuses them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.looks = itertools.count(1)
        self.looked = 0
        self.silent = False


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_GET(self) -> None:
        self.server.looked = next(self.server.looks)
        body = METRIC.format(count=100 * self.server.looked).encode()
        self.send_response(503 if self.server.silent else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class Terminal:
    """`argus top` with a terminal of its own."""

    def __init__(self, every: float) -> None:
        self.output = ""
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (40, 200))
        arguments = ["top", "--name", "shop", "--every", f"{every}", "--window", "600"]
        command = [sys.executable, "-c", "from serve.cli import main; main()", *arguments]
        environment = os.environ | {"TERM": "xterm"}
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def sees(self, words: str) -> bool:
        """Whether it is shown from now on, within our patience."""
        self.output = ""
        until = time.monotonic() + PATIENCE_S
        while words not in self.output and time.monotonic() < until:
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.output += os.read(self._master, 65_536).decode(errors="replace")
                except OSError:  # its other end is closed
                    break
        return words in self.output

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def start(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], Terminal]]:
    """Starts it with so many seconds between two looks; this process is the cluster."""
    monkeypatch.setenv("ARGUS_RUN_DIR", str(tmp_path))
    pid, started = state.this_process()
    address = f"http://127.0.0.1:{endpoint.server_address[1]}"
    running = state.Instance(
        name="shop",
        phase="ready",
        pid=pid,
        pid_started=started,
        http=address,
        grpc="127.0.0.1:1",
        metrics=f"{address}/metrics",
        environment={},
    )
    state.save(state.run_dir("shop"), running)
    with ExitStack() as stack:

        def make(every: float) -> Terminal:
            terminal = Terminal(every)
            stack.callback(terminal.close)
            return terminal

        yield make


def test_keys_other_than_q_do_not_hurry_it_and_q_ends_it(
    endpoint: Endpoint, start: Callable[[float], Terminal]
) -> None:
    """The next look is due in a minute: whoever sees one before that was hurried."""
    top = start(60)
    assert top.sees("first look"), top.output
    for keys in ("x", "yz\x1b[A", " "):
        top.type(keys)
        time.sleep(0.3)
    assert endpoint.looked == 1 and top.process.poll() is None
    top.type("abq")  # q among others that were typed ahead
    assert top.process.wait(PATIENCE_S) == 0


def test_figures_that_are_old_are_said_to_be(endpoint: Endpoint, start: Callable[[float], Terminal]) -> None:
    top = start(0.5)
    assert top.sees("/v1/classify"), top.output
    endpoint.silent = True
    assert top.sees("no answer for"), top.output
    assert top.sees("/v1/classify"), "the last figures stay"
    endpoint.silent = False
    while "no answer" in top.output:
        assert top.sees("requests/s"), top.output
    top.type("q")
    assert top.process.wait(PATIENCE_S) == 0
