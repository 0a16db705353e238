"""Between what a session stores and what the chat service takes: pure functions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from deployments.generation.messages import Message, Text, VideoPart
from deployments.messages import EncodedImage
from deployments.session_types import Exchange, MediumRef
from serve.chat import Medium, Turn
from serve.errors import ArgusError, InvalidRequest
from serve.history import Size
from serve.media.source import MediaBytes


def size(exchange: Exchange) -> Size:
    """Of a stored exchange."""
    media = [part for part in exchange.user if isinstance(part, MediumRef)]
    kinds = [medium.kind for medium in media]
    characters = sum(len(part) for part in exchange.user if isinstance(part, str)) + len(exchange.answer)
    return Size(
        turns=1,
        images=kinds.count("image"),
        videos=kinds.count("video"),
        tokens=exchange.tokens,
        characters=characters,
        media_bytes=sum(medium.size for medium in media),
    )


def size_of_new(turns: Sequence[Turn]) -> Size:
    """Of a message that has not been asked yet, with whatever goes along."""
    parts = [part for turn in turns for part in turn.parts]
    kinds = [part.kind for part in parts if isinstance(part, Medium)]
    characters = sum(len(part) for part in parts if isinstance(part, str))
    return Size(1, kinds.count("image"), kinds.count("video"), tokens=0, characters=characters)


def check_images(turn: Turn, most: int) -> None:
    """Sees that a message fits into a session at all.

    Raises:
        InvalidRequest: `too_many_images`; `param` names the first one too many.
    """
    images = [part for part in turn.parts if isinstance(part, Medium) and part.kind == "image"]
    if len(images) > most:
        raise InvalidRequest(
            f"There are {len(images)} images; this session keeps at most {most}.",
            code="too_many_images",
            param=images[most].param,
        )


def turns_of(exchange: Exchange, media: Mapping[str, bytes]) -> tuple[Turn, Turn]:
    """A stored exchange as the chat service takes it.

    Args:
        media: bytes by SHA-256.
    """
    user = tuple(
        part if isinstance(part, str) else Medium(part.kind, MediaBytes(media[part.sha256], None), "id", part.detail)
        for part in exchange.user
    )
    return Turn("user", user), Turn("assistant", (exchange.answer,))


def parts_to_store(message: Message, remembered: str | None) -> tuple[tuple[str | MediumRef, ...], dict[str, bytes]]:
    """What the history will hold of a message, and the bytes of its media by SHA-256.

    Args:
        message: as the model got it, its media admitted.
        remembered: stands in its place; None for the message itself.
    """
    if remembered is not None:
        return (remembered,), {}
    parts: list[str | MediumRef] = []
    media: dict[str, bytes] = {}
    for part in message.parts:
        if isinstance(part, Text):
            parts.append(part.text)
            continue
        if isinstance(part, VideoPart):
            data, ref = part.data, MediumRef("video", _digest(part.data), len(part.data))
        else:
            assert isinstance(part.image, EncodedImage), "a chat message holds image files only"
            data = part.image.data
            ref = MediumRef("image", _digest(data), len(data), part.detail)
        media[ref.sha256] = data
        parts.append(ref)
    return tuple(parts), media


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def named(error: ArgusError, last: int) -> ArgusError:
    """The error, blamed on a field of the new message in place of one of the whole conversation.

    Args:
        last: number of the new message in the conversation. What is wrong with another one is the session's fault.
    """
    place = re.match(r"messages(?:\[(\d+)\]\.?)?", error.param or "")
    if place is None or error.param is None:
        return error
    if place[1] is None or int(place[1]) == last:
        return error.at(error.param[place.end() :] or "content")
    return error.at("id")
