"""Times as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.videos.moments import moment_in, seconds_of
from serve.videos.types import clock


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [("0:42", 42.0), ("00:42.500", 42.5), ("1:02:03", 3723.0), ("100:01.5", 6001.5), (" 2:00 ", 120.0)]
    + [(text, None) for text in ("42", "0:4", "0:60", "1:2:03", "-0:42", "a 0:42", "0:42:", "")],
)
def test_a_stamp_is_read(stamp: str, seconds: float | None) -> None:
    assert seconds_of(stamp) == seconds


@given(st.integers(0, 10_000_000))
def test_the_stamps_of_answers_are_read(milliseconds: int) -> None:
    assert seconds_of(clock(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(
    ("question", "seconds"),
    [
        ("What happens at 0:42?", 42.0),
        ("What is shown around 1:02:03?", 3723.0),
        ("Who comes in after 75 seconds?", 75.0),
        ("At about 2 min 5 s, who speaks?", 125.0),
        ("What is to be seen at 90s", 90.0),
        ("what happens at second 7?", 7.0),
        ("What happens after 2 minutes?", 120.0),
    ],
)
def test_a_question_names_its_moment(question: str, seconds: float) -> None:
    assert moment_in(question) == seconds


@pytest.mark.parametrize(
    "question",
    [
        "What happens?",
        "Is the score 2:10 at the end?",
        "Is it 16:09 or 4:03?",
        "Is the video about 20 seconds long?",
        "What happens at 0:10 and what at 0:20?",
        "Look at 3 dogs after 2 cats.",
        "What happens at 0:99?",
        "What happens at 1:2:3:04?",
    ],
)
def test_other_questions_name_none(question: str) -> None:
    assert moment_in(question) is None
