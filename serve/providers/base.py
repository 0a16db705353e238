"""The interface of a provider: the same conversation that a model of ours takes, with its price."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from deployments.generation.messages import ChatEvent, ChatRequest, ChatResult
from deployments.messages import ClassifyRequest, ClassifyResult
from serve.calls import Usage


@dataclass(frozen=True, slots=True)
class ProviderAnswer:
    """A provider's answer, with what it charged."""

    result: ChatResult
    usage: Usage


class Provider(Protocol):
    """One hosted model. SDK retries are off: only the router retries.

    Every method raises an `ArgusError`: `RateLimited` (with the provider's Retry-After), `Unavailable` (5xx,
    connection lost, malformed bytes on the wire), `DeadlineExceeded`, `ContentRefused`, `ContextTooLong`,
    `InvalidOutput`, `InvalidRequest`, or `Forbidden` for a key that it does not take.
    """

    name: str

    def estimate(self, request: ChatRequest) -> Usage:
        """Before the call: prompt tokens by the provider's rules, the most tokens of its answer, their price."""
        ...

    async def chat(self, request: ChatRequest, timeout_s: float) -> ProviderAnswer:
        """The next turn of a conversation, at most `timeout_s` seconds later."""
        ...

    def chat_stream(self, request: ChatRequest, timeout_s: float) -> AsyncGenerator[ChatEvent | Usage, None]:
        """The same as it grows; the last item is what was used."""
        ...

    async def close(self) -> None:
        """Lets connections go."""
        ...


@runtime_checkable
class Classifier(Protocol):
    """A provider that may also classify images (`serve.providers.oip`, where its task is to)."""

    async def classify(self, request: ClassifyRequest, timeout_s: float) -> ClassifyResult:
        """Probabilities of the request's labels for each image; raises as `Provider` does."""
        ...
