"""`argus bench targets` without clusters: what is run, at which rate, and when a target is missed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import target_runs
from benchmarks.loadtest.record import LoadRecord
from benchmarks.loadtest.settings import Settings
from benchmarks.loadtest.target import Target
from benchmarks.targets import load_targets
from serve.cli import app
from serve.errors import ConfigError
from tests.unit import load_records

ASKED = load_targets().workload("classification").goals["cpu-demo"]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[Settings], LoadRecord]], list[Settings]]]:
    """Stands in for clusters and load generator: given what a run comes to, the list of what was asked for."""
    seen: list[Settings] = []

    @contextmanager
    def started(name: str, workload: Any, hardware: str) -> Iterator[Target]:
        yield Target(f"http://{name}", f"{name}:1")

    def becomes(record: Callable[[Settings], LoadRecord]) -> list[Settings]:
        def run_load(settings: Settings, file: Path) -> LoadRecord:
            assert file.stem == settings.workload
            seen.append(settings)
            return record(settings)

        monkeypatch.setattr(target_runs, "run_load", run_load)
        return seen

    monkeypatch.setattr(target_runs, "started", started)
    yield becomes


def bench(*arguments: str) -> int:
    return CliRunner().invoke(app, ["bench", "targets", *arguments], catch_exceptions=False).exit_code


def test_every_workload_with_a_target_is_asked_at_its_rate(loads: Any) -> None:
    seen = loads(load_records.record)
    bench("--seconds", "5")
    goals = {name: one.goal("cpu-demo") for name, one in load_targets().workloads.items()}
    asked = {one.workload: one.arrivals.mean_rate(5) for one in seen}
    assert asked == {name: pytest.approx(goal.qps) for name, goal in goals.items() if goal is not None}
    assert all(one.host == f"http://{one.workload}" and one.seconds == 5 for one in seen)


@pytest.mark.parametrize(
    ("filling", "says"),
    [
        ({}, ""),
        ({"latency_s": 1.0}, "mean: "),
        ({"fail_every": 7}, "busy at"),
        ({"lag_s": 0.3}, "sent late"),
    ],
)
def test_a_run_meets_its_target_or_says_why_not(
    loads: Any, tmp_path: Path, filling: dict[str, float], says: str
) -> None:
    loads(lambda settings: load_records.record(settings, **{"latency_s": 0.02, **filling}))
    record = tmp_path / "record.json"
    status = bench("classification", "--check", "--json", str(record), "--html", str(tmp_path / "pages"))
    made = json.loads(record.read_text())
    [row] = made["rows"]
    assert (status, row["met"]) == ((1, "no") if says else (0, "yes"))
    assert row["qps"] == ASKED.qps and row["p99_ms_most"] == ASKED.p99_ms
    assert any("classification: " in miss and says in miss for miss in made["misses"]) if says else not made["misses"]
    assert "classification on cpu-demo" in (tmp_path / "pages" / "classification.html").read_text()


def test_a_workload_without_a_target_there_is_refused(loads: Any) -> None:
    loads(load_records.record)
    with pytest.raises(ConfigError, match="florence2 has no target here"):
        target_runs.run(load_targets(), ["florence2"], hardware="t4", seconds=5)
