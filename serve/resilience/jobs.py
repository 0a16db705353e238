"""What the guard is given: one call of a model or provider, and what one attempt at it brings."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from deployments.generation.messages import ChatEvent
from serve.calls import Usage

T = TypeVar("T")

NOTHING = Usage()


class Codec(Protocol[T]):
    """Answers as bytes and back. Never pickle: what a shared cache holds is not ours to execute."""

    def encode(self, value: T) -> bytes | None:
        """The value as bytes, or None when it must not be kept: a part of it failed, or a deadline cut it short."""
        ...

    def decode(self, data: bytes) -> T:
        """The value again.

        Raises:
            ValueError: these bytes are none of this codec's.
        """
        ...


@dataclass(frozen=True, slots=True)
class Attempted(Generic[T]):
    """What one attempt gives."""

    value: T
    usage: Usage


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """One call.

    Attributes:
        target: name of the model or provider.
        attempt: makes one attempt, which may last the given seconds.
        estimate: upper bound of what an attempt uses, for budgets and token limits; nothing for models of ours.
        cache_key: None when the answer may not be kept.
        codec: needed with a `cache_key`.
        idempotent: a second attempt may run beside the first.
    """

    target: str
    attempt: Callable[[float], Awaitable[Attempted[T]]]
    estimate: Usage = NOTHING
    cache_key: bytes | None = None
    codec: Codec[T] | None = None
    idempotent: bool = True


@dataclass(frozen=True, slots=True)
class StreamJob:
    """One call whose answer is read as it grows.

    Attributes:
        events: begins an attempt, which may last the given seconds; a `Usage` among the events is what it used.
    """

    target: str
    events: Callable[[float], AsyncGenerator[ChatEvent | Usage, None]]
    estimate: Usage = NOTHING
