"""The pure parts of support: passages, fused rankings, citations, and when a stronger model is asked."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.generation.messages import TokenLogprob
from serve.chunking import passages
from serve.citations import resolve
from serve.config.support import Support
from serve.escalation import Signals, confidence, reasons
from serve.retrieval import RRF_K, fuse

RULE = Support(knowledge="docs", chat_model="llava", min_coverage=0.3, min_confidence=0.5)
texts = st.text(st.sampled_from("aäß🎉é .!?\n\t-"), max_size=400) | st.text(max_size=200)


@given(texts, st.integers(5, 80), st.data())
def test_passages_are_pieces_of_the_text_that_cover_it(text: str, most: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, most // 2))
    found = passages(text, most, overlap)
    covered = [False] * len(text)
    before = -1
    for start, passage in found:
        assert 0 < len(passage) <= most and text[start : start + len(passage)] == passage
        assert start > before and passage.strip()
        before = start
        covered[start : start + len(passage)] = [True] * len(passage)
    left_out = "".join(char for char, seen in zip(text, covered, strict=True) if not seen)
    assert not left_out.strip()


def test_a_separator_of_fields_alone_is_no_passage() -> None:
    assert passages("\x1f", 5, 0) == []


@given(texts, st.integers(10, 80), st.integers(0, 5))
def test_passages_repeat_no_more_than_they_may(text: str, most: int, overlap: int) -> None:
    found = passages(text, most, overlap)
    for (start, passage), (following, _) in itertools.pairwise(found):
        assert start + len(passage) - following <= overlap


def test_passages_end_at_paragraphs_then_sentences() -> None:
    text = "Returns.\n\nSend shoes back within 30 days. They must be unworn.\n\nShipping takes 3 days. It is free."
    assert [passage for _, passage in passages(text, 60, 0)] == [
        "Returns.",
        "Send shoes back within 30 days. They must be unworn.",
        "Shipping takes 3 days. It is free.",
    ]
    sentences = [passage for _, passage in passages(text, 35, 0)]
    assert sentences[1:3] == ["Send shoes back within 30 days.", "They must be unworn."]
    overlapping = [passage for _, passage in passages("One two. Three four. Five six.", 22, 12)]
    assert overlapping == ["One two. Three four.", "Three four. Five six."]
    assert passages(" \n ", 60, 0) == []


def test_fusion_prefers_what_both_rankings_know() -> None:
    assert fuse([["a", "b", "c"], ["c", "d"]]) == ["c", "a", "b", "d"]
    assert fuse([["a", "b"], []]) == ["a", "b"] and fuse([]) == []
    assert fuse([["a"], ["b"]]) == ["a", "b"]  # a tie: the first ranking decides


rankings = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=4)


@given(rankings)
def test_fusion_holds_everything_once_by_its_score(given_rankings: list[list[str]]) -> None:
    fused = fuse(given_rankings)
    assert sorted(fused) == sorted({name for ranking in given_rankings for name in ranking})

    def score(name: str) -> float:
        return sum(1 / (RRF_K + ranking.index(name) + 1) for ranking in given_rankings if name in ranking)

    for first, second in itertools.pairwise(fused):
        assert score(first) >= score(second) - 1e-12


@pytest.mark.parametrize(
    ("answer", "offered", "text", "cited"),
    [
        ("Within 30 days [2]. Free [1].", 3, "Within 30 days [2]. Free [1].", (2, 1)),
        ("Yes [1][1] and [1].", 1, "Yes [1][1] and [1].", (1,)),
        ("Yes [4].", 3, "Yes.", ()),
        ("Yes [0], no [12] [2].", 3, "Yes, no [2].", (2,)),
        ("Both [1, 3] and [2,9].", 3, "Both [1, 3] and [2].", (1, 3, 2)),
        ("All of [7, 8] it.", 3, "All of it.", ()),
        ("[9] first", 3, " first", ()),
        ("An array a[1234] and [x] and [].", 3, "An array a[1234] and [x] and [].", ()),
        ("Nothing [1].", 0, "Nothing.", ()),
    ],
)
def test_citations_that_were_invented_are_taken_out(answer: str, offered: int, text: str, cited: tuple[int]) -> None:
    assert resolve(answer, offered) == (text, cited)


@given(st.text(st.sampled_from("ab [],.0123456789\n"), max_size=80), st.integers(0, 5))
def test_no_invented_citation_is_left(answer: str, offered: int) -> None:
    text, cited = resolve(answer, offered)
    assert all(1 <= number <= offered for number in cited) and len(set(cited)) == len(cited)
    if "[" not in answer:
        assert text == answer


CALM = Signals("question", "neutral", 0.8, None, 0.9)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ()),
        ({"intent": "human"}, ("human_requested",)),
        ({"intent": "complaint", "sentiment": "negative"}, ()),
        ({"sentiment": "angry"}, ("angry",)),
        ({"coverage": 0.3}, ()),
        ({"coverage": 0.29}, ("nothing_relevant",)),
        ({"coverage": 0.0, "similarity": 0.99}, ("nothing_relevant",)),
        ({"confidence": 0.5}, ()),
        ({"confidence": 0.49}, ("low_confidence",)),
        ({"confidence": None}, ()),
        (
            {"intent": "human", "sentiment": "angry", "coverage": 0.0, "confidence": 0.1},
            ("human_requested", "angry", "nothing_relevant", "low_confidence"),
        ),
    ],
)
def test_when_a_stronger_model_is_asked(changes: dict[str, object], why: tuple[str, ...]) -> None:
    values = {name: getattr(CALM, name) for name in ("intent", "sentiment", "coverage", "similarity", "confidence")}
    assert reasons(Signals(**{**values, **changes}), RULE) == why  # type: ignore[arg-type]


def test_a_near_vector_counts_as_relevant_where_a_threshold_is_set() -> None:
    rule = RULE.model_copy(update={"min_similarity": 0.7})
    for similarity, why in ((0.7, ()), (0.69, ("nothing_relevant",)), (None, ("nothing_relevant",))):
        assert reasons(Signals("question", "neutral", 0.1, similarity), rule) == why


def test_confidence_is_the_geometric_mean() -> None:
    tokens = [TokenLogprob("a", math.log(0.5)), TokenLogprob("b", math.log(0.125))]
    assert confidence(tokens) == pytest.approx(0.25) and confidence([]) is None
