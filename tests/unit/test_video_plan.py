"""The pure parts of watching a video: chunks, what becomes of their texts and answers, and the pace."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.video_classifier.actions import windows
from serve.videos.merge import Vote, decide, without_repeats
from serve.videos.pace import Pace
from serve.videos.plan import Chunk, chunk_count, plan, window_chunks
from serve.videos.types import clock

LENGTHS = st.floats(0.1, 4000)
CUTS = st.lists(st.floats(0, 4000), max_size=40).map(sorted)


@given(start=st.floats(0, 500), length=LENGTHS, chunk_s=st.floats(1, 600), overlap=st.floats(0, 20), cuts=CUTS)
def test_chunks_cover_everything_in_order(
    start: float, length: float, chunk_s: float, overlap: float, cuts: list[float]
) -> None:
    end = start + length
    chunks = plan(start, end, chunk_s, overlap, cuts)
    assert len(chunks) == chunk_count(end - start, chunk_s)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert (chunks[0].start_s, chunks[-1].end_s) == (start, end)
    usual = (end - start) / len(chunks)
    for before, after in pairwise(chunks):
        assert before.start_s <= after.start_s <= before.end_s < after.end_s
        shared = before.end_s - after.start_s
        assert shared == 0 or shared == pytest.approx(min(overlap, usual / 2), abs=1e-6)
        if before.end_s != pytest.approx(start + usual * after.index):  # it has moved
            assert before.end_s in cuts and shared == 0
    for chunk in chunks:
        assert 0 < chunk.end_s - chunk.start_s <= 1.5 * usual + overlap + 1e-6
    assert len({chunk.key for chunk in chunks}) == len(chunks)
    assert [chunk.key for chunk in chunks] == sorted(chunk.key for chunk in chunks)


def test_borders_move_to_cuts_nearby_and_only_those_that_do_not_overlap() -> None:
    chunks = plan(0.0, 90.0, 30.0, 2.0, [5.0, 27.0, 34.5, 45.0, 70.0])
    assert chunks == (Chunk(0, 0.0, 27.0), Chunk(1, 27.0, 60.0), Chunk(2, 58.0, 90.0))


def test_a_video_of_a_chunk_is_one_chunk() -> None:
    assert plan(0.0, 30.0, 30.0, 1.0, [15.0]) == (Chunk(0, 0.0, 30.0),)
    assert len(plan(0.0, 30.001, 30.0, 1.0)) == 2
    assert len(plan(0.0, 0.1 * 3 * 100, 30.0, 1.0)) == 1  # 30.000000000000004


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00.000"), (61.0396, "01:01.040"), (59.9999, "01:00.000"), (6001.5, "100:01.500")]
)
def test_times_are_written_in_minutes(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_sentences_are_said_once() -> None:
    texts = ["A red square moves left. It stops.", "It stops!\nA dog barks.", "a red  square moves left", "the end", ""]
    assert without_repeats(texts) == "A red square moves left. It stops. A dog barks. the end."


def test_the_answer_with_the_most_weight_is_taken() -> None:
    assert decide([Vote("Left.", 0.4), Vote("right", 0.7), Vote("left", 0.5)]) == (
        "left",
        pytest.approx(0.9 / 1.6),
        (0, 2),
    )
    assert decide([Vote("yes", 0.5), Vote("no", 0.5)]) == ("yes", 0.5, (0,))


@pytest.mark.parametrize(
    "blind", ["I do not know.", "I don't see it", "I can't tell.", "Unknown", "It is not visible."]
)
def test_who_has_not_seen_it_has_no_vote(blind: str) -> None:
    assert decide([Vote(blind), Vote("red", 0.1), Vote(blind)]) == ("red", 1.0, (1,))
    assert decide([Vote(blind), Vote(blind)])[0] == blind  # unless nobody has


@given(
    start=st.floats(0, 500), length=LENGTHS, chunk_s=st.floats(1, 600), window=st.floats(0.5, 100), n=st.integers(1, 8)
)
def test_the_windows_of_the_chunks_are_those_of_the_whole(
    start: float, length: float, chunk_s: float, window: float, n: int
) -> None:
    end, stride = start + length, window / n
    chunks = window_chunks(start, end, chunk_s, window, stride)
    assert (chunks[0].start_s, chunks[-1].end_s, len({chunk.key for chunk in chunks})) == (start, end, len(chunks))
    assert len(chunks) <= chunk_count(end - start, chunk_s)
    whole = windows(start, end, window, stride)
    parts = [windows(chunk.start_s, chunk.end_s, window, stride) for chunk in chunks]
    for before, after in pairwise(parts):
        assert np.allclose(before[-1], after[0])  # the one that they share
    assert np.allclose([*parts[0], *(span for part in parts[1:] for span in part[1:])], whole)
    assert max(len(part) for part in parts) <= len(whole) // len(chunks) + 2


def test_the_pace_is_learnt_and_does_not_refuse_for_ever() -> None:
    pace = Pace()
    assert pace.needs("a", 10, 2) is None
    pace.took("a", 4.0)
    assert (pace.needs("a", 10, 2), pace.needs("a", 9, 2), pace.needs("b", 1, 1)) == (20.0, 20.0, None)
    pace.took("a", 2.0)
    assert pace.needs("a", 1, 1) == pytest.approx(3.4)
    for _ in range(60):
        pace.refused("a")
    assert (pace.needs("a", 1, 1) or 1.0) < 0.2
