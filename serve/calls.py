"""What the router asks of models and providers, whoever hosts them: one interface for cascades and conversations.

A provider is a model that someone else hosts, so both take the same requests (`deployments.generation.messages`,
`deployments.messages`). Everything between the caller and the wire (cache, budget, limits, breaker, hedge, retry) is
behind this interface.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from deployments.generation.messages import ChatEvent, ChatRequest, ChatResult
from deployments.messages import ClassifyRequest, ClassifyResult, EmbedRequest, EmbedResult, TaskRequest
from serve.context import RequestContext

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and money of calls; they add up.

    Attributes:
        usd: US dollars; 0 for models of ours, whose cost is their nodes'.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.usd + other.usd,
        )

    @property
    def tokens(self) -> int:
        """Of prompts and answers together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Called(Generic[T]):
    """An answer with how it was come by.

    Attributes:
        seconds: from the call to its answer, waiting included.
        cached: it came from the cache, or from the same call of someone else at the same time.
        attempts: calls sent, hedges included; 0 when cached.
        hedged: a second call was sent while the first was in progress.
    """

    value: T
    usage: Usage
    seconds: float
    cached: bool = False
    attempts: int = 1
    hedged: bool = False


class Questions(Protocol):
    """The calls that a cascade's steps make of models and providers, by name.

    Every method raises an `ArgusError` of the last attempt; `serve.resilience.failures.failure_class` says which kind
    of failure it is. With `fallback` the caller has another way to go: then nothing waits before trying again.
    """

    async def chat(
        self,
        name: str,
        request: ChatRequest,
        context: RequestContext,
        *,
        affinity: str | None = None,
        fallback: bool = False,
    ) -> Called[ChatResult]:
        """The next turn of a conversation."""
        ...

    async def classify(
        self, name: str, request: ClassifyRequest, context: RequestContext, *, fallback: bool = False
    ) -> Called[ClassifyResult]:
        """Zero-shot classification."""
        ...


class Calls(Questions, Protocol):
    """All calls to the cluster's models and providers."""

    def chat_stream(
        self,
        name: str,
        request: ChatRequest,
        context: RequestContext,
        *,
        affinity: str | None = None,
        fallback: bool = False,
    ) -> AsyncGenerator[ChatEvent, None]:
        """The same as it grows; what fails before the first event is tried again like a call."""
        ...

    async def embed(
        self, name: str, request: EmbedRequest, context: RequestContext, *, fallback: bool = False
    ) -> Called[EmbedResult]:
        """Embeddings."""
        ...

    async def task(
        self,
        name: str,
        request: TaskRequest[T],
        context: RequestContext,
        *,
        affinity: str | None = None,
        fallback: bool = False,
    ) -> Called[T]:
        """What a model of ours does beside chat, classification and embeddings; the request says what and what of."""
        ...
