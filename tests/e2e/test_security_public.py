"""A small cluster that listens on every address and was given secrets: a provider that repeats its key, a collector,
and no Redis. It asks everyone for a key, keeps to loopback what nobody outside may see, and tells no secret."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from benchmarks.security import planting, secrets
from benchmarks.security.case import try_it
from benchmarks.security.sink import Sink
from benchmarks.security.site import Site
from tests.e2e import cluster as clusters
from tests.e2e.cluster import KEY, OTHER_KEY

pytestmark = pytest.mark.cluster
MODELS = {
    "noop": {
        "kind": "custom",
        "implementation": "benchmarks.noop:NoopModel",
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
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[clusters.Cluster, Site]]:
    folder = tmp_path_factory.mktemp("public")
    with planting.planted({"client's key": KEY, "other client's key": OTHER_KEY}) as servers, Sink() as trap:
        content = {
            "node_pools": {"local": {"cpus": 2}},
            "models": MODELS,
            "router": {"num_cpus": 0.1},
            "server": {"host": "0.0.0.0"},
            "log_level": "DEBUG",
            **planting.sections(servers),
        }
        running = clusters.start("public", content, folder)
        run_dir = Path(running.environment["ARGUS_RUN_DIR"]) / running.name
        addresses = (running.http, running.grpc, running.metrics)
        config = folder / "public.yaml"
        made = Site(running.name, *addresses, KEY, OTHER_KEY, run_dir, trap, running.environment, config, servers)
        yield running, made
        made.close()
        clusters.stop(running)


@pytest.fixture
def public(started: tuple[clusters.Cluster, Site]) -> clusters.Cluster:
    return started[0]


@pytest.fixture
def site(started: tuple[clusters.Cluster, Site]) -> Site:
    return started[1]


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


def test_planted_secrets_stand_nowhere(site: Site, subtests: pytest.Subtests) -> None:
    for case in secrets.cases(site):
        with subtests.test(case.attempt):
            got = try_it(case)
            assert got.ok, f"{case.attempt}: expected {case.expected}, got {got.text}"


def test_the_search_finds_what_is_there(site: Site) -> None:
    """A search that finds nothing proves nothing unless it can find something."""
    assert site.planted is not None
    leak = site.run_dir / "leak.log"
    leak.write_text(site.planted.secrets["provider's key"])
    try:
        (case,) = (one for one in secrets.cases(site) if one.attempt == "every file of the cluster")
        got = try_it(case)
        assert not got.ok
        assert "provider's key in leak.log" in got.text
    finally:
        leak.unlink()
