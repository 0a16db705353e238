"""Tokens to text while they arrive: no half character and no half stop text is ever let out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "\ufffd"
# Tokens that may wait for the rest of a character, which has four bytes at most. More is no character but noise, and
# decoding an ever longer tail at each step would take quadratic time.
_MOST_OPEN = 32


class TextStream:
    """The text of one answer.

    Args:
        tokenizer: of transformers.
        stop: texts before which the answer ends.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(text for text in stop if text)
        self._ids: list[int] = []
        # ids[:_read] have become text; decoding starts at _context, because a token's text can depend on its
        # predecessor (the space before a SentencePiece word, the bytes before the last byte of a character).
        self._context = self._read = 0
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Takes a token; returns the text that has become certain. After a stop text, `stopped` is set."""
        self._ids.append(token)
        self._held += self._decoded(final=False)
        for at, _ in sorted((self._held.find(stop), stop) for stop in self._stop if stop in self._held):
            self.stopped = True
            text, self._held = self._held[:at], ""
            return text
        return self._let_out(len(self._held) - self._open_stop())

    def finish(self) -> str:
        """What was still held back, less a character that is not whole; after a stop text, nothing."""
        if self.stopped:
            return ""
        self._held += self._decoded(final=True).rstrip(_REPLACEMENT)  # the beginning of a character
        return self._let_out(len(self._held))

    def _let_out(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text

    def _decoded(self, *, final: bool) -> str:
        """Text that the last tokens added, once it is whole."""
        known = self._decode(self._ids[self._context : self._read])
        text = self._decode(self._ids[self._context :])
        whole = not text.endswith(_REPLACEMENT) or len(self._ids) - self._read >= _MOST_OPEN
        if len(text) <= len(known) or not (whole or final):
            return ""
        self._context, self._read = self._read, len(self._ids)
        return text[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _open_stop(self) -> int:
        """Length of the longest end of the held text that a stop text may begin with."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0
