"""Text from tokens as they arrive: characters and stop texts are never let out in halves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.generation.text_stream import TextStream
from tests.support.tiny_tokenizers import byte_level, ids_of, sentence_pieces

REPLACEMENT = "\ufffd"


BYTES, PIECES = byte_level(), sentence_pieces()


def read(tokenizer: Any, ids: list[int], *stop: str) -> tuple[list[str], bool]:
    """What each token let out, then what the end did; and whether a stop text was met."""
    stream = TextStream(tokenizer, stop)
    pieces = []
    for token in ids:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    return [*pieces, stream.finish()], stream.stopped


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES])
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁ "), max_size=30))
def test_whole_characters_only(tokenizer: Any, text: str) -> None:
    pieces, _ = read(tokenizer, ids_of(tokenizer, text))
    assert "".join(pieces) == text.rstrip(REPLACEMENT)
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in piece for piece in pieces)


def test_spaces_before_words_survive() -> None:
    ids = [PIECES.convert_tokens_to_ids(piece) for piece in ("▁a", "▁cat", "b", "▁", "▁a")]
    pieces, _ = read(PIECES, ids)
    assert pieces[:3] == ["a", " cat", "b"]
    assert "".join(pieces) == "a catb  a"


def test_a_character_that_is_cut_short_is_left_out() -> None:
    ids = ids_of(BYTES, "ok 漢")
    assert read(BYTES, ids[:-1])[0] == ["o", "k", " ", "", "", ""]
    assert "".join(read(BYTES, ids)[0]) == "ok 漢"


def test_noise_is_let_out_in_the_end() -> None:
    continuation = ids_of(BYTES, "漢")[1]
    pieces, _ = read(BYTES, [continuation] * 100)
    assert any(pieces[:-1])
    assert set("".join(pieces)) == {REPLACEMENT}


def test_special_tokens_are_no_text() -> None:
    assert "".join(read(PIECES, [*ids_of(PIECES, "a cat"), PIECES.eos_token_id])[0]) == "a cat"


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two three", ("two",), "one "),
        ("one two three", ("three", "two"), "one "),
        ("aab", ("ab",), "a"),
        ("abab abac", ("abac",), "abab "),
        ("end", ("end",), ""),
        ("日本語。次", ("。",), "日本語"),
        ("no stop", ("stopped",), "no stop"),
        ("abc", ("abcd", "b"), "a"),
        ("plain", ("",), "plain"),
    ],
)
def test_an_answer_ends_before_the_first_stop_text(text: str, stops: tuple[str, ...], expected: str) -> None:
    pieces, stopped = read(BYTES, ids_of(BYTES, text), *stops)
    assert "".join(pieces) == expected
    assert stopped == any(stop and stop in text for stop in stops)


@given(
    text=st.text("ab", max_size=24),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_text_is_let_out_exactly_when_no_stop_text_can_begin_in_it(text: str, stops: list[str]) -> None:
    stream, shown = TextStream(BYTES, stops), ""
    for at, token in enumerate(ids_of(BYTES, text), 1):
        shown += stream.push(token)
        said = text[:at]
        met = [said.find(stop) for stop in stops if stop in said]
        if met:
            assert stream.stopped
            assert shown == said[: min(met)]
            return
        open_ = max(n for n in range(4) if n == 0 or any(len(s) > n and said.endswith(s[:n]) for s in stops))
        assert shown == said[: len(said) - open_]
    assert not stream.stopped
    assert shown + stream.finish() == text
