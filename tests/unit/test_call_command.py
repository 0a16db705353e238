"""`argus call`, `argus models` and `argus up` where something is wrong: one line each, never a traceback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from typer.testing import CliRunner

from serve.cli import app
from serve.cli.call import _is_file
from serve.cli.status import asked
from serve.cli.up import with_server
from serve.config.load import load_profile, parse
from serve.errors import ArgusError, ConfigError, Unavailable


class Answers(BaseHTTPRequestHandler):
    """Refuses: in the cluster's form, or as somebody else would."""

    def do_GET(self) -> None:
        ours = b'{"error": {"code": "unauthenticated", "message": "An API key is needed.", "param": null}}'
        said = {"/ours": ours, "/list": b"[1]"}.get(self.path, b"<html>")
        self.send_response(401)
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    made = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    thread.join()
    made.server_close()


def test_the_clusters_own_error_is_told_and_anybody_elses_named(server: str) -> None:
    with pytest.raises(ArgusError, match="An API key is needed") as caught:
        asked(server + "/", "/ours")
    assert caught.value.code == "unauthenticated"
    for path in ("/html", "/list"):
        with pytest.raises(Unavailable, match="answers 401, and not as a cluster does"):
            asked(server, path)


@pytest.mark.parametrize("where", ["http://::1:8000", "http://127.0.0.1:1", "ftp://x", "http://[x"])
def test_an_address_where_nobody_is(where: str) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        asked(where, "/v1/models")


@pytest.mark.parametrize("text", ["a red star " * 300, "nul\0byte"])
def test_a_text_that_can_be_no_path_is_a_text(text: str) -> None:
    assert not _is_file(text)


@pytest.mark.parametrize("port", ["0", "70000"])
def test_ports_that_are_none(port: str) -> None:
    for option in ("--http-port", "--grpc-port", "--metrics-port"):
        done = CliRunner().invoke(app, ["up", option, port])
        assert done.exit_code == 2 and option in done.output


def test_each_port_is_its_own() -> None:
    with pytest.raises(ConfigError, match="each needs one of its own"):
        with_server(load_profile("demo"), http_port=9000)
    with pytest.raises(ConfigError, match="each needs one of its own"):
        parse({"name": "x", "server": {"metrics_port": 8000}}, source="test")
