"""Conversations over the data plane: media admitted, the model or provider called.

Protocol skins hand over `Turn`s; caption and visual question answering are conversations of one turn.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal

from deployments.generation.messages import (
    ChatEvent,
    ChatRequest,
    ChatResult,
    Detail,
    ImagePart,
    Message,
    Part,
    Role,
    Sampling,
    Text,
    VideoPart,
)
from deployments.messages import EncodedImage
from serve.calls import Called, Calls
from serve.config.cluster import ClusterFile
from serve.config.models import GenerativeModel
from serve.context import RequestContext
from serve.dataplane import CHAT, DataPlane
from serve.errors import InvalidRequest
from serve.media.admit import MediaDoor, MediaSource, Reference
from serve.media.source import MediaBytes

# What a model that was trained on conversations is asked for a caption; BLIP-2 captions an image that comes alone.
_CAPTION = "Describe the image."
# Kinds of models that a caption, or the answer to a question, is asked of when the client names none, best first.
_CAPTIONERS = ("blip2", "llava", "video_llava")
_ANSWERERS = ("llava", "blip2", "video_llava")
# Most images in a conversation with a provider; theirs is higher, the request's size is the tighter bound.
_PROVIDER_IMAGES = 16


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Of one conversation with a model; `replicated`: it may have several replicas, each with caches of its own."""

    images: int
    videos: int
    replicated: bool


@dataclass(frozen=True, slots=True)
class Medium:
    """An image or a video in a turn, not yet admitted.

    Attributes:
        param: the request field that it came from.
    """

    kind: Literal["image", "video"]
    source: MediaSource
    param: str
    detail: Detail = "auto"


@dataclass(frozen=True, slots=True)
class Turn:
    """A message as a client sent it."""

    role: Role
    parts: tuple[str | Medium, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A conversation ready for its model.

    Attributes:
        affinity: digest of its first medium: repeats of one image go to the replica that has it cached.
    """

    model: str
    request: ChatRequest
    affinity: str | None


class ChatService:
    """See the module's text.

    Args:
        door: admits media.
    """

    def __init__(self, cluster: ClusterFile, plane: DataPlane, calls: Calls, door: MediaDoor) -> None:
        self._plane = plane
        self._calls = calls
        self._door = door
        self._most_chars = cluster.limits.max_prompt_chars
        self._without_logprobs = {name for name, hosted in cluster.providers.items() if not hosted.gives_logprobs}
        self._kinds = {name: model.kind for name, model in cluster.models.items() if isinstance(model, GenerativeModel)}
        self._bounds = {
            name: _Bounds(model.most_images, model.max_videos, model.autoscaling.max_replicas > 1)
            for name, model in cluster.models.items()
            if isinstance(model, GenerativeModel)
        } | {
            name: _Bounds(_PROVIDER_IMAGES, int(provider.kind == "gemini"), replicated=False)
            for name, provider in cluster.providers.items()
        }

    async def prepare(
        self, turns: Sequence[Turn], sampling: Sampling, context: RequestContext, model: str | None
    ) -> Prepared:
        """Picks the model, counts and admits the media.

        Raises:
            ArgusError: whatever is wrong with the request; `param` names the field.
        """
        card = self._plane.pick(model, CHAT)
        bounds = self._bounds[card.name]
        messages = await self.admit(turns, context, asked=card.name, images=bounds.images, videos=bounds.videos)
        affinity = _first_digest(messages) if bounds.replicated else None
        return Prepared(card.name, ChatRequest(messages, sampling), affinity)

    def most_media(self, name: str) -> tuple[int, int]:
        """Most images and videos that a model or provider takes in one conversation."""
        bounds = self._bounds[name]
        return bounds.images, bounds.videos

    def gives_logprobs(self, name: str) -> bool:
        """Whether a model or provider may be asked for log probabilities; who gives none refuses the request."""
        return name not in self._without_logprobs

    async def admit(
        self, turns: Sequence[Turn], context: RequestContext, *, asked: str, images: int, videos: int
    ) -> tuple[Message, ...]:
        """Counts what is in a conversation, then admits its media.

        Args:
            asked: who answers it, for messages.
            images, videos: most of each.

        Raises:
            ArgusError: whatever is wrong with the request; `param` names the field.
        """
        self._check(turns, asked, images, videos)
        return await self._admit(turns, context)

    async def complete(self, prepared: Prepared, context: RequestContext) -> ChatResult:
        """The whole answer.

        Raises:
            ArgusError: the last attempt's.
        """
        return (await self.call(prepared, context)).value

    async def call(self, prepared: Prepared, context: RequestContext) -> Called[ChatResult]:
        """The whole answer with its cost; see `complete`."""
        return await self._calls.chat(prepared.model, prepared.request, context, affinity=prepared.affinity)

    def stream(self, prepared: Prepared, context: RequestContext) -> AsyncGenerator[ChatEvent, None]:
        """The answer as it grows.

        An attempt that fails before its first event is repeated like one of `complete`: nothing of it has been seen. A
        later failure is the client's to know.

        Raises:
            ArgusError: the last attempt's.
        """
        return self._calls.chat_stream(prepared.model, prepared.request, context, affinity=prepared.affinity)

    async def ask(
        self,
        image: MediaSource,
        question: str | None,
        sampling: Sampling,
        context: RequestContext,
        *,
        model: str | None,
        param: str,
    ) -> tuple[str, ChatResult]:
        """One question about one image, or a caption when there is none. Gives the model's name and its answer."""
        card = self._plane.pick(model or self._usual(_CAPTIONERS if question is None else _ANSWERERS), CHAT)
        if question is None and card.kind != "blip2":
            question = _CAPTION
        medium = Medium("image", image, param)
        turn = Turn("user", (medium,) if question is None else (medium, question))
        prepared = await self.prepare([turn], sampling, context, card.name)
        return card.name, await self.complete(prepared, context)

    def _usual(self, kinds: Sequence[str]) -> str | None:
        """The first model of the first of `kinds` that there is."""
        return next((name for kind in kinds for name, found in self._kinds.items() if found == kind), None)

    def _check(self, turns: Sequence[Turn], asked: str, images: int, videos: int) -> None:
        """Counts, before anything is fetched or decoded."""
        if not turns:
            raise InvalidRequest("At least one message is needed.", code="no_messages", param="messages")
        if turns[-1].role != "user":
            raise InvalidRequest(
                "The last message must be the user's.",
                code="last_message_not_user",
                param=f"messages[{len(turns) - 1}]",
            )
        characters = sum(len(part) for turn in turns for part in turn.parts if isinstance(part, str))
        if characters > self._most_chars:
            raise InvalidRequest(
                f"The messages have {characters:,} characters; at most {self._most_chars:,} are accepted.",
                code="text_too_long",
                param="messages",
            )
        for kind, most in (("image", images), ("video", videos)):
            media = [part for turn in turns for part in turn.parts if isinstance(part, Medium) and part.kind == kind]
            if len(media) > most:
                raise InvalidRequest(
                    f"There are {len(media)} {kind}s; {asked} accepts at most {most}.",
                    code=f"too_many_{kind}s",
                    param=media[most].param,
                )

    async def _admit(self, turns: Sequence[Turn], context: RequestContext) -> tuple[Message, ...]:
        media = [part for turn in turns for part in turn.parts if isinstance(part, Medium)]
        admitted = iter(await asyncio.gather(*(self._part(medium, context) for medium in media)))
        return tuple(
            Message(turn.role, tuple(Text(p) if isinstance(p, str) else next(admitted) for p in turn.parts))
            for turn in turns
        )

    async def _part(self, medium: Medium, context: RequestContext) -> Part:
        if medium.kind == "image":
            return ImagePart(await self._door.admit(medium.source, context, medium.param), medium.detail)
        if not isinstance(medium.source, MediaBytes | Reference):
            raise InvalidRequest("A video must be a file.", code="unsupported_content", param=medium.param)
        return VideoPart(await self._door.admit_video(medium.source, context, medium.param))


def _first_digest(messages: Sequence[Message]) -> str | None:
    for message in messages:
        for part in message.parts:
            if isinstance(part, VideoPart):
                return hashlib.blake2b(part.data, digest_size=16).hexdigest()
            if isinstance(part, ImagePart) and isinstance(part.image, EncodedImage):
                return hashlib.blake2b(part.image.data, digest_size=16).hexdigest()
    return None
