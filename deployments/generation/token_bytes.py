"""What each token stands for, in bytes: those of all tokens of an answer, put together, are its text in UTF-8.

A token may be a part of a character. Decoded alone it is no text, or a replacement character, so its bytes are read off
the way in which the tokenizer spells it: byte-level BPE (GPT-2's and OPT's) writes each byte as a character of its own,
SentencePiece (Llama's) has tokens such as `<0xE2>` for the bytes of what is no word.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import xgrammar

from deployments.generation.messages import TokenLogprob

# How SentencePiece spells a space.
_SPACE = "\u2581".encode()


class TokenBytes:
    """The tokens of one tokenizer; may be used from several threads.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer)
        self._bytes: list[bytes] = info.decoded_vocab
        if info.vocab_type is xgrammar.VocabType.RAW:  # T5's: SentencePiece without tokens for bytes
            self._bytes = [data.replace(_SPACE, b" ") for data in self._bytes]
        self._special: dict[int, str] = {}
        for token, added in tokenizer.added_tokens_decoder.items():
            if added.special:
                self._special[token] = added.content
            else:  # is text as it stands, however the tokenizer spells the others
                self._bytes[token] = added.content.encode()
        word = next((i for i, data in enumerate(self._bytes) if data[:1] == b" " and data[1:].isalpha()), None)
        self._drops_first_space = word is not None and not tokenizer.decode([word]).startswith(" ")

    def logprob(
        self, token: int, logprob: float, top: Iterable[tuple[int, float]] = (), *, first: bool = False
    ) -> TokenLogprob:
        """A chosen token and its alternatives, with their texts and bytes.

        Args:
            first: nothing stands before it, so that a tokenizer which writes no space there leaves it out.
        """
        text, data = self._read(token, first)
        return TokenLogprob(text, logprob, tuple(self.logprob(*other, first=first) for other in top), data)

    def _read(self, token: int, first: bool) -> tuple[str, bytes | None]:
        """Text and bytes. Bytes that are no whole characters are written out in the text, as OpenAI writes them; a
        special token is no part of an answer's text and has no bytes."""
        if (name := self._special.get(token)) is not None:
            return name, None
        # A model's vocabulary may be wider than its tokenizer's.
        data = self._bytes[token] if token < len(self._bytes) else b""
        if first and self._drops_first_space:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", "backslashreplace"), data
