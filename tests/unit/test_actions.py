"""Temporal action detection: windows, hysteresis and merging."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.messages import Float32
from deployments.video_classifier.actions import (
    Action,
    ActionRule,
    WindowScores,
    detect,
    put_together,
    window_scores,
    windows,
)
from serve.videos.plan import window_chunks

LABELS = ("rest", "run", "jump")
REST = frozenset({"rest"})
RULE = ActionRule(enter=0.6, leave=0.4, merge_gap_s=0.5, min_action_s=0.5)


def series(run: list[float], rule: ActionRule = RULE, background: frozenset[str] = REST) -> list[Action]:
    """What is found where windows of 1 s, one each second, say `run` with these probabilities and else `rest`."""
    spans = [(float(n), n + 1.0) for n in range(len(run))]
    rows = np.array([[1.0 - value, value, 0.0] for value in run], np.float32)
    return found_in(spans, rows, rule, background)


def found_in(
    spans: Sequence[tuple[float, float]], rows: Float32, rule: ActionRule = RULE, background: frozenset[str] = REST
) -> list[Action]:
    return detect(window_scores(spans, rows, LABELS, rule.leave, background), rule)


def test_windows_cover_a_part_and_end_with_it() -> None:
    assert windows(0.0, 5.0, 2.0, 1.0) == [(0.0, 2.0), (1.0, 3.0), (2.0, 4.0), (3.0, 5.0)]
    assert windows(10.0, 13.3, 2.0, 1.0) == [(10.0, 12.0), (11.0, 13.0), (pytest.approx(11.3), pytest.approx(13.3))]


def test_a_part_shorter_than_a_window_is_one_window() -> None:
    assert windows(3.0, 4.0, 2.0, 0.5) == [(3.0, 4.0)]
    assert windows(3.0, 3.0, 2.0, 0.5) == [(3.0, 3.0)]


@given(
    start=st.floats(0, 1000),
    length=st.floats(0.01, 500),
    window=st.floats(0.1, 30),
    stride=st.floats(0.05, 30),
)
def test_windows_leave_no_gap_larger_than_the_stride_allows(
    start: float, length: float, window: float, stride: float
) -> None:
    found = windows(start, start + length, window, stride)
    assert found[0][0] == start
    assert found[-1][1] == pytest.approx(start + length, abs=1e-4 * max(1.0, stride))
    assert all(0.0 <= after[0] - before[0] <= stride + 1e-6 for before, after in pairwise(found))
    assert all(end - begin == pytest.approx(min(window, length)) for begin, end in found)


def test_an_action_ends_where_the_line_between_windows_crosses_leave() -> None:
    (action,) = series([0.0, 0.0, 0.8, 0.8, 0.0, 0.0])
    assert action.label == "run"
    # Middles are at 1.5 (0.0), 2.5 (0.8), 3.5 (0.8), 4.5 (0.0): 0.4 is half way.
    assert (action.start_s, action.end_s) == (pytest.approx(2.0), pytest.approx(4.0))
    # Half a second from 0.4 to 0.8, one at 0.8, and half a second back.
    assert action.score == pytest.approx(0.7)


def test_hysteresis_keeps_in_one_piece_what_dips_between_the_thresholds() -> None:
    dip = [0.0, 0.9, 0.5, 0.9, 0.0]
    assert len(series(dip)) == 1
    assert len(series(dip, ActionRule(enter=0.6, leave=0.6, merge_gap_s=0.0, min_action_s=0.0))) == 2


def test_what_never_reaches_enter_is_no_action() -> None:
    assert series([0.0, 0.5, 0.5, 0.5, 0.0]) == []
    assert len(series([0.0, 0.5, 0.6, 0.5, 0.0])) == 1


def test_an_action_reaches_back_to_where_leave_was_crossed() -> None:
    (action,) = series([0.0, 0.5, 0.5, 0.9, 0.0])
    assert action.start_s == pytest.approx(1.3)  # from 0 at 0.5 to 0.5 at 1.5


def test_actions_close_together_are_one_and_its_score_counts_the_gap() -> None:
    split = [0.0, 0.9, 0.3, 0.9, 0.0]
    apart = series(split, ActionRule(enter=0.6, leave=0.4, merge_gap_s=0.1, min_action_s=0.1))
    together = series(split, ActionRule(enter=0.6, leave=0.4, merge_gap_s=0.5, min_action_s=0.1))
    assert len(apart) == 2
    assert len(together) == 1
    assert (together[0].start_s, together[0].end_s) == (apart[0].start_s, apart[1].end_s)
    assert together[0].score < min(action.score for action in apart)


def test_short_actions_are_dropped_after_merging() -> None:
    spike = [0.0, 0.0, 0.65, 0.0, 0.0]
    assert series(spike, ActionRule(enter=0.6, leave=0.4, min_action_s=1.0)) == []
    assert len(series(spike, ActionRule(enter=0.6, leave=0.4, min_action_s=0.5))) == 1


def test_actions_reach_to_the_ends_of_the_part() -> None:
    (action,) = series([0.9, 0.9, 0.9])
    assert (action.start_s, action.end_s) == (0.0, 3.0)
    assert action.score == pytest.approx(0.9)


def test_background_is_no_action_and_labels_do_not_disturb_each_other() -> None:
    assert [action.label for action in series([0.0, 0.0, 0.0], background=frozenset())] == ["rest"]
    assert series([0.0, 0.0, 0.0]) == []
    spans = [(float(n), n + 1.0) for n in range(6)]
    rows = np.array([[0, 1, 0]] * 3 + [[0, 0, 1]] * 3, np.float32)
    found = found_in(spans, rows)
    assert [(action.label, round(action.start_s, 1), round(action.end_s, 1)) for action in found] == [
        ("run", 0.0, 3.1),
        ("jump", 2.9, 6.0),
    ]


def test_no_windows_no_actions() -> None:
    assert found_in([], np.zeros((0, 3), np.float32)) == []


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40))
def test_what_is_found_lies_inside_apart_and_scores_between_leave_and_one(values: list[float]) -> None:
    rule = ActionRule(enter=0.6, leave=0.4, merge_gap_s=0.0, min_action_s=0.0)
    found = series(values, rule)
    assert all(0.0 <= action.start_s <= action.end_s <= len(values) for action in found)
    assert all(after.start_s > before.end_s for before, after in pairwise(found))
    assert all(0.4 - 1e-6 <= action.score <= 1.0 + 1e-6 for action in found)
    assert bool(found) == any(value >= 0.6 for value in np.array(values, np.float32).astype(np.float64))


@given(
    start=st.floats(0, 50),
    length=st.floats(0.1, 60),
    chunk_s=st.floats(1, 30),
    window=st.sampled_from([0.5, 2.0, 20.0]),
    share=st.sampled_from([0.25, 0.3, 1.0]),
    seed=st.integers(0, 1 << 16),
)
def test_it_makes_no_difference_in_how_many_chunks_windows_are_looked_at(
    start: float, length: float, chunk_s: float, window: float, share: float, seed: int
) -> None:
    end, stride = start + length, window * share
    phase = np.random.default_rng(seed).uniform(0, 6, 4)

    def seen(begin: float, stop: float) -> WindowScores:
        spans = windows(begin, stop, window, stride)
        middles = np.array([sum(span) / 2 for span in spans])
        run = np.clip(0.5 + 0.4 * np.sin(middles + phase[0]) + 0.3 * np.sin(2.7 * middles + phase[1]), 0, 1)
        jump = np.clip(np.sin(0.4 * middles + phase[2]), 0, 1) * (1 - run)
        return window_scores(spans, np.stack([1 - run - jump, run, jump], 1).astype(np.float32), LABELS, 0.4, REST)

    rule = ActionRule(enter=0.6, leave=0.4, merge_gap_s=0.3, min_action_s=0.4)
    chunks = window_chunks(start, end, chunk_s, window, stride)
    (together,) = put_together([seen(chunk.start_s, chunk.end_s) for chunk in chunks])
    expected = detect(seen(start, end), rule)
    found = detect(together, rule)
    assert [action.label for action in found] == [action.label for action in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one.start_s, one.end_s) == (
            pytest.approx(other.start_s, abs=1e-3),
            pytest.approx(other.end_s, abs=1e-3),
        )
        assert one.score == pytest.approx(other.score, abs=1e-3)


def test_nothing_is_found_where_nothing_was_looked_at() -> None:
    parts = [WindowScores([(at, at + 1.0), (at + 1.0, at + 2.0)], {"run": [0.9, 0.9]}) for at in (0.0, 1.0, 7.0)]
    spans = [(action.start_s, action.end_s) for whole in put_together(parts) for action in detect(whole, RULE)]
    assert spans == [(0.0, 3.0), (7.0, 9.0)]
    assert put_together([WindowScores(), parts[0]]) == [parts[0]]
