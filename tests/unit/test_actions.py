"""Temporal action detection: windows, hysteresis and merging."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.video_classifier.actions import Action, ActionRule, detect, windows

LABELS = ("rest", "run", "jump")
REST = frozenset({"rest"})
RULE = ActionRule(enter=0.6, leave=0.4, merge_gap_s=0.5, min_action_s=0.5)


def series(run: list[float], rule: ActionRule = RULE, background: frozenset[str] = REST) -> list[Action]:
    """What is found where windows of 1 s, one each second, say `run` with these probabilities and else `rest`."""
    spans = [(float(n), n + 1.0) for n in range(len(run))]
    rows = np.array([[1.0 - value, value, 0.0] for value in run], np.float32)
    return detect(spans, rows, LABELS, rule, background)


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
    found = detect(spans, rows, LABELS, RULE, REST)
    assert [(action.label, round(action.start_s, 1), round(action.end_s, 1)) for action in found] == [
        ("run", 0.0, 3.1),
        ("jump", 2.9, 6.0),
    ]


def test_no_windows_no_actions() -> None:
    assert detect([], np.zeros((0, 3), np.float32), LABELS, RULE) == []


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40))
def test_what_is_found_lies_inside_apart_and_scores_between_leave_and_one(values: list[float]) -> None:
    rule = ActionRule(enter=0.6, leave=0.4, merge_gap_s=0.0, min_action_s=0.0)
    found = series(values, rule)
    assert all(0.0 <= action.start_s <= action.end_s <= len(values) for action in found)
    assert all(after.start_s > before.end_s for before, after in pairwise(found))
    assert all(0.4 - 1e-6 <= action.score <= 1.0 + 1e-6 for action in found)
    assert bool(found) == any(value >= 0.6 for value in np.array(values, np.float32).astype(np.float64))
