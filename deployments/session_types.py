"""What travels to and from the session store: plain dataclasses that pickle fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of a conversation is kept.

    Attributes:
        turns: exchanges, the newest included.
        images: images in them, those of the newest included.
        tokens: tokens of the exchanges before the newest, as the engine counted them.
    """

    turns: int
    images: int
    tokens: int


@dataclass(frozen=True, slots=True)
class MediumRef:
    """An image or a video in a user's message.

    Attributes:
        sha256: of its bytes, in hexadecimal.
        size: in bytes.
        detail: see `deployments.generation.messages.ImagePart`.
    """

    kind: Literal["image", "video"]
    sha256: str
    size: int
    detail: Literal["low", "high", "auto"] = "auto"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A user's message and its answer.

    Attributes:
        turn_id: random; an append that is sent again is known by it.
        user: texts and media, in order.
        model: which answered.
        prompt_tokens: of the whole prompt that it was asked with, as the engine counted.
        completion_tokens: of the answer.
        tokens: what it adds to a conversation; see `serve.history.own_tokens`.
    """

    turn_id: str
    user: tuple[str | MediumRef, ...]
    answer: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    tokens: int


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session to create.

    Attributes:
        owner: name of the client; nobody else sees the session.
        model: answers when a message names none; None for the cluster's first.
        system: instructions that stay in front of every prompt.
        ttl_s: seconds that it lives after its last exchange.
        metadata: the client's own notes.
    """

    owner: str
    model: str | None
    system: str | None
    ttl_s: float
    bounds: Bounds
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Session:
    """A session as it is stored.

    Attributes:
        id: unguessable.
        version: grows by one with each exchange.
        created_at: Unix time in seconds, as is `expires_at`.
        turns: exchanges stored.
        images: images in them.
        tokens: their summed `Exchange.tokens`.
    """

    id: str
    owner: str
    model: str | None
    system: str | None
    ttl_s: float
    bounds: Bounds
    metadata: Mapping[str, str]
    version: int
    created_at: float
    expires_at: float
    turns: int
    images: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """A session with its exchanges, oldest first.

    Attributes:
        media: the bytes of every medium by SHA-256; empty when they were not asked for.
    """

    session: Session
    exchanges: tuple[Exchange, ...]
    media: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class StoreStats:
    """How full a store is.

    Attributes:
        entries: sessions, or chunks.
        bytes: of the database, without the space that deleted rows left for new ones.
    """

    entries: int
    bytes: int
