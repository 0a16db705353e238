"""One answer in the making: a row of a batch, and what transformers' `generate` calls to drive it.

A row is touched by two threads. The model's thread gives it tokens; the event loop takes away what it gained, and may
end it (deadline, cancellation). Whoever ends it first decides how it ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from deployments.generation.messages import ChatEvent, FinishReason, TokenLogprob
from deployments.generation.sampling import Chosen, RowSampler, choose
from deployments.generation.text_stream import TextStream
from deployments.generation.token_bytes import TokenBytes
from serve.errors import ArgusError, ModelFailed


class Row:
    """One answer.

    Args:
        index: which of the request's answers.
        inputs: the processor's tensors for the request, one batch row.
        prompt_tokens: their length, media included.
        max_tokens: most tokens of this answer.
        sampler: chooses its tokens.
        stream: makes its text.
        end_tokens: ids that end it.
        wake: tells the event loop that `take` has something; called from any thread.
    """

    def __init__(
        self,
        index: int,
        inputs: dict[str, torch.Tensor],
        prompt_tokens: int,
        max_tokens: int,
        sampler: RowSampler,
        stream: TextStream,
        end_tokens: frozenset[int],
        wake: Callable[[], None],
    ) -> None:
        self.index, self.inputs, self.prompt_tokens, self.max_tokens = index, inputs, prompt_tokens, max_tokens
        self.sampler, self.wake = sampler, wake
        self.error: ArgusError | None = None
        self._stream, self._end_tokens = stream, end_tokens
        self._tokens: list[int] = []
        self._position = 0
        self._lock = threading.Lock()
        self._over = False
        # Gained since the last `take`.
        self._text, self._new, self._logprobs = "", 0, list[TokenLogprob]()
        self._reason: FinishReason | None = None

    @property
    def over(self) -> bool:
        """Whether no token will be added any more."""
        return self._over

    @property
    def begun(self) -> bool:
        """Whether it has a token."""
        return bool(self._tokens)

    def rewind(self) -> None:
        """A pass is about to start from the prompt. Tokens of a pass that failed are said again, not chosen again."""
        self._position = 0

    def remembered(self) -> int | None:
        """The next token, if an earlier pass has chosen it; moves on by one."""
        if self._position < len(self._tokens):
            self._position += 1
            return self._tokens[self._position - 1]
        return None

    def accept(self, chosen: Chosen) -> None:
        """Adds a token, unless the row is over; ends the row at an end token, a stop text or the token limit."""
        with self._lock:
            if self._over:
                return
            self._tokens.append(chosen.token)
            self._position += 1
            self._new += 1
            if chosen.logprob is not None:
                self._logprobs.append(chosen.logprob)
            if chosen.token in self._end_tokens:
                self._end("stop")
                return
            self._text += self._stream.push(chosen.token)
            if self._stream.stopped:
                self._end("stop")
            elif len(self._tokens) >= self.max_tokens:
                self._end("length")

    def cut(self) -> None:
        """Ends it because its time is over."""
        with self._lock:
            if not self._over:
                self._end("cut")

    def fail(self, error: ArgusError) -> None:
        """Ends it with an error instead of a reason."""
        with self._lock:
            if not self._over:
                self._over, self.error = True, error

    def close(self) -> None:
        """Ends it silently: nobody listens any more."""
        with self._lock:
            self._over = True

    def take(self) -> ChatEvent | None:
        """What it gained since the last call; None when nothing."""
        with self._lock:
            if not self._new and self._reason is None:
                return None
            tokens = tuple(self._tokens[len(self._tokens) - self._new :])
            event = ChatEvent(self.index, self._text, tokens, tuple(self._logprobs), self._reason, self.prompt_tokens)
            self._text, self._new, self._logprobs, self._reason = "", 0, [], None
            return event

    def _end(self, reason: FinishReason) -> None:
        self._text += self._stream.finish()
        self._over, self._reason = True, reason


class RowChooser(LogitsProcessor):
    """Chooses every row's token by its own rules, and leaves `generate` (greedy) no other choice.

    Args:
        tokens: of the model's tokenizer.
        pad_token: for rows that are over while their batch runs on.
        beat: called at each step; a health check looks at when.
    """

    def __init__(self, rows: Sequence[Row], tokens: TokenBytes, pad_token: int, beat: Callable[[], None]) -> None:
        self._rows, self._tokens, self._pad_token, self._beat = rows, tokens, pad_token, beat

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self._beat()
        tokens = [self._pad_token] * len(self._rows)
        asking: list[int] = []
        for number, row in enumerate(self._rows):
            if row.over:
                continue
            if (token := row.remembered()) is not None:
                tokens[number] = token
            else:
                asking.append(number)
        if asking:
            logits = scores if len(asking) == len(self._rows) else scores[asking]
            chosen = choose(logits.float(), [self._rows[number].sampler for number in asking], self._tokens)
            for number, choice in zip(asking, chosen, strict=True):
                row = self._rows[number]
                if isinstance(choice, Exception):
                    row.fail(_failed(choice))
                    continue
                tokens[number] = choice.token
                try:
                    row.accept(choice)
                except Exception as error:  # a tokenizer that cannot read what the model says
                    row.fail(_failed(error))
            for wake in {id(self._rows[number].wake): self._rows[number].wake for number in asking}.values():
                wake()
        forced = torch.full_like(scores, float("-inf"))
        forced[torch.arange(len(tokens)), torch.tensor(tokens)] = 0
        return forced  # type: ignore[return-value]


def _failed(error: Exception) -> ArgusError:
    if isinstance(error, ArgusError):
        return error
    failure = ModelFailed(f"The model failed on this input: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


class RowStopping(StoppingCriteria):
    """Ends the rows that are over; when all are, `generate` returns."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        over = [row.over for row in self._rows]
        return torch.tensor(over, dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]
