"""Answers as bytes, for caches: a JSON head, then arrays as raw little-endian float32. Nothing in it is executed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import orjson

from deployments.generation.messages import Answer, ChatResult, TokenLogprob
from deployments.messages import ClassifyResult, EmbedResult, Float32, Scores
from serve.resilience.jobs import Codec

T = TypeVar("T")

_HEAD_BYTES = 4


class ChatCodec:
    """Of `ChatResult`. An answer that the deadline cut is not kept: the next caller may have more time."""

    def encode(self, value: ChatResult) -> bytes | None:
        """See `Codec`."""
        if any(answer.finish_reason == "cut" for answer in value.answers):
            return None
        answers = [[a.text, a.token_ids, list(map(_told, a.logprobs)), a.finish_reason] for a in value.answers]
        return _joined([answers, value.prompt_tokens, value.cached_tokens, value.written], ())

    def decode(self, data: bytes) -> ChatResult:
        """See `Codec`."""

        def build(head: Any, arrays: list[Float32]) -> ChatResult:
            answers, prompt_tokens, cached_tokens, written = head
            counted = None if written is None else int(written)
            return ChatResult(tuple(map(_answer, answers)), int(prompt_tokens), int(cached_tokens), counted)

        return _parsed(data, build)


class ClassifyCodec:
    """Of `ClassifyResult`; one that holds an image's error is not kept."""

    def encode(self, value: ClassifyResult) -> bytes | None:
        """See `Codec`."""
        arrays: list[Float32] = []
        for scores in value.images:
            if isinstance(scores, Exception):
                return None
            arrays += (scores.probabilities, scores.logits)
        return _joined([value.temperature], arrays)

    def decode(self, data: bytes) -> ClassifyResult:
        """See `Codec`."""

        def build(head: Any, arrays: list[Float32]) -> ClassifyResult:
            images = tuple(Scores(p, l) for p, l in zip(arrays[::2], arrays[1::2], strict=True))  # noqa: E741
            return ClassifyResult(images, float(head[0]))

        return _parsed(data, build)


class EmbedCodec:
    """Of `EmbedResult`; one that holds an input's error is not kept."""

    def encode(self, value: EmbedResult) -> bytes | None:
        """See `Codec`."""
        vectors = [vector for vector in value.vectors if not isinstance(vector, Exception)]
        return _joined([value.tokens], vectors) if len(vectors) == len(value.vectors) else None

    def decode(self, data: bytes) -> EmbedResult:
        """See `Codec`."""
        return _parsed(data, lambda head, arrays: EmbedResult(tuple(arrays), int(head[0])))


CHAT: Codec[ChatResult] = ChatCodec()
CLASSIFY: Codec[ClassifyResult] = ClassifyCodec()
EMBED: Codec[EmbedResult] = EmbedCodec()


def _answer(fields: Any) -> Answer:
    text, token_ids, logprobs, finish_reason = fields
    if finish_reason not in ("stop", "length"):
        raise ValueError(f"no finish reason: {finish_reason!r}")
    return Answer(text, tuple(token_ids), tuple(map(_token, logprobs)), finish_reason)


def _told(token: TokenLogprob) -> list[Any]:
    # JSON has no bytes; each is a character of Latin-1.
    data = None if token.data is None else token.data.decode("latin-1")
    return [token.token, token.logprob, data, list(map(_told, token.top))]


def _token(fields: Any) -> TokenLogprob:
    token, logprob, data, top = fields
    return TokenLogprob(token, logprob, tuple(map(_token, top)), None if data is None else bytes(data, "latin-1"))


def _joined(head: Any, arrays: Iterable[Float32]) -> bytes:
    """4 bytes of the head's length, the head with the arrays' lengths, the arrays (one dimension each)."""
    arrays = [np.ascontiguousarray(array, dtype="<f4") for array in arrays]
    text = orjson.dumps([head, [array.size for array in arrays]])
    return b"".join((len(text).to_bytes(_HEAD_BYTES, "big"), text, *(array.tobytes() for array in arrays)))


def _parsed(data: bytes, build: Callable[[Any, list[Float32]], T]) -> T:
    try:
        end = _HEAD_BYTES + int.from_bytes(data[:_HEAD_BYTES], "big")
        head, sizes = orjson.loads(data[_HEAD_BYTES:end])
        arrays, start = [], end
        for size in sizes:
            # A copy: an array over the cache's bytes could not be written to, as a model's answer can.
            arrays.append(np.frombuffer(data, "<f4", count=size, offset=start).astype(np.float32))
            start += 4 * size
        if start != len(data):
            raise ValueError("bytes are left over")
        return build(head, arrays)
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"Not an answer of this kind: {error}") from error
