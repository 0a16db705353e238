"""`argus up` without a cluster below it: what its example and its addresses may do to what runs."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from serve.cli import app, example, up
from serve.config.load import ConfigErrors
from serve.runtime import state
from serve.runtime.ingress import free_ports, port_is_free
from serve.runtime.local import Starting


class Local:
    """Stands in for Ray and the application on it: everything runs at once."""

    stopped = False

    def __init__(self, *_: Any) -> None: ...

    def start_ray(self) -> str:
        return "127.0.0.1:1"

    def start_ingress(self) -> None: ...

    def deploy(self) -> Iterator[list[Starting]]:
        yield [Starting("router", "HEALTHY", "")]

    def stop(self) -> None:
        Local.stopped = True


class Example:
    """Stands in for the example's request: fails, and then somebody presses Ctrl-C."""

    def __init__(self, error: Exception, folder: Path) -> None:
        self.error = error
        self.folder = folder
        self.asked: list[str] = []
        self.phases: list[str] = []

    def __call__(self, url: str, **_: Any) -> httpx.Response:
        self.asked.append(url)
        running = state.load(self.folder / "up")
        self.phases.append("" if running is None else running.phase)
        signal.raise_signal(signal.SIGINT)
        raise self.error


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cluster file whose cluster is not started."""

    def applied(settings: Mapping[str, str]) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)

    Local.stopped = False
    monkeypatch.setenv("ARGUS_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(up, "LocalCluster", Local)
    monkeypatch.setattr(up, "apply_environment", applied)
    http, grpc, metrics = free_ports(3)
    ports = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics, "tuned_ingress": False}
    clip = {"kind": "clip", "checkpoint": "demo:clip"}
    path = tmp_path / "up.yaml"
    path.write_text(
        yaml.safe_dump({"name": "up", "node_pools": {"local": {"cpus": 2}}, "server": ports, "models": {"clip": clip}})
    )
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield path
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 on loopback")


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("30 s"),
        httpx.RemoteProtocolError("closed"),
        httpx.InvalidURL("scope"),
        PermissionError("the sample"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_cluster_outlives_its_example(file: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    asked = Example(error, file.parent / "run")
    monkeypatch.setattr(example.httpx, "post", asked)
    ran = CliRunner().invoke(app, ["up", "--config", str(file)])
    assert ran.exit_code == 0, ran.output
    assert "Argus is ready" in ran.output
    assert f"no answer: {type(error).__name__}" in ran.output
    assert asked.phases == ["ready"], "whoever waits for it is told before the example is tried"
    assert Local.stopped and state.load(file.parent / "run" / "up") is None


@pytest.mark.usefixtures("ipv6")
def test_addresses_of_ipv6_are_written_so_that_they_can_be_asked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Example(httpx.ConnectError("refused"), file.parent / "run")
    monkeypatch.setattr(example.httpx, "post", asked)
    ran = CliRunner().invoke(app, ["up", "--config", str(file), "--host", "::1"])
    assert ran.exit_code == 0, ran.output
    (url,) = asked.asked
    assert httpx.URL(url).host == "::1"
    assert re.search(r"gRPC \[::1\]:\d+", " ".join(ran.output.split()))


@pytest.mark.usefixtures("ipv6")
def test_a_port_that_is_taken_on_an_ipv6_address(file: Path) -> None:
    with socket.socket(socket.AF_INET6) as taken, socket.socket() as other:
        taken.bind(("::1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not port_is_free("::1", port)
        assert not port_is_free("::", port)
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert port_is_free("::1", other.getsockname()[1]), "who listens on IPv4 alone takes nothing of it"
        ran = CliRunner().invoke(app, ["up", "--config", str(file), "--host", "::1", "--http-port", str(port)])
    assert isinstance(ran.exception, ConfigErrors)
    assert ran.exception.problems == (f"server.http_port: {port} is taken on ::1; choose another",)
    assert port_is_free("::1", port)


def test_a_metrics_port_that_is_taken_can_be_chosen(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = CliRunner().invoke(app, ["up", "--config", str(file), "--metrics-port", str(port)])
    assert isinstance(ran.exception, ConfigErrors)
    assert ran.exception.problems == (f"server.metrics_port: {port} is taken on 127.0.0.1; choose another",)
    monkeypatch.setattr(example.httpx, "post", Example(httpx.ConnectError("gone"), file.parent / "run"))
    (other,) = free_ports(1)
    ran = CliRunner().invoke(app, ["up", "--config", str(file), "--metrics-port", str(other)])
    assert ran.exit_code == 0, ran.output
    assert f"metrics http://127.0.0.1:{other}/metrics" in " ".join(ran.output.split())
