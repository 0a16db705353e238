"""The HAProxy wrapper, with a real HAProxy: where it listens, and what it says when no router is there."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serve.runtime.ingress import environment, free_ports, haproxy_binary, write_wrapper
from tests.support.waiting import until

CONFIG = """
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
    retries 0
    errorfile 502 /nowhere/500.http
    errorfile 503 /nowhere/500.http
    errorfile 504 /nowhere/500.http
frontend http_frontend
    bind *:{main}
    http-request set-var(txn.offer) req.hdr(sec-websocket-extensions)
    http-request set-var(txn.id) req.hdr(x-request-id)
    http-request return status 200 content-type text/plain lf-string "[%[var(txn.offer)]]" if {{ path /offered }}
    http-request return status 200 content-type text/plain lf-string "[%[var(txn.id)]]" if {{ path /id }}
    http-request set-var(txn.own) req.hdr(x-session-id)
    http-request set-var(txn.own) req.hdr(serve_multiplexed_model_id) unless {{ var(txn.own) -m found }}
    http-request set-var(txn.own) req.hdr(x-request-timeout-seconds) unless {{ var(txn.own) -m found }}
    http-request set-var(txn.own) req.hdr(x-request-disconnect-disabled) unless {{ var(txn.own) -m found }}
    http-request return status 200 content-type text/plain lf-string "[%[var(txn.own)]]" if {{ path /own }}
    use_backend default_backend if {{ path /nobody }}
    use_backend default_grpc_backend if {{ path /rpc }}
    default_backend routers
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \\'%[path]\\' not found."
backend default_grpc_backend
    http-request return status 200 content-type application/grpc hdr grpc-status 5 hdr grpc-message "Application not"
backend routers
    server gone 127.0.0.1:{gone}
frontend prometheus
    bind :{metrics}
    http-request use-service prometheus-exporter
listen stats
    bind *:{stats}
    stats enable
"""


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    binary = haproxy_binary()
    if binary is None:
        pytest.skip("no HAProxy binary runs here")
    main, gone, metrics, stats = free_ports(4)
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG.format(main=main, gone=gone, metrics=metrics, stats=stats))
    wrapper = write_wrapper(tmp_path, binary, side_ports=[metrics, stats], headers_s=1)
    process = subprocess.Popen([str(wrapper), "-f", str(config)])
    assert until(lambda: len(listening(process)) == 3, every_s=0.05)
    yield main, process
    process.terminate()
    process.wait(timeout=60)


def listening(process: subprocess.Popen[bytes]) -> list[Any]:
    """Where it listens, once it is more than the wrapper."""
    found = psutil.Process(process.pid).net_connections()
    return [one.laddr for one in found if one.status == psutil.CONN_LISTEN]


def test_only_what_was_asked_for_listens_beyond_loopback(proxy: tuple[int, subprocess.Popen[bytes]]) -> None:
    main, process = proxy
    found = listening(process)
    assert len(found) == 3
    assert {address.ip for address in found if address.port != main} == {"127.0.0.1"}
    assert {address.ip for address in found if address.port == main} == {"0.0.0.0"}


def test_a_missing_router_is_an_honest_503(proxy: tuple[int, subprocess.Popen[bytes]]) -> None:
    answer = httpx.get(f"http://127.0.0.1:{proxy[0]}/v1/models", trust_env=False)
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "unavailable"


def test_before_a_router_is_known_nothing_is_said_to_be_missing(proxy: tuple[int, subprocess.Popen[bytes]]) -> None:
    answer = httpx.get(f"http://127.0.0.1:{proxy[0]}/nobody", trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    told = httpx.get(f"http://127.0.0.1:{proxy[0]}/rpc", trust_env=False).headers
    assert (told["grpc-status"], told["grpc-message"]) == ("14", "No router is available now; try again.")


def test_headers_that_do_not_end_are_not_waited_for(proxy: tuple[int, subprocess.Popen[bytes]]) -> None:
    """Each byte starts `timeout client` anew: without a bound on headers this would never end."""
    with socket.create_connection(("127.0.0.1", proxy[0]), timeout=0.2) as slow:
        slow.sendall(b"GET /v1/models HTTP/1.1\r\nhost: here\r\nx-more: ")
        answer = b""
        for _ in range(300):
            try:
                answer = slow.recv(4096)
                break
            except TimeoutError:
                with suppress(ConnectionError):
                    slow.sendall(b"x")
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_configuration_is_changed_once(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG.format(main=1, gone=2, metrics=3, stats=4))
    command = [str(write_wrapper(tmp_path, "true", side_ports=[3, 4])), "-f", str(config)]
    subprocess.run(command, check=True)
    once = config.read_text()
    subprocess.run(command, check=True)
    assert config.read_text() == once
    assert "timeout http-request" in once


def test_sockets_are_not_offered_compression(proxy: tuple[int, subprocess.Popen[bytes]]) -> None:
    offer = {"sec-websocket-extensions": "permessage-deflate"}
    answer = httpx.get(f"http://127.0.0.1:{proxy[0]}/offered", headers=offer, trust_env=False)
    assert (answer.status_code, answer.text) == (200, "[]")


@pytest.mark.parametrize("kept", [b"a", b"a b;c", b"x" * 200])
def test_a_request_id_of_ours_is_passed_on(proxy: tuple[int, subprocess.Popen[bytes]], kept: bytes) -> None:
    answer = httpx.get(f"http://127.0.0.1:{proxy[0]}/id", headers={b"x-request-id": kept}, trust_env=False)
    assert answer.text == f"[{kept.decode()}]"


@pytest.mark.parametrize("dropped", [b"x" * 201, b"\xff\xfe", "é".encode()])
def test_any_other_request_id_is_dropped(proxy: tuple[int, subprocess.Popen[bytes]], dropped: bytes) -> None:
    """Ray Serve would answer with it, or with a plain 500 where it is no UTF-8."""
    answer = httpx.get(f"http://127.0.0.1:{proxy[0]}/id", headers={b"x-request-id": dropped}, trust_env=False)
    assert (answer.status_code, answer.text) == (200, "[]")


@pytest.mark.parametrize(
    "header",
    [b"X-Session-Id", b"serve_multiplexed_model_id", b"x-request-timeout-seconds", b"x-request-disconnect-disabled"],
)
def test_ray_serves_own_headers_are_dropped(proxy: tuple[int, subprocess.Popen[bytes]], header: bytes) -> None:
    """They choose replicas and end requests past our rules, and not in UTF-8 they are a plain 500."""
    answer = httpx.get(f"http://127.0.0.1:{proxy[0]}/own", headers={header: b"\xff1"}, trust_env=False)
    assert (answer.status_code, answer.text) == (200, "[]")


def test_haproxy_alone_is_public(tmp_path: Path) -> None:
    """Ray Serve gives its own servers the address of HAProxy: it is told loopback, and HAProxy the public one."""
    wrapper = write_wrapper(tmp_path, "/bin/true", side_ports=[1, 2], public=("0.0.0.0", (8000, 9000)))
    config = tmp_path / "cfg"
    config.write_text(
        "    bind 127.0.0.1:8000\n    bind 127.0.0.1:9000 proto h2\n    bind :1\n    bind 127.0.0.1:80001\n"
    )
    subprocess.run([str(wrapper), "-f", str(config)], check=True)
    bound = [line.split()[1] for line in config.read_text().splitlines()]
    assert bound == ["0.0.0.0:8000", "0.0.0.0:9000", "127.0.0.1:1", "127.0.0.1:80001"]


def test_without_a_binary_the_plain_proxy_is_configured(tmp_path: Path) -> None:
    settings = environment(tmp_path, None)
    assert not any("HAPROXY" in name or "HA_PROXY" in name for name in settings)
    assert int(settings["RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"]) > 20 * 1024 * 1024
