"""The scores of `argus bench documents`."""

from __future__ import annotations

import pytest

from benchmarks.documents import cell_f1, character_error_rate, judged, word_f1

GRID = [["a", "b"], ["1", ""], ["2", "3"]]


def test_cells_count_where_they_stand() -> None:
    assert cell_f1([GRID], [GRID]) == 1
    assert cell_f1([GRID], []) == 0
    assert cell_f1([], []) == 1
    assert cell_f1([GRID], [GRID[1:]]) == 0  # all a row too high
    assert cell_f1([GRID], [[["a", "b"], ["1", "x"], ["2", " 3 "]]]) == pytest.approx(10 / 11)
    assert cell_f1([GRID, [["z"]]], [[["z"]], GRID]) == 1


def test_words_count_wherever_they_stand() -> None:
    assert word_f1("a b b", "b a b") == 1
    assert word_f1("a b", "a a a a") == pytest.approx(2 / 6)
    assert word_f1("", "") == 1


@pytest.mark.parametrize(
    ("truth", "read", "rate"),
    [("abc", "abc", 0), ("abc", "", 1), ("", "", 0), ("", "x", 1), ("kitten", "sitting", 3 / 6), ("a  b", "a b", 0)],
)
def test_character_errors_are_edits(truth: str, read: str, rate: float) -> None:
    assert character_error_rate(truth, read) == pytest.approx(rate)


def test_the_goal_is_missed_by_low_scores_failures_and_absence() -> None:
    good = {"backend": "ocr", "form": "pdf", "kind": "tables", "cell_f1": 0.95, "documents": 3, "failed": 0}
    assert judged([good]) == []
    assert judged([good | {"form": "picture", "cell_f1": 0.81}]) == []
    assert len(judged([good | {"cell_f1": 0.89}])) == 1
    assert len(judged([good | {"failed": 1}])) == 1
    assert len(judged([good | {"backend": "llava", "cell_f1": 0.0}])) == 1
