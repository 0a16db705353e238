"""Predicted against measured: what is compared, and with what; and `argus validate` without a cluster."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from benchmarks import servers
from benchmarks.capacity import pace, simulator
from benchmarks.capacity.comparison import DRAWS, FIGURES, capacity_per_s, compare, pooled, predict
from benchmarks.capacity.outcome import Float64, Outcome
from benchmarks.capacity.pace import UNIT_S, Pace
from benchmarks.capacity.planner.plan import Plan
from benchmarks.capacity.scenario import Scenario
from benchmarks.capacity.simulator.program import STEADY
from benchmarks.capacity.validate import BOUNDS, DOUBT, Real, Trial, measure, report
from benchmarks.loadtest import run as engine
from benchmarks.loadtest import target as targets
from benchmarks.loadtest.record import LoadRecord
from benchmarks.loadtest.settings import Settings
from benchmarks.loadtest.target import Target
from benchmarks.targets import load_targets
from benchmarks.traffic.arrivals import Arrivals, Gamma, Poisson
from serve.cli import app
from serve.errors import ArgusError
from tests.unit import load_records

DECLARED = load_targets().workload("classification")


def run(latencies: Float64, *, warm_up: int = 0, seconds: float = 10.0, ok: bool = True, path: str = "a") -> Outcome:
    """Requests evenly over the window, `warm_up` more before it."""
    count = len(latencies)
    due = np.concatenate([np.zeros(warm_up), 1.0 + np.linspace(0, seconds, count, endpoint=False)])
    everything = np.concatenate([np.full(warm_up, 99.0), latencies])
    total = count + warm_up
    return Outcome(
        due,
        everything,
        np.full(total, ok),
        np.zeros(total, np.int16),
        (path,),
        np.zeros(total),
        np.zeros(total, np.int16),
        ("f",),
        1.0,
        1.0 + seconds,
    )


def test_runs_are_pooled_request_by_request() -> None:
    """The P99 of all requests is not the mean of the runs' P99."""
    calm, slow = run(np.full(900, 0.1), warm_up=50), run(np.full(100, 1.0), warm_up=50, path="b")
    both = pooled([calm, slow]).summary()
    assert both.requests == 1000, "warm-up is left out"
    assert both.done_per_s == pytest.approx(50)
    assert (both.p50_s, both.p99_s) == (0.1, 1.0)
    assert both.path_share == {"a": pytest.approx(0.9), "b": pytest.approx(0.1)}


def test_runs_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="alike"):
        pooled([run(np.ones(5)), run(np.ones(5), seconds=20)])
    with pytest.raises(ValueError, match="there must be one"):
        pooled([])


def test_errors_are_relative_to_what_was_measured() -> None:
    measured = [run(np.full(100, 0.1)), run(np.full(100, 0.3))]
    found = {one.name: one for one in compare(measured, [run(np.full(100, 0.25))])}
    assert found["mean"].measured == pytest.approx(0.2)
    assert found["mean"].error == pytest.approx(0.25)
    assert found["mean"].spread == pytest.approx(1.0)


def test_throughput_counts_the_answers_that_end_in_the_window() -> None:
    """Both sides answer everything at some time; one of them ten seconds late."""
    real, late = run(np.full(100, 0.05), warm_up=20), run(np.full(100, 5.0), warm_up=20)
    assert real.answers_per_s() == pytest.approx(10, rel=0.01)
    assert late.answers_per_s() == pytest.approx(5, rel=0.05)
    found = {one.name: one for one in compare([real], [late])}
    assert found["throughput"].error == pytest.approx(-0.5, abs=0.03)


def test_what_was_asked_before_the_window_and_ends_in_it_counts() -> None:
    warm = run(np.full(100, 0.05), warm_up=30)
    warm.latency_s[:30] = 2.0
    assert warm.answers_per_s() == pytest.approx(13, rel=0.01)


def test_nothing_measured_is_no_agreement() -> None:
    found = {one.name: one for one in compare([run(np.full(10, 0.1), ok=False)], [run(np.full(10, 0.1))])}
    assert math.isnan(found["mean"].error) and math.isnan(found["throughput"].error)


def test_a_prediction_meets_the_requests_at_their_own_times() -> None:
    asked: list[tuple[Float64, float, float | None, int]] = []

    def simulate(
        scenario: object, times: Float64, *, seed: int, start_s: float, end_s: float, paces: Float64
    ) -> Outcome:
        asked.append((times, start_s, end_s, seed))
        return run(np.full(len(times), 0.1))

    real = run(np.full(20, 0.1), warm_up=3)
    predict(None, real, seed=7, simulate=simulate, draws=4)  # type: ignore[arg-type]
    assert len({seed for *_, seed in asked}) == 4
    for times, start, end, _ in asked:
        assert np.array_equal(times, real.arrived_s)
        assert (start, end) == (real.start_s, real.end_s)


@pytest.mark.parametrize("rate", [3.0, 40.0, 700.0])
def test_the_capacity_of_a_server_is_the_rate_at_which_it_works(rate: float) -> None:
    """One server that takes 1/rate seconds for each request, in order."""

    def simulate(scenario: object, times: Float64, *, seed: int, end_s: float) -> Outcome:
        ends, free = np.empty_like(times), 0.0
        for place, at in enumerate(times):
            free = ends[place] = max(free, at) + 1 / rate
        count = len(times)
        zeros = np.zeros(count, np.int16)
        return Outcome(
            times, ends - times, np.ones(count, np.bool_), zeros, ("a",), np.zeros(count), zeros, ("f",), 0.0, end_s
        )

    found = capacity_per_s(None, Poisson(rate_per_s=1), simulate=simulate)  # type: ignore[arg-type]
    assert found == pytest.approx(rate, rel=0.15)


class Simulator:
    """Says what `load_records` has of the same requests (50 ms, 200 for each tenth), times `slower`."""

    def __init__(self, slower: float = 1.0) -> None:
        self.slower = slower
        self.scenarios: list[Scenario] = []
        self.paces: list[float] = []

    def __call__(
        self,
        scenario: Scenario,
        times: Float64,
        *,
        seed: int,
        start_s: float = 0.0,
        end_s: float | None = None,
        paces: Float64 = STEADY,
    ) -> Outcome:
        self.scenarios.append(scenario)
        self.paces += [float(paces[0])] if paces.size else []
        count = len(times)
        zeros = np.zeros(count, np.int16)
        latencies = np.where(np.arange(count) % 10 == 0, 0.2, 0.05) * self.slower
        ok = np.ones(count, np.bool_)
        end = times[-1] if end_s is None else end_s
        return Outcome(times, latencies, ok, zeros, ("clip",), np.zeros(count), zeros, ("f",), start_s, end)


def trial(**more: Any) -> Trial:
    values: dict[str, Any] = {
        "workload": "classification",
        "scenario": lambda pace: pace,
        "arrivals": Poisson(rate_per_s=1),
        "capacity_per_s": 100.0,
        "loads": (0.3, 0.6),
        "seeds": (1, 2),
        "seconds": 20.0,
    }
    return Trial(**{**values, **more})


def measured(trial: Trial, simulate: Any, **more: Any) -> tuple[list[dict[str, Any]], list[str], list[Settings]]:
    asked: list[Settings] = []

    def run(arrivals: Arrivals, seed: int) -> Real:
        asked.append(load_records.settings(arrivals=arrivals, seed=seed, seconds=trial.seconds))
        return Real(load_records.record(asked[-1], **more), 1.0 + 0.1 * seed, np.full(20, float(seed)))

    return *measure(trial, run, simulate), asked


def test_every_load_is_run_once_a_seed_at_its_share_of_the_capacity() -> None:
    rows, misses, asked = measured(trial(), Simulator())
    assert [(one.arrivals.mean_rate(1), one.seed) for one in asked] == [(30, 1), (30, 2), (60, 1), (60, 2)]
    assert [row["load"] for row in rows] == [0.3, 0.6]
    assert not misses
    for row, rate in zip(rows, (30, 60), strict=True):
        assert row["requests"] == pytest.approx(2 * 20 * rate, rel=0.2)
        assert row["mean_measured"] == pytest.approx(65, rel=0.05), "in milliseconds"
        assert row["throughput_measured"] == pytest.approx(row["rate_per_s"], rel=0.2)
        assert row["failed_share"] == 0
        assert all(row[f"{name}_error"] == pytest.approx(0, abs=0.03) for name in FIGURES)


def test_each_run_is_predicted_at_the_pace_that_it_had() -> None:
    simulate = Simulator()
    rows, _, _ = measured(trial(), simulate)
    factors = (1.0, 1 - DOUBT, 1 + DOUBT)
    asked = [factor * pace for _ in (0.3, 0.6) for factor in factors for pace in (1.1, 1.2) for _ in range(DRAWS)]
    assert simulate.scenarios == pytest.approx(asked)
    assert simulate.paces == [seed for _ in (0.3, 0.6) for _ in factors for seed in (1.0, 2.0) for _ in range(DRAWS)]
    assert [row["pace"] for row in rows] == [pytest.approx(1.15)] * 2
    assert rows[0]["paces"] == [1.1, 1.2]


def test_the_row_says_what_a_pace_told_wrong_would_do() -> None:
    def simulate(scenario: Any, *given: Any, **more: Any) -> Outcome:
        return Simulator(slower=scenario / 1.15)(scenario, *given, **more)

    [row], _, _ = measured(trial(loads=(0.3,)), simulate)
    assert row["mean_faster"] == pytest.approx(row["mean_error"] - 0.05, abs=0.01)
    assert row["mean_slower"] == pytest.approx(row["mean_error"] + 0.05, abs=0.01)


def test_a_prediction_that_is_off_is_a_miss_for_each_figure_that_has_a_bound() -> None:
    _, misses, _ = measured(trial(loads=(0.3,)), Simulator(slower=1.3))
    assert {miss.split(": ")[1].split(" ")[0] for miss in misses} == {"mean", "p95", "p99"}
    assert all("classification at 30%" in miss and "+30.0% off" in miss for miss in misses)
    assert set(BOUNDS) <= set(FIGURES)


def test_a_run_that_measured_its_own_generator_is_a_miss() -> None:
    _, misses, _ = measured(trial(loads=(0.3,)), Simulator(), cpu_share=0.99)
    assert len(misses) == 2 and all("99% of its core" in miss for miss in misses)


def test_nothing_answered_is_a_miss() -> None:
    rows, misses, _ = measured(trial(loads=(0.3,)), Simulator(), fail_every=1)
    assert rows[0]["failed_share"] == 1
    assert {miss.split(": ")[1].split(" ")[0] for miss in misses} == set(BOUNDS)


def test_planned_arrivals_are_taken_as_they_are() -> None:
    process = Gamma(rate_per_s=40, cv=3)
    given = trial(arrivals=process, capacity_per_s=41.0, planned=True)
    assert given.process(1.0) is process
    assert given.process(0.5) == Gamma(rate_per_s=20.5, cv=3)


def test_the_report_has_every_figure_of_every_load() -> None:
    rows, misses, _ = measured(trial(), Simulator(slower=1.3))
    made = report([trial()], rows, misses)
    assert not made.met and made.misses == misses
    assert report([trial()], rows, []).met
    assert made.settings["capacity_per_s"] == {"classification": 100.0}
    for column in made.columns:
        assert all(column.cell(row) not in ("", "-") for row in rows), column.title
    assert all(f"{name}_spread" in row for name in FIGURES for row in rows)


class World:
    """Stands in for clusters, the load generator and the simulator."""

    def __init__(self) -> None:
        self.simulator = Simulator()
        self.served: list[Mapping[str, Any] | str] = []
        self.asked: list[Settings] = []

    @contextmanager
    def pacing(self) -> Iterator[Pace]:
        known = Pace()
        for _ in range(8):
            known.add(f"{time.monotonic()} {UNIT_S}")
        yield known
        for _ in range(8):
            known.add(f"{time.monotonic()} {UNIT_S}")

    @contextmanager
    def started(self, name: str, workload: Any, hardware: str) -> Iterator[Target]:
        self.served.append(name)
        yield Target("http://127.0.0.1:1", "127.0.0.1:2")

    @contextmanager
    def argus(self, name: str, content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        self.served.append(content)
        yield "http://127.0.0.1:1", "127.0.0.1:2"

    def run_load(self, settings: Settings, file: Path, *, on_progress: Any) -> LoadRecord:
        assert file.name == "classification.py"
        self.asked.append(settings)
        return load_records.record(settings)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(simulator, "simulate", made.simulator)
    monkeypatch.setattr(targets, "started", made.started)
    monkeypatch.setattr(servers, "argus", made.argus)
    monkeypatch.setattr(engine, "run_load", made.run_load)
    monkeypatch.setattr(pace, "pacing", made.pacing)
    return made


def said(*arguments: str) -> tuple[int, str]:
    """Exit status and output; an error of ours is raised out of the application."""
    ran = CliRunner().invoke(app, ["validate", "classification", *arguments])
    if isinstance(ran.exception, ArgusError):
        return 1, ran.exception.message
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return ran.exit_code, ran.output


def planned(folder: Path, **more: Any) -> Path:
    """What `argus plan --out` leaves of a cluster on the node `cpu-demo` of the catalogue."""
    place = DECLARED.place("cpu-demo")
    content = place.content()
    content["node_pools"] = {"cpu-demo": content["node_pools"].pop("local")}
    content["models"]["clip"].setdefault("placement", {})["pool"] = "cpu-demo"
    (folder / "cluster.yaml").write_text(yaml.safe_dump({"name": "planned", **content}))
    plan = {
        "made": date(2026, 11, 26),
        "feasible": True,
        "flows": place.flows,
        "arrivals": "gamma: 40 a second, cv 3",
        "process": Gamma(rate_per_s=40, cv=3),
        "rate_per_s": 40.0,
        "objectives": (),
        "confidence": 0.95,
        "seeds": (1, 2),
        "run_seconds": 60,
        "price": "on_demand",
        "survives_node_loss": False,
    }
    (folder / "plan.json").write_text(Plan.model_validate({**plan, **more}).model_dump_json())
    return folder


def test_a_workload_is_validated_at_shares_of_its_capacity(world: World, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    options = ("--capacity", "50", "--loads", "20,40", "--seeds", "2", "--seconds", "20", "--json", str(record))
    code, text = said(*options, "--check")
    assert code == 0, text
    assert world.served == ["classification"]
    assert [(one.arrivals.mean_rate(1), one.seed) for one in world.asked] == [(10, 1), (10, 2), (20, 1), (20, 2)]
    assert [row["load"] for row in json.loads(record.read_text())["rows"]] == [0.2, 0.4]
    world.simulator.slower = 2.0
    assert said(*options, "--check")[0] == 1
    assert said(*options)[0] == 0


def test_a_plan_is_validated_on_its_cluster_with_its_arrivals(world: World, tmp_path: Path) -> None:
    code, text = said("--plan", str(planned(tmp_path)), "--seeds", "2", "--seconds", "20")
    assert code == 0, text
    (content,) = world.served
    assert isinstance(content, Mapping) and set(content["node_pools"]) == {"cpu-demo"} and "name" not in content
    assert [one.arrivals for one in world.asked] == [Gamma(rate_per_s=40, cv=3)] * 2
    assert world.simulator.scenarios[0].stages["clip"].pool == "cpu-demo"


def test_a_plan_can_be_validated_at_shares_of_its_rate(world: World, tmp_path: Path) -> None:
    said("--plan", str(planned(tmp_path)), "--seeds", "1", "--seconds", "20", "--loads", "50")
    assert [one.arrivals for one in world.asked] == [Gamma(rate_per_s=20, cv=3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "is no plan of this version"),
        ('{"rate_per_s": 3}', "is no plan of this version: made"),
        ("[]", "is no plan of this version"),
    ],
)
def test_a_folder_without_a_plan_is_one_line(world: World, tmp_path: Path, text: str | None, message: str) -> None:
    planned(tmp_path)
    (tmp_path / "plan.json").unlink()
    if text is not None:
        (tmp_path / "plan.json").write_text(text)
    code, output = said("--plan", str(tmp_path))
    assert code == 1 and message in output and not world.served


def test_a_plan_that_found_nothing_has_no_cluster(world: World, tmp_path: Path) -> None:
    code, output = said("--plan", str(planned(tmp_path, feasible=False)))
    assert code == 1 and "there is no cluster" in output


def test_a_plan_for_gpus_is_not_validated_without_them(world: World, tmp_path: Path) -> None:
    planned(tmp_path)
    path = tmp_path / "cluster.yaml"
    content = yaml.safe_load(path.read_text())
    content["node_pools"]["cpu-demo"] |= {"gpu": "T4", "gpus": 1, "gpu_memory_gb": 16}
    path.write_text(yaml.safe_dump(content))
    code, output = said("--plan", str(tmp_path))
    assert code == 1 and "needs GPUs" in output


@pytest.mark.parametrize("loads", ["", "a", "0", "200"])
def test_loads_that_are_no_shares_are_refused(world: World, loads: str) -> None:
    code, output = said("--loads", loads)
    assert code == 1 and "per cent" in output
