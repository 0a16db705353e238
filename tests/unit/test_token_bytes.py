"""Log-probabilities name each token's own bytes, also where a character has several tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from deployments.generation.messages import Answer, Gathering, Sampling
from deployments.generation.rows import Row, RowChooser
from deployments.generation.sampling import RowSampler
from deployments.generation.text_stream import TextStream
from deployments.generation.token_bytes import TokenBytes
from tests.support.tiny_tokenizers import byte_level, ids_of, sentence_pieces

BYTES, PIECES = byte_level(), sentence_pieces()
TOKENS = {id(tokenizer): TokenBytes(tokenizer) for tokenizer in (BYTES, PIECES)}


def answered(tokenizer: Any, ids: Sequence[int]) -> Answer:
    """What the transformers engine makes of a model that chooses these tokens."""
    sampler = RowSampler(Sampling(temperature=0, logprobs=2), None, None, torch.device("cpu"))
    row = Row(0, {}, 1, len(ids), sampler, TextStream(tokenizer), frozenset(), lambda: None)
    chooser = RowChooser([row], TOKENS[id(tokenizer)], 0, lambda: None)
    for chosen in ids:
        scores = torch.zeros(1, len(tokenizer))
        scores[0, chosen] = 1
        chooser(None, scores)  # type: ignore[arg-type]
    gathering = Gathering()
    event = row.take()
    assert event is not None
    gathering.add(event)
    return gathering.result().answers[0]


def joined(answer: Answer) -> bytes:
    return b"".join(token.data or b"" for token in answer.logprobs)


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES])
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁ \ufffd"), min_size=1, max_size=12))
def test_the_bytes_of_an_answer_are_its_text(tokenizer: Any, text: str) -> None:
    answer = answered(tokenizer, ids_of(tokenizer, text))
    assert joined(answer).decode() == answer.text == text


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES])
def test_each_token_of_a_character_has_its_own_bytes(tokenizer: Any) -> None:
    answer = answered(tokenizer, ids_of(tokenizer, "ä🎉"))
    assert [token.data for token in answer.logprobs if token.data] == [bytes([byte]) for byte in "ä🎉".encode()]
    assert answer.logprobs[-1].token == r"\x89", "as OpenAI writes it"
    assert answer.logprobs[-1].top[0].data == b"\x89"


def test_the_space_before_a_first_word_is_no_part_of_the_text() -> None:
    ids = [PIECES.convert_tokens_to_ids(piece) for piece in ("▁a", "▁cat")]
    answer = answered(PIECES, ids)
    assert [(token.token, token.data) for token in answer.logprobs] == [("a", b"a"), (" cat", b" cat")]
    assert joined(answer).decode() == answer.text == "a cat"


def test_special_tokens_have_no_bytes() -> None:
    answer = answered(PIECES, [*ids_of(PIECES, "a"), PIECES.eos_token_id])
    assert (answer.logprobs[-1].token, answer.logprobs[-1].data) == ("</s>", None)
    assert joined(answer).decode() == answer.text == "a"


def test_added_words_are_text_as_they_stand() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("über", special=False, normalized=False)])
    (word,) = ids_of(tokenizer, "über")
    assert TokenBytes(tokenizer).logprob(word, 0.0).data == "über".encode()


def test_an_id_beyond_the_tokenizer_is_nothing() -> None:
    """Models' vocabularies are padded."""
    assert TOKENS[id(BYTES)].logprob(5000, -1.0).data == b""
