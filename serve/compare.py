"""One request asked of several models and providers at once, their answers side by side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from deployments.generation.messages import ChatRequest, ChatResult, ImagePart, Message, Sampling, VideoPart
from serve.calls import Called, Calls
from serve.chat import Turn
from serve.config.cluster import ClusterFile
from serve.config.models import GenerativeModel
from serve.context import RequestContext
from serve.dataplane import CHAT, DataPlane
from serve.errors import ArgusError, InvalidRequest, ModelFailed

MOST_MODELS = 8
MOST_IMAGES = 16
# A model that uses up the whole deadline is an error among answers; this is left to send them.
_MARGIN_S = 0.25
_MARGIN_SHARE = 0.05


class Door(Protocol):
    """Admits the media of a conversation (`serve.chat.ChatService`)."""

    async def admit(
        self, turns: Sequence[Turn], context: RequestContext, *, asked: str, images: int, videos: int
    ) -> tuple[Message, ...]:
        """The conversation with its media checked."""
        ...


@dataclass(frozen=True, slots=True)
class Compared:
    """What became of the request at one model.

    Attributes:
        outcome: the answer and how it was come by, or the error.
        seconds: until then.
    """

    model: str
    outcome: Called[ChatResult] | ArgusError
    seconds: float


class CompareService:
    """See the module's text.

    Args:
        plane: knows the models and providers.
        door: checks what is sent, once for all of them.
    """

    def __init__(self, cluster: ClusterFile, plane: DataPlane, door: Door, calls: Calls) -> None:
        self._plane = plane
        self._door = door
        self._calls = calls
        self._most: Mapping[str, tuple[int, int]] = {
            name: (model.most_images, model.max_videos)
            for name, model in cluster.models.items()
            if isinstance(model, GenerativeModel)
        }

    async def compare(
        self, names: Sequence[str], turns: Sequence[Turn], sampling: Sampling, context: RequestContext
    ) -> tuple[Compared, ...]:
        """Asks all of them at the same time, in the order of `names`. What one of them fails at is its own result.

        Raises:
            InvalidRequest: no names, too many of them, one twice, or one that does not chat.
            NotFound: a name that the cluster does not have.
            ArgusError: what is wrong with the conversation itself.
        """
        self._check(names)
        messages = await self._door.admit(turns, context, asked="a comparison", images=MOST_IMAGES, videos=1)
        request = ChatRequest(messages, sampling)
        left = context.left_s()
        sooner = replace(context, deadline=context.deadline - min(_MARGIN_S, _MARGIN_SHARE * left))
        return tuple(await asyncio.gather(*(self._ask(name, request, sooner) for name in names)))

    def _check(self, names: Sequence[str]) -> None:
        if not names:
            raise InvalidRequest("Name at least one model.", code="missing_field", param="models")
        if len(names) > MOST_MODELS:
            message = f"There are {len(names)} models; at most {MOST_MODELS} are compared."
            raise InvalidRequest(message, code="too_many_models", param="models")
        for i, name in enumerate(names):
            if name in names[:i]:
                message = f"Model {name[:80]!r} stands twice; models must be distinct."
                raise InvalidRequest(message, code="duplicate_model", param=f"models[{i}]")
            try:
                self._plane.pick(name, CHAT)
            except ArgusError as error:
                raise error.at(f"models[{i}]") from None

    async def _ask(self, name: str, request: ChatRequest, context: RequestContext) -> Compared:
        started = time.monotonic()
        outcome: Called[ChatResult] | ArgusError
        try:
            self._check_media(name, request)
            outcome = await self._calls.chat(name, request, context)
        except ArgusError as error:
            outcome = error
        except Exception as error:
            outcome = ModelFailed(f"{name} failed: {type(error).__name__}.")
        return Compared(name, outcome, time.monotonic() - started)

    def _check_media(self, name: str, request: ChatRequest) -> None:
        """Models of ours take no more than their prompts were built for; providers say so themselves."""
        if name not in self._most:
            return
        parts = [part for message in request.messages for part in message.parts]
        for word, kind, most in zip(("image", "video"), (ImagePart, VideoPart), self._most[name], strict=True):
            count = sum(isinstance(part, kind) for part in parts)
            if count > most:
                message = f"There are {count} {word}s; {name} accepts at most {most}."
                raise InvalidRequest(message, code=f"too_many_{word}s", param=f"{word}s")
