"""`argus bench perception`: requests and answers of the API in the terms of the published processor, and the goal."""

from __future__ import annotations

import re
from typing import Any

import pytest

from benchmarks import perception
from benchmarks.perception_client import as_processor, given
from demo.florence2_cases import Case, Outcome, cases_of
from demo.florence2_lessons import TASKS, locations
from demo.scenes import Box, Difficulty
from deployments.florence2.tasks import Task, find_task
from serve.errors import ModelFailed


def task(token: str) -> Task:
    found = find_task(token)
    assert found is not None
    return found


class TestGiven:
    @pytest.mark.parametrize("token", TASKS)
    def test_a_case_gives_what_its_task_needs_and_nothing_else(self, token: str) -> None:
        needs = {"nothing": set[str](), "text": {"text"}, "region": {"region"}}[task(token).needs]
        cases = [case for case in cases_of("medium", 3, seed=0) if case.task == token]
        assert cases
        assert all(set(given(task(token), case)) == needs for case in cases)

    def test_a_region_has_the_tokens_that_it_came_from(self) -> None:
        cases = [case for case in cases_of("easy", 6, seed=0) if case.task == "<REGION_TO_CATEGORY>"]
        for case in cases:
            left, top, right, bottom = map(float, given(task(case.task), case)["region"].split(","))
            assert locations(Box(left, top, right, bottom), case.size) == case.given
            assert re.fullmatch(r"(<loc_\d+>){4}", case.given)


class TestAsProcessor:
    @pytest.mark.parametrize(
        ("token", "fields", "result"),
        [
            ("<OCR>", {"text": "STOP"}, "STOP"),
            (
                "<OD>",
                {"boxes": [{"box": [1.0, 2.0, 3.0, 4.0], "label": "red star"}]},
                {"bboxes": [[1.0, 2.0, 3.0, 4.0]], "labels": ["red star"]},
            ),
            (
                "<OCR_WITH_REGION>",
                {"quads": [{"points": [[0, 1], [2, 1], [2, 3], [0, 3]], "text": "STOP"}]},
                {"quad_boxes": [[0, 1, 2, 1, 2, 3, 0, 3]], "labels": ["STOP"]},
            ),
            (
                "<REGION_TO_SEGMENTATION>",
                {"polygons": [{"rings": [[[0, 0], [4, 0], [4, 4]], [[5, 5], [6, 5], [6, 6]]], "label": ""}]},
                {"polygons": [[[0, 0, 4, 0, 4, 4], [5, 5, 6, 5, 6, 6]]], "labels": [""]},
            ),
            (
                "<OPEN_VOCABULARY_DETECTION>",
                {
                    "boxes": [{"box": [1, 2, 3, 4], "label": "star"}],
                    "polygons": [{"rings": [[[0, 0], [4, 0], [4, 4]]], "label": "ring"}],
                },
                {
                    "bboxes": [[1, 2, 3, 4]],
                    "bboxes_labels": ["star"],
                    "polygons": [[[0, 0, 4, 0, 4, 4]]],
                    "polygons_labels": ["ring"],
                },
            ),
        ],
    )
    def test_every_form_of_answer(self, token: str, fields: dict[str, Any], result: Any) -> None:
        assert as_processor(task(token), fields) == result

    def test_an_error_is_no_answer(self) -> None:
        with pytest.raises(ModelFailed, match=r"caption failed: .*too large"):
            as_processor(task("<CAPTION>"), {"error": {"message": "too large"}})


class TestGoal:
    def outcomes(self, difficulty: Difficulty, right: float) -> list[Outcome]:
        cases: list[Case] = [case for case in cases_of(difficulty, 2, seed=0) if case.task in ("<CAPTION>", "<OCR>")]
        return [Outcome(case, "", right) for case in cases]

    def test_both_difficulties_count_together_and_nothing_to_read_is_no_word(self) -> None:
        rows = perception.florence2_rows(self.outcomes("easy", 1.0) + self.outcomes("medium", 0.0))
        measured = {row["measure"]: row for row in rows}
        captions, words = measured["captions that name every object"], measured["printed words read exactly"]
        assert (captions["asked"], captions["easy"], captions["medium"], captions["both"]) == (4, 1.0, 0.0, 0.5)
        assert words["asked"] == 2  # a word is printed in every second scene
        assert measured["<OCR> of nothing"]["asked"] == 2

    def test_a_miss_says_what_was_reached_and_what_is_wanted(self) -> None:
        def row(measure: str, both: float | None, wanted: float | None) -> dict[str, Any]:
            return {"model": "m", "measure": measure, "both": both, "wanted": wanted}

        rows = [row("met", 0.9, 0.9), row("missed", 0.5, 0.9), row("no goal", 0.1, None), row("unasked", None, 0.8)]
        assert perception.judged(rows) == [
            "m, missed: 50.0%; 90% is wanted",
            "m, unasked: nothing was asked; 80% is wanted",
        ]
