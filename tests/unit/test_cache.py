"""Kept answers: their bytes, their bounds, and what is not kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.generation.messages import Answer, ChatResult, TokenLogprob
from deployments.messages import ClassifyResult, EmbedResult, Scores
from serve.config.resilience import Cache
from serve.errors import ContentRefused, ContextTooLong, InvalidMedia, ModelFailed, Unavailable
from serve.resilience.cache import ResponseCache
from serve.resilience.codec import CHAT, CLASSIFY, EMBED
from tests.unit.resilience_fakes import Clock, Remembers, TextCodec

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
TOKEN = (st.text(max_size=3), st.floats(-9, 0))
BYTES = st.none() | st.binary(max_size=3)
ALTERNATIVES = st.lists(st.builds(TokenLogprob, *TOKEN, data=BYTES), max_size=2).map(tuple)
LOGPROBS = st.builds(TokenLogprob, *TOKEN, ALTERNATIVES, BYTES)
ANSWERS = st.builds(
    Answer,
    st.text(max_size=9),
    st.lists(st.integers(0, 2**31), max_size=4).map(tuple),
    st.lists(LOGPROBS, max_size=2).map(tuple),
    st.sampled_from(["stop", "length"]),
)
TEXT = TextCodec()


def cache(max_bytes: int = 1 << 20, **settings: float) -> tuple[ResponseCache, Clock, Remembers]:
    clock, recorder = Clock(), Remembers()
    return ResponseCache(Cache(max_bytes=max_bytes, **settings), None, recorder, clock), clock, recorder


@given(st.builds(ChatResult, st.lists(ANSWERS, max_size=2).map(tuple), st.integers(0, 9), st.integers(0, 9)))
def test_chat_results_survive(result: ChatResult) -> None:
    data = CHAT.encode(result)
    assert data is not None
    assert CHAT.decode(data) == result


@given(st.lists(st.lists(FLOATS, min_size=2, max_size=2), max_size=3), FLOATS)
def test_arrays_survive_bit_for_bit(rows: list[list[float]], temperature: float) -> None:
    arrays = [np.asarray(row, np.float32) for row in rows]
    classified = ClassifyResult(tuple(Scores(array, -array) for array in arrays), temperature)
    data = CLASSIFY.encode(classified)
    assert data is not None
    back = CLASSIFY.decode(data)
    assert back.temperature == temperature
    for array, scores in zip(arrays, back.images, strict=True):
        assert isinstance(scores, Scores)
        np.testing.assert_array_equal(scores.probabilities, array)
        np.testing.assert_array_equal(scores.logits, -array)
    data = EMBED.encode(EmbedResult(tuple(arrays), 7))
    assert data is not None
    embedded = EMBED.decode(data)
    assert embedded.tokens == 7
    np.testing.assert_array_equal(np.asarray(embedded.vectors), np.asarray(arrays))
    assert all(vector.flags.writeable for vector in embedded.vectors)  # type: ignore[union-attr]


def test_what_failed_in_part_or_was_cut_is_not_kept() -> None:
    assert CHAT.encode(ChatResult((Answer("a", (1,), (), "cut"),), 1, 0)) is None
    assert EMBED.encode(EmbedResult((np.ones(2, np.float32), InvalidMedia("x")), 0)) is None
    assert CLASSIFY.encode(ClassifyResult((ModelFailed("x"),), 1.0)) is None


@given(st.binary(max_size=40))
def test_other_bytes_are_no_answer(data: bytes) -> None:
    for codec in (CHAT, CLASSIFY, EMBED):
        with pytest.raises(ValueError, match="Not an answer"):
            codec.decode(data)


def test_a_cut_entry_is_no_answer() -> None:
    data = EMBED.encode(EmbedResult((np.ones(4, np.float32),), 0))
    assert data is not None
    for cut in (data[:-1], data + b"x", data[:3]):
        with pytest.raises(ValueError, match="Not an answer"):
            EMBED.decode(cut)


async def test_an_answer_is_kept_for_its_time() -> None:
    kept, clock, recorder = cache(ttl_s=60)
    assert kept.here(b"k", TEXT, "m") is None
    kept.put(b"k", TEXT, "hello", "m")
    clock.now += 59
    assert kept.here(b"k", TEXT, "m") == ("hello",)
    clock.now += 2
    assert kept.here(b"k", TEXT, "m") is None
    assert await kept.elsewhere(b"k", TEXT, "m") is None
    assert recorder.counts == {("cache", "hit"): 1, ("cache", "miss"): 1}


def test_memory_is_bounded_by_bytes_and_forgets_what_was_not_used() -> None:
    kept, _, _ = cache(max_bytes=10_000)
    for number in range(4):
        kept.put(b"%d" % number, TEXT, "x" * 1_500, "m")
    assert kept.here(b"0", TEXT, "m") is not None  # now the newest in use
    kept.put(b"4", TEXT, "x" * 1_500, "m")
    assert kept.here(b"0", TEXT, "m") is not None
    assert kept.here(b"1", TEXT, "m") is None
    kept.put(b"5", TEXT, "x" * 20_000, "m")
    assert kept.here(b"5", TEXT, "m") is None
    assert 0 < kept.bytes_in_memory <= 10_000


def test_failures_that_would_be_the_same_are_remembered_for_a_short_time() -> None:
    kept, clock, recorder = cache(error_ttl_s=10)
    kept.put_error(b"long", ContextTooLong("9 tokens are too many.", param="messages"), "m")
    kept.put_error(b"bad", ContentRefused("No."), "m")
    kept.put_error(b"gone", Unavailable("Back soon."), "m")
    with pytest.raises(ContextTooLong, match="9 tokens") as caught:
        kept.here(b"long", TEXT, "m")
    assert (caught.value.param, caught.value.code) == ("messages", "prompt_too_long")
    with pytest.raises(ContentRefused):
        kept.here(b"bad", TEXT, "m")
    assert kept.here(b"gone", TEXT, "m") is None
    assert recorder.counts["cache", "negative_hit"] == 2
    clock.now += 11
    assert kept.here(b"long", TEXT, "m") is None


def test_no_failure_is_remembered_without_a_time() -> None:
    kept, _, _ = cache(error_ttl_s=0)
    kept.put_error(b"k", ContentRefused("No."), "m")
    assert kept.here(b"k", TEXT, "m") is None
