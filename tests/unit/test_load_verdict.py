"""A run against its goal, its drift, and the report."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.signal import lfilter

from benchmarks.loadtest.drift import latency_slopes, memory_slopes, slope, slopes
from benchmarks.loadtest.html import render
from benchmarks.loadtest.record import LoadRecord
from benchmarks.loadtest.verdict import Row, figures, misses, rows
from benchmarks.targets import Goal, Range
from tests.unit.load_records import record, recorder, settings, shifted


def judged(made: LoadRecord, **goal: object) -> dict[str, bool | None]:
    values = {"qps": 100, "source": "a test", **goal}
    return {row.name: row.met for row in rows(made, Goal.model_validate(values))}


def test_a_run_that_holds_its_goal() -> None:
    goal = {"mean_ms": 66, "p50_ms": 51, "p95_ms": 201, "p99_ms": 201, "escalated_share": Range(low=0.05, high=0.15)}
    verdict = judged(record(), **goal)
    assert set(verdict) >= {"offered", "answered", "failed", "mean", "P50", "P95", "P99", "escalated"}
    assert all(met is not False for met in verdict.values())
    assert verdict["offered"] is True


@pytest.mark.parametrize(
    ("name", "goal"),
    [
        ("mean", {"mean_ms": 60}),
        ("P50", {"p50_ms": 49}),
        ("P95", {"p95_ms": 199}),
        ("P99", {"p99_ms": 199}),
        ("escalated", {"escalated_share": {"low": 0.0, "high": 0.05}}),
    ],
)
def test_each_figure_can_miss(name: str, goal: dict[str, object]) -> None:
    made = record()
    verdict = judged(made, **goal)
    assert [one for one, met in verdict.items() if met is False] == [name]
    (miss,) = misses(rows(made, Goal.model_validate({"qps": 100, "source": "a test", **goal})))
    assert miss.startswith(f"{name}: ")


def test_where_nobody_was_answered_no_latency_is_told_and_the_run_is_missed_with_a_goal_or_without() -> None:
    refused = record(fail_every=1)
    table = {row.name: row for row in rows(refused, None)}
    assert [name for name, row in table.items() if row.met is False] == ["answered", "failed"]
    assert table["P99"] == Row("P99", "", "-")
    assert {"answered", "failed", "P99"} <= {name for name, met in judged(refused, p99_ms=200).items() if met is False}


def test_without_a_goal_as_many_may_fail_as_a_goal_allows_that_does_not_say() -> None:
    assert misses(rows(record(fail_every=2), None)) == ["failed: 50.00%, target <= 0.10%"]
    assert not misses(rows(record(), None))


def test_failures_miss_unless_they_are_allowed() -> None:
    made = record(fail_every=50)
    assert judged(made)["failed"] is False
    assert judged(made, max_failed_share=0.03)["failed"] is True


def test_answers_that_come_after_the_end_are_not_pace() -> None:
    """A server at half the rate answers everything in the end; its queue is what the goal is about."""
    filled = recorder(settings()).columns()
    slow = shifted(filled, np.maximum(0.0, filled.due_s - 2.0))
    made = record(settings(), slow)
    assert figures(made).failed_share == 0
    assert judged(made)["answered"] is False


def test_a_lower_rate_than_the_targets_is_a_trial() -> None:
    assert judged(record(settings("constant:50")))["offered"] is None


def test_a_seed_that_draws_far_fewer_requests_than_asked_for_is_a_trial_too() -> None:
    bursty = "mmpp:low=20,high=380,low_s=30,high_s=15"
    offered = {seed: figures(record(settings(bursty, seed=seed, seconds=20.0))).offered_per_s for seed in range(1, 6)}
    few = min(offered, key=offered.__getitem__)
    assert offered[few] < 70
    assert judged(record(settings(bursty, seed=few, seconds=20.0)), qps=140)["offered"] is None
    assert judged(record(settings("poisson:140", seed=few, seconds=20.0)), qps=140)["offered"] is True


def test_escalation_is_not_judged_where_nobody_knows_what_should_escalate() -> None:
    made = record(truth=False)
    assert judged(made, escalated_share={"low": 0.0, "high": 0.05})["escalated"] is None


def test_without_a_goal_failures_alone_are_judged() -> None:
    table = rows(record(), None)
    assert {row.name: row.target for row in table if row.target} == {"failed": "<= 0.10%"}
    assert all(row.met is None for row in table if row.name != "failed")
    assert Row("from a cache", "", "25.00%") in table


def test_drift_finds_a_slope_and_its_interval() -> None:
    times = np.linspace(0, 1200, 200)
    noise = np.random.default_rng(1).normal(0, 5, 200)
    leaking = slope("leak", times, 1000 + times * 30 / 3600 + noise)
    steady = slope("steady", times, 1000 + noise)
    assert leaking is not None
    assert steady is not None
    assert leaking.low < 30 < leaking.high
    assert not leaking.flat
    assert steady.flat
    assert slope("short", times[:5], times[:5]) is None


def test_the_interval_of_a_slope_holds_where_neighbours_resemble_each_other() -> None:
    """Steady series whose every sample keeps nine tenths of the one before: about 95 of 100 intervals have 0 within."""
    draw, times = np.random.default_rng(3), np.arange(200.0)
    noise = lfilter([1.0], [1.0, -0.9], draw.normal(size=(200, 400)))[:, 200:]
    found = [slope("steady", times, 1000 + one) for one in noise]
    assert np.mean([one is not None and one.flat for one in found]) > 0.85


def test_a_part_that_is_out_of_line_is_no_slope() -> None:
    times, noise = np.arange(200.0), np.random.default_rng(4).normal(size=200)
    stalled = slope("stalled once", times, noise + np.where((times > 30) & (times < 40), 500.0, 0.0))
    assert stalled is not None and stalled.flat and abs(stalled.per_hour) < 200


def test_drift_of_latency() -> None:
    chosen = settings("constant:100", seconds=100.0)
    filled = recorder(chosen).columns()
    made = record(chosen, shifted(filled, np.maximum(0.0, filled.due_s - 2.0) * 0.001))
    p50, _p99 = latency_slopes(made.columns(), chosen)
    assert p50.per_hour == pytest.approx(3600, rel=0.05)


def test_drift_of_memory_by_process() -> None:
    times = np.arange(0.0, 12.0, 0.1)
    memory = {"times_s": times.tolist(), "bytes": {"all": (2**20 * (100 + times)).tolist(), "idle": [0.0] * len(times)}}
    grown, idle = memory_slopes(memory, settings())
    assert grown.per_hour == pytest.approx(3600)
    assert grown.level == pytest.approx(107, abs=0.2)
    assert idle.flat
    assert len(slopes(record().model_copy(update={"extra": {"memory": memory}}))) == 4


def test_the_report_stands_alone_and_has_every_plot() -> None:
    times = np.arange(0.0, 12.0, 0.5).tolist()
    memory = {"times_s": times, "bytes": {"all": [1e9] * len(times)}}
    made = record(fail_every=13, lag_s=0.02).model_copy(update={"extra": {"memory": memory}})
    text = render(made, rows(made, Goal(qps=100, p99_ms=1, source="a test")), slopes(made), "made <up> & on cpu-demo")
    plots = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    titles = re.findall(r"<h2>(.*?)</h2>\n<svg", text)
    assert titles == [
        "Latency over time",
        "Latency by what answered",
        "Throughput",
        "Escalation",
        "Cost",
        "Lag of the load generator",
        "Memory of the cluster&#x27;s processes",
    ]
    for plot in plots:
        assert ElementTree.fromstring(plot).findall(".//{http://www.w3.org/2000/svg}path")
    assert "made &lt;up&gt; &amp; on cpu-demo" in text
    assert "This run is no measurement of the server" in text
    assert "overloaded" in text
    assert 'class="missed"' in text
    assert not re.search(r"""(src|href)=["'](?!#)""", text)


def test_plots_with_nothing_to_say_are_left_out() -> None:
    chosen = settings()
    quiet = recorder(chosen).columns()
    from dataclasses import replace

    quiet = replace(quiet, usd=np.zeros(len(quiet)), escalated=np.zeros(len(quiet), np.bool_))
    text = render(record(chosen, quiet), [], [], "quiet")
    assert "<h2>Cost</h2>" not in text
    assert "<h2>Escalation</h2>" not in text
    assert "<h2>Throughput</h2>" in text
