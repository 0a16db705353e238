"""`argus observability targets`: what Prometheus is told to scrape of a cluster on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve.cli import app
from serve.cli.observability import scrape_targets
from serve.errors import Unavailable
from serve.runtime import state

PORT = "RAY_SERVE_HAPROXY_METRICS_PORT"


def instance(**environment: str) -> state.Instance:
    """This process, as if it were a cluster."""
    pid, started = state.this_process()
    return state.Instance(
        name="shop",
        phase="ready",
        pid=pid,
        pid_started=started,
        http="http://127.0.0.1:8000",
        grpc="127.0.0.1:9000",
        metrics="http://127.0.0.1:9090/metrics",
        environment=environment,
    )


def test_the_node_and_the_ingress_are_scraped() -> None:
    assert scrape_targets(instance(**{PORT: "4711"})) == [
        {"targets": ["127.0.0.1:9090"], "labels": {"job": "argus", "cluster": "shop"}},
        {"targets": ["127.0.0.1:4711"], "labels": {"job": "argus-ingress", "cluster": "shop"}},
    ]


def test_without_haproxy_there_is_no_ingress() -> None:
    assert [one["labels"]["job"] for one in scrape_targets(instance())] == ["argus"]


def test_the_command_writes_a_file_for_prometheus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGUS_RUN_DIR", str(tmp_path / "run"))
    running = instance(**{PORT: "4711"})
    state.save(state.run_dir("shop"), running)
    done = CliRunner().invoke(app, ["observability", "targets", "--name", "shop", "--out", str(tmp_path / "targets")])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "targets" / "shop.json").read_text()) == scrape_targets(running)


def test_without_a_cluster_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGUS_RUN_DIR", str(tmp_path))
    done = CliRunner().invoke(app, ["observability", "targets", "--name", "nobody"])
    assert isinstance(done.exception, Unavailable)
