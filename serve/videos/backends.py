"""Who is asked, and who instead when that fails."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from deployments.generation.messages import ChatRequest, ChatResult, Message, Part, Sampling
from serve.calls import Called, Calls, Usage
from serve.context import RequestContext
from serve.errors import ArgusError, Cancelled, InvalidMedia, InvalidOutput
from serve.escalation import confidence
from serve.resilience.failures import failure_class


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote.

    Attributes:
        confidence: see `serve.escalation.confidence`.
        failures: of those asked before it: model and kind of failure.
    """

    model: str
    text: str
    confidence: float | None
    usage: Usage
    seconds: float
    failures: tuple[tuple[str, str], ...] = ()


class Backends:
    """Asks models and providers in an order.

    Args:
        ours: names of the models that we host; they give probabilities at no cost.
    """

    def __init__(self, calls: Calls, ours: Collection[str]) -> None:
        self._calls = calls
        self._ours = frozenset(ours)

    async def ask(
        self,
        names: Sequence[str],
        parts: Callable[[str], Sequence[Part]],
        max_tokens: int,
        context: RequestContext,
        affinity: str | None = None,
    ) -> Written:
        """The first answer that there is.

        The next one is asked after any failure but those that would be the same with everyone: the picture itself is
        wrong, the caller has left, or no time is left.

        Args:
            names: at least one.
            parts: what a model of that name is asked with.
            affinity: see `serve.chat.Prepared`.

        Raises:
            ArgusError: the last one's.
        """
        started = time.monotonic()
        failures: list[tuple[str, str]] = []
        for place, name in enumerate(names):
            sampling = Sampling(max_tokens=max_tokens, temperature=0.0, logprobs=0 if name in self._ours else None)
            is_last = place == len(names) - 1
            try:
                asked = ChatRequest((Message("user", tuple(parts(name))),), sampling)
                called = await self._calls.chat(name, asked, context, affinity=affinity, fallback=not is_last)
                return self._read(name, called, time.monotonic() - started, failures)
            except ArgusError as error:
                if is_last or isinstance(error, Cancelled | InvalidMedia) or not context.left_s():
                    raise
                failures.append((name, failure_class(error)))
        raise AssertionError("at least one is named")

    @staticmethod
    def _read(name: str, called: Called[ChatResult], seconds: float, failures: Sequence[tuple[str, str]]) -> Written:
        result = called.value
        answer = result.answers[0]
        text = answer.text.strip()
        if not text:
            raise InvalidOutput(f"Model {name!r} answered with nothing.")
        # What models of ours use is in their answers; a provider's is in its usage.
        tokens = Usage(result.prompt_tokens, result.completion_tokens, called.usage.usd)
        return Written(name, text, confidence(answer.logprobs), tokens, seconds, tuple(failures))


def digest(medium: bytes) -> str:
    """What repeats of a medium have in common."""
    return hashlib.blake2b(medium, digest_size=16).hexdigest()
