"""How the demo's goals are found: the knee by search, a goal with reserve from it; what the cross-check compares."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.loadtest import crosscheck
from benchmarks.loadtest.verdict import Figures
from benchmarks.targets import SHIPPED, Goal, load_targets
from benchmarks.workloads.goals import PACE, goal_of, rounded, written
from benchmarks.workloads.knee import held, knee, reserved, search
from serve.errors import ConfigError, Unavailable

LIGHT = Figures(
    requests=24,
    offered_per_s=2.0,
    paced_per_s=2.0,
    failed_share=0.0,
    mean_ms=22.0,
    p50_ms=20.0,
    p95_ms=30.0,
    p99_ms=40.0,
    escalated_share=0.0,
    cached_share=0.0,
    usd_per_1000=0.0,
    tokens_per_s=0.0,
    first_p50_s=math.nan,
    first_p99_s=math.nan,
    valid=True,
)


@given(st.floats(2, 500))
def test_the_search_ends_just_below_what_is_held(limit: float) -> None:
    asked: list[float] = []

    def is_held(rate: float) -> bool:
        asked.append(rate)
        return rate <= limit

    found = search(is_held, 2.0)
    assert found in asked
    assert limit / 1.6**0.25 * 0.999 <= found <= limit
    assert len(asked) <= 16 + 2


def test_nothing_is_found_where_a_light_load_is_too_much() -> None:
    assert search(lambda rate: False, 2.0) == 0


def test_what_is_held() -> None:
    assert held(replace(LIGHT, p95_ms=140), LIGHT, 12.0)
    assert not held(replace(LIGHT, p95_ms=160), LIGHT, 12.0)
    assert not held(replace(LIGHT, failed_share=0.01), LIGHT, 12.0)
    assert not held(replace(LIGHT, valid=False), LIGHT, 12.0)


def test_answers_keep_pace_but_for_those_under_way_at_the_end() -> None:
    """Of 24 requests in 12 s three may still be under way, and a twentieth more; of 2,400 that is nothing."""
    assert held(replace(LIGHT, paced_per_s=20 / 12), LIGHT, 12.0)
    assert not held(replace(LIGHT, paced_per_s=19 / 12), LIGHT, 12.0)
    assert not held(replace(LIGHT, paced_per_s=20 / 12), LIGHT, 1200.0)
    assert held(replace(LIGHT, paced_per_s=1.9), LIGHT, 1200.0)


@pytest.mark.parametrize("wrong", [{"failed_share": 1.0, "p95_ms": math.nan}, {"valid": False}])
def test_a_light_load_that_is_not_held_has_no_knee(wrong: dict[str, Any]) -> None:
    asked: list[float] = []

    def measure(rate: float, _seconds: float) -> Figures:
        asked.append(rate)
        return replace(LIGHT, **wrong)

    assert knee(measure, 2.0, 10.0) == 0
    assert asked == [2.0]


def test_the_knee_of_a_server_that_queues() -> None:
    """A server that does 50 a second: M/M/1, whose 95th percentile is ln(20) / (50 - rate)."""

    def measure(rate: float, _seconds: float) -> Figures:
        p95 = 1e3 * math.log(20) / max(50 - rate, 1e-3)
        return replace(LIGHT, offered_per_s=rate, paced_per_s=min(rate, 50.0), p95_ms=p95)

    # Five times the 95th percentile at 2/s is reached at 40.4/s.
    assert 40.4 / 1.6**0.25 <= knee(measure, 2.0, 10.0) <= 40.4


def test_one_slow_moment_of_the_machine_does_not_end_the_search() -> None:
    asked: list[float] = []

    def measure(rate: float, _seconds: float) -> Figures:
        asked.append(rate)
        return replace(LIGHT, failed_share=0.0 if (rate <= 40 and asked.count(rate) == 2) or rate == 2.0 else 0.1)

    assert 40 / 1.6**0.25 <= knee(measure, 2.0, 10.0) <= 40


class Server:
    """Does as many requests a second; a twentieth of its answers take a second more, wherever the load is.

    Args:
        tired: longest run in which it does so.
    """

    def __init__(self, most_per_s: float, tired: float = 1e9) -> None:
        self.most_per_s, self.tired = most_per_s, tired
        self.asked: list[tuple[float, float]] = []

    def __call__(self, rate: float, seconds: float) -> Figures:
        self.asked.append((rate, seconds))
        median = 1e3 * math.log(2) / max(self.most_per_s - rate, 1e-3)
        slow = len(self.asked) > 1  # the first run's 95th percentile lay just below them
        paced = min(rate, self.most_per_s if seconds <= self.tired else 0.0)
        p95 = 1000.0 + median if slow else 4 * median
        return replace(LIGHT, offered_per_s=rate, paced_per_s=paced, p50_ms=median, p95_ms=p95, p99_ms=1000.0 + median)


def test_a_goal_without_a_95th_percentile_is_found_by_the_median() -> None:
    shipped = load_targets().workload("clip_api").goal("cpu-demo")
    assert shipped is not None and shipped.p95_ms is None
    server = Server(1000.0)
    found, at_goal = reserved(shipped, server, 10.0, None)
    assert server.asked[0] == (shipped.qps / 4, 10.0), "a quarter of the present goal is a light load"
    assert 800 / 1.6**0.25 - 10 <= found <= 810
    assert server.asked[-1] == (0.7 * found, 40.0), "its latencies are a longer run's"
    assert at_goal.offered_per_s == 0.7 * found
    usual = shipped.model_copy(update={"p95_ms": 100.0})
    with pytest.raises(Unavailable, match="is not held"):
        reserved(usual, Server(1.0), 10.0, None)
    assert reserved(usual, Server(1000.0), 10.0, None)[0] < 30


def test_a_rate_that_is_not_held_for_long_becomes_no_goal() -> None:
    with pytest.raises(Unavailable, match="is not held for longer"):
        reserved(None, Server(100.0, tired=20.0), 10.0, 2.0)


def test_goals_are_written_into_the_file_and_nothing_else_changes() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    goals = {
        name: goal_of(name, workload.goal("cpu-demo"), 43.0, LIGHT, 1.3)
        for name, workload in load_targets().workloads.items()
    }
    changed = text
    for name, goal in goals.items():
        changed = written(changed, name, goal)
    before, after = yaml.safe_load(text), yaml.safe_load(changed)
    for name, goal in goals.items():
        assert after["workloads"][name]["goals"]["cpu-demo"] == goal
        before["workloads"][name]["goals"]["cpu-demo"] = goal
    assert after == before
    assert [line for line in changed.splitlines() if "#" in line] == [line for line in text.splitlines() if "#" in line]
    assert max(map(len, changed.splitlines())) <= 120
    assert written(changed, "moderation", goals["moderation"]) == changed
    with pytest.raises(ConfigError, match="'nothing' has no goal"):
        written(text, "nothing", goals["moderation"])


def test_goals_have_reserve_and_say_where_they_come_from() -> None:
    goal = Goal.model_validate(goal_of("moderation", None, 43.0, LIGHT, PACE))
    assert goal.qps == 30
    assert (goal.p50_ms, goal.p95_ms, goal.p99_ms) == (40, 60, 80)
    assert "measured" in goal.source and "knee moderation" in goal.source and "argus load moderation" in goal.source


def test_goals_are_stated_for_slow_cores_whatever_they_were_measured_on() -> None:
    goal = Goal.model_validate(goal_of("moderation", None, 43.0, LIGHT, PACE / 2))
    assert goal.qps == 15, "cores that are half as fast do half as much"
    assert (goal.p50_ms, goal.p95_ms, goal.p99_ms) == (80, 120, 160), "and take twice as long"
    assert f"a pace of the cores of {PACE / 2:.2f}; stated for one of {PACE:g}" in goal.source


def test_a_new_goal_keeps_what_no_run_measures() -> None:
    shipped = load_targets().workload("clip_api").goal("cpu-demo")
    assert shipped is not None and shipped.escalated_share is not None and shipped.p95_ms is None
    made = Goal.model_validate(goal_of("clip_api", shipped, 43.0, LIGHT, PACE))
    assert (made.qps, made.mean_ms, made.p95_ms) == (30, 44, None)
    assert made.escalated_share == shipped.escalated_share
    assert made.source != shipped.source
    allowed = shipped.model_copy(update={"max_failed_share": 0.005})
    allowed = Goal.model_validate(allowed.model_dump(exclude_none=True))
    assert Goal.model_validate(goal_of("clip_api", allowed, 43.0, LIGHT, PACE)).max_failed_share == 0.005


@pytest.mark.parametrize(
    ("value", "up", "down"), [(30.1, 31, 30), (0.0, 0, 0), (123.4, 130, 120), (0.0456, 0.046, 0.045), (99.9, 100, 99)]
)
def test_two_digits(value: float, up: float, down: float) -> None:
    assert rounded(value, up=True) == pytest.approx(up)
    assert rounded(value, up=False) == pytest.approx(down)


def test_a_round_is_measured_without_its_first_seconds() -> None:
    began = np.arange(0, 10, 0.5)
    kinds = ["ask", "describe"] * 10
    ended = began + np.where(np.arange(20) % 2 == 0, 0.1, 0.3)
    ended[:6] += 5  # connections were being made
    found = crosscheck.measured(began, ended, kinds, 2)
    assert found.p50_ms == pytest.approx({"ask": 100, "describe": 300})
    assert found.done_per_s == pytest.approx(2, rel=0.05)
    assert found.failed == 2
    with pytest.raises(Unavailable, match="3 failed"):
        crosscheck.measured(np.empty(0), np.empty(0), [], 3)
    for few in (np.zeros(4), np.array([0.0, 9.0])):
        with pytest.raises(Unavailable, match="too few answers"):
            crosscheck.measured(few, few + 0.1, ["ask"] * len(few), 3)
    with pytest.raises(Unavailable, match="too few answers"):
        crosscheck.measured(np.array([0.0, 9.0, 9.0]), np.array([1.0, 10.0, 10.0]), ["ask"] * 3, 0)


def test_rounds_are_compared_by_their_medians() -> None:
    rounds = [crosscheck.Measured(4.0, {"ask": p50}, 0) for p50 in (50.0, 500.0, 52.0)]
    ours = crosscheck.median(rounds)
    assert ours.p50_ms == {"ask": 52.0}
    rows = {row[0]: row for row in crosscheck.compare(ours, crosscheck.Measured(4.04, {"ask": 50.0}, 0))}
    assert rows["answers/s"][3] == pytest.approx(-0.0099, abs=1e-3)
    assert rows["P50 ms, ask"][3] == pytest.approx(0.04)


def test_a_kind_that_only_one_of_the_two_has_is_no_comparison() -> None:
    both = crosscheck.Measured(4.0, {"ask": 50.0, "describe": 80.0}, 0)
    ask = crosscheck.Measured(4.0, {"ask": 50.0}, 0)
    assert crosscheck.median([both, ask]).p50_ms.keys() == {"ask"}
    assert crosscheck.median([ask, both]).p50_ms.keys() == {"ask"}
    for one, other in ((both, ask), (ask, both)):
        with pytest.raises(Unavailable, match="describe"):
            crosscheck.compare(one, other)


def test_the_peers_report_is_read_by_kind() -> None:
    def request(start: float, seconds: float, text: str) -> dict[str, object]:
        body = {"body": {"messages": [{"role": "user", "content": text}]}}
        return {"request_start_time": start, "request_end_time": start + seconds, "request_args": json.dumps(body)}

    good = [request(n, 0.2 if n % 2 else 0.4, "What colour?" if n % 2 else "as JSON with keys") for n in range(10)]
    report = {"benchmarks": [{"requests": {"successful": good, "errored": [{}], "incomplete": []}}]}
    found = crosscheck.read_report(report)
    assert found.p50_ms == pytest.approx({"ask": 200, "describe": 400})
    assert found.failed == 1
    for other in ({}, {"benchmarks": []}, {"benchmarks": [{"requests": {"successful": [{}], "errored": []}}]}):
        with pytest.raises(Unavailable, match="report is not what"):
            crosscheck.read_report(other)
