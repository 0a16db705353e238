"""A cluster told to listen on every address does, with its keys, and keeps to loopback what nobody outside may see."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.e2e import cluster as clusters

pytestmark = pytest.mark.cluster
MODELS = {
    "scripted": {
        "kind": "custom",
        "implementation": "tests.e2e.models:Scripted",
        "tasks": ["classify"],
        "placement": {"num_cpus": 0.1},
    }
}


def outside_address() -> str | None:
    """An address of this machine that is not loopback."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return address.address
    return None


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    content = {
        "node_pools": {"local": {"cpus": 2}},
        "models": MODELS,
        "router": {"num_cpus": 0.1},
        "server": {"host": "0.0.0.0"},
    }
    running = clusters.start("public", content, tmp_path_factory.mktemp("public"))
    yield running
    clusters.stop(running)


@pytest.fixture(scope="module")
def address() -> str:
    found = outside_address()
    if found is None:
        pytest.skip("this machine has no address beside loopback")
    return found


def test_http_answers_on_a_public_address_with_a_key(public: clusters.Cluster, address: str, scene_png: bytes) -> None:
    url = public.http.replace("127.0.0.1", address) + "/v1/classify?labels=a,b"
    headers = {"Content-Type": "image/png"}
    with httpx.Client(trust_env=False, timeout=30) as client:
        assert client.post(url, content=scene_png, headers=headers).status_code == 401
        assert client.post(url, content=scene_png, headers={**headers, **public.headers}).status_code == 200


def test_grpc_answers_on_a_public_address_with_a_key(public: clusters.Cluster, address: str) -> None:
    client = triton.InferenceServerClient(public.grpc.replace("127.0.0.1", address))
    assert client.is_server_live()
    with pytest.raises(InferenceServerException):
        client.get_server_metadata()
    assert client.get_server_metadata(headers={"x-api-key": clusters.KEY}).name == "argus"


def test_what_listens_in_public_is_the_api(public: clusters.Cluster, address: str) -> None:
    """Every port of the cluster that is open beyond loopback asks for a key, or speaks only to Ray's token."""
    pids = set(public.pids())
    listening = {
        connection.laddr.port
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.pid in pids
        and connection.laddr.ip not in ("127.0.0.1", "::1")
    }
    metrics = int(public.metrics.split(":")[2].split("/")[0])
    assert metrics not in listening
    assert {int(public.http.rsplit(":", 1)[1]), int(public.grpc.rsplit(":", 1)[1])} <= listening
    for port in listening:
        with httpx.Client(trust_env=False, timeout=10) as client:
            try:
                status = client.get(f"http://{address}:{port}/v1/models").status_code
            except httpx.HTTPError:
                continue  # not HTTP/1.1: gRPC
            assert status in (401, 404, 503), f"port {port} answers {status} without a key"
