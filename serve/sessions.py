"""Conversations that the cluster remembers: the chat service over the session store.

One message of a session is answered at a time. `begin` takes the session's turn and trims its history (serve/history.py
has the rule), `answer` or `stream` asks the model, and what was said is stored once the whole answer is there. Until
then nothing is stored: an answer that fails, that its deadline cuts, or whose reader leaves, leaves no trace.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from deployments.generation.messages import ChatEvent, ChatRequest, ChatResult, Gathering, Sampling
from deployments.session_types import Bounds, Conversation, Exchange, NewSession, Session
from serve.chat import ChatService, Prepared, Turn
from serve.config.cluster import ClusterFile
from serve.config.models import SessionStoreModel
from serve.context import RequestContext
from serve.dataplane import CHAT, DataPlane
from serve.errors import ArgusError, InvalidRequest
from serve.handles import ModelHandle
from serve.history import Size, own_tokens, to_drop
from serve.session_turns import check_images, named, parts_to_store, size, size_of_new, turns_of
from serve.stores import StoreClient

# What is said may be stored in this many seconds, even when the deadline has just passed.
_STORE_S = 5.0
_LISTED = 100
# An answer whose request states no length has room for this many tokens while there is history that can give way.
_USUAL_ROOM = 256


N = TypeVar("N", int, float)


@dataclass(slots=True)
class Asking:
    """A message on its way into a session.

    Attributes:
        turn: the message.
        remembered: what the history will hold in its place; None for the message itself.
        prepared: the prompt, as the model gets it.
        history: the exchanges in the prompt, oldest first.
        session: as it is after the answer, once that was stored; before, as it was found.
        kept: whether the answer was stored.
    """

    conversation: Conversation
    turn_id: str
    turn: Turn
    remembered: str | None
    prepared: Prepared
    history: tuple[Exchange, ...]
    session: Session
    kept: bool = False

    @property
    def dropped(self) -> int:
        """Exchanges that this message cannot see any more."""
        return len(self.conversation.exchanges) - len(self.history)


class SessionService:
    """See the module's text.

    Args:
        handle: the session store; None when the cluster file has none.
        settings: of that store.
    """

    def __init__(
        self,
        cluster: ClusterFile,
        plane: DataPlane,
        chat: ChatService,
        handle: ModelHandle | None,
        settings: SessionStoreModel | None,
    ) -> None:
        self._most_chars = cluster.limits.max_prompt_chars
        self._plane = plane
        self._chat = chat
        self._store = StoreClient(handle, "session_store")
        self._settings = settings or SessionStoreModel(kind="session_store")
        self._releases: set[asyncio.Task[None]] = set()

    async def create(
        self,
        context: RequestContext,
        *,
        model: str | None = None,
        system: str | None = None,
        ttl_s: float | None = None,
        max_turns: int | None = None,
        max_images: int | None = None,
        max_tokens: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Session:
        """A new session of the caller; what is left out is the cluster file's.

        Raises:
            InvalidRequest: a value beyond the cluster file's.
            NotFound: `model_not_found`.
            OutOfCapacity: the store is full.
        """
        if model is not None:
            self._plane.pick(model, CHAT)
        if system is not None and len(system) > self._most_chars:
            raise InvalidRequest(
                f"The system message has {len(system):,} characters; at most {self._most_chars:,} are accepted.",
                code="text_too_long",
                param="system",
            )
        most = self._settings
        new = NewSession(
            context.client,
            model,
            system,
            _at_most(ttl_s, most.max_ttl_s, "ttl_s", most.ttl_s),
            Bounds(
                _at_most(max_turns, most.max_turns, "max_turns"),
                _at_most(max_images, most.max_images, "max_images"),
                _at_most(max_tokens, most.max_tokens, "max_tokens"),
            ),
            dict(metadata or {}),
        )
        created: Session = await self._store.call("create", context, new)
        return created

    async def get(self, session_id: str, context: RequestContext) -> Conversation:
        """A session of the caller and its exchanges, without the bytes of their media.

        Raises:
            NotFound: `session_not_found`, also for another client's.
        """
        found: Conversation = await self._store.call("get", context, session_id, context.client)
        return found

    async def list_sessions(self, context: RequestContext) -> list[Session]:
        """The caller's newest sessions, newest first."""
        found: list[Session] = await self._store.call("list_sessions", context, context.client, _LISTED)
        return found

    async def delete(self, session_id: str, context: RequestContext) -> None:
        """Deletes a session. A message that is being answered will not be stored."""
        await self._store.delete(context, session_id, context.client)

    async def begin(
        self,
        session_id: str,
        turn: Turn,
        sampling: Sampling,
        context: RequestContext,
        *,
        model: str | None = None,
        remembered: str | None = None,
    ) -> Asking:
        """Takes the session's turn and prepares the message. Whoever begins must `end`, or read `stream` to its end.

        Raises:
            Conflict: `session_busy`; another message is being answered.
            ArgusError: whatever is wrong with the message.
        """
        turn_id = secrets.token_hex(16)
        lease_s = context.left_s() + 2 * _STORE_S
        try:
            conversation: Conversation = await self._store.call(
                "begin", context, session_id, context.client, turn_id, lease_s
            )
            prepared, history = await self._prepare(conversation, turn, sampling, model, context)
        except BaseException:
            await self._release(session_id, turn_id)
            raise
        return Asking(conversation, turn_id, turn, remembered, prepared, history, conversation.session)

    async def switch(self, asking: Asking, sampling: Sampling, context: RequestContext, model: str) -> None:
        """Prepares the same message for another model."""
        asking.prepared, asking.history = await self._prepare(
            asking.conversation, asking.turn, sampling, model, context
        )

    async def answer(self, asking: Asking, context: RequestContext) -> ChatResult:
        """The whole answer, not yet stored.

        Raises:
            ArgusError: the model's; `param` names a field of the message.
        """
        while True:
            try:
                return await self._chat.complete(asking.prepared, context)
            except ArgusError as error:
                _shorten_or_raise(asking, error)

    async def keep(self, asking: Asking, result: ChatResult, context: RequestContext) -> None:
        """Stores what was said, unless the deadline cut it: half an answer is no ground for the next.

        Raises:
            Conflict: `session_busy`; the turn was lost to another message, whose answer stays.
            ArgusError: the store's.
        """
        answer = result.answers[0]
        if answer.finish_reason == "cut":
            return
        user, media = parts_to_store(asking.prepared.request.messages[-1], asking.remembered)
        exchange = Exchange(
            asking.turn_id,
            user,
            answer.text,
            asking.prepared.model,
            result.prompt_tokens,
            result.completion_tokens,
            own_tokens(result.prompt_tokens, result.completion_tokens, [before.tokens for before in asking.history]),
        )
        found = asking.conversation.session
        asking.session = await self._store.call(
            "append", _with_time(context), found.id, context.client, found.version, exchange, media, asking.dropped
        )
        asking.kept = True

    async def end(self, asking: Asking) -> None:
        """Gives the session's turn back, if it is still held."""
        if not asking.kept:
            await self._release(asking.conversation.session.id, asking.turn_id)

    async def say(
        self, session_id: str, turn: Turn, sampling: Sampling, context: RequestContext, *, model: str | None = None
    ) -> tuple[Asking, ChatResult]:
        """A message and its whole answer, stored."""
        asking = await self.begin(session_id, turn, sampling, context, model=model)
        try:
            result = await self.answer(asking, context)
            await self.keep(asking, result, context)
        finally:
            await self.end(asking)
        return asking, result

    async def stream(self, asking: Asking, context: RequestContext) -> AsyncGenerator[ChatEvent, None]:
        """The answer as it grows; it is stored when its last event has been read."""
        gathering = Gathering()
        try:
            async with aclosing(self._events(asking, context)) as events:
                async for event in events:
                    gathering.add(event)
                    yield event
            await self.keep(asking, gathering.result(), context)
        finally:
            await self.end(asking)

    async def _events(self, asking: Asking, context: RequestContext) -> AsyncGenerator[ChatEvent, None]:
        """The model's, once the prompt is short enough. It refuses a longer one before the first event."""
        while True:
            begun = False
            try:
                async with aclosing(self._chat.stream(asking.prepared, context)) as events:
                    async for event in events:
                        begun = True
                        yield event
                return
            except ArgusError as error:
                if begun:
                    raise
                _shorten_or_raise(asking, error)

    async def _prepare(
        self,
        conversation: Conversation,
        turn: Turn,
        sampling: Sampling,
        model: str | None,
        context: RequestContext,
    ) -> tuple[Prepared, tuple[Exchange, ...]]:
        """The prompt, and the exchanges in it."""
        session = conversation.session
        card = self._plane.pick(model or session.model, CHAT)
        system = [] if session.system is None else [Turn("system", (session.system,))]
        new = size_of_new([*system, turn])
        check_images(turn, session.bounds.images)
        sizes = [size(exchange) for exchange in conversation.exchanges]
        history = conversation.exchanges[to_drop(sizes, new, self._bound(session, card.name)) :]
        before = [turn for exchange in history for turn in turns_of(exchange, conversation.media)]
        if history:
            sampling = replace(sampling, room=sampling.max_tokens or _USUAL_ROOM)
        try:
            prepared = await self._chat.prepare([*system, *before, turn], sampling, context, card.name)
        except ArgusError as error:
            raise named(error, 2 * len(history) + len(system)) from None
        return prepared, history

    def _bound(self, session: Session, name: str) -> Size:
        """The tighter of the session's bounds and the model's."""
        bounds = session.bounds
        images, videos = self._chat.most_media(name)
        return Size(
            turns=bounds.turns,
            images=min(bounds.images, images),
            videos=videos,
            tokens=bounds.tokens,
            characters=self._most_chars,
            media_bytes=self._settings.max_media_bytes,
        )

    async def _release(self, session_id: str, turn_id: str) -> None:
        """Waits, so that a client may try again at once; whoever is cancelled while waiting leaves it to a task."""
        task = asyncio.create_task(self._released(session_id, turn_id))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)
        await asyncio.shield(task)

    async def _released(self, session_id: str, turn_id: str) -> None:
        context = RequestContext("release", "", time.monotonic() + _STORE_S)
        with suppress(ArgusError):  # The lease has an end of its own.
            await self._store.call("release", context, session_id, turn_id)


def _at_most(value: N | None, most: N, param: str, usual: N | None = None) -> N:
    if value is None:
        return most if usual is None else usual
    if value > most:
        raise InvalidRequest(
            f"{param} is {value:g}; this cluster allows at most {most:g}.", code="invalid_field", param=param
        )
    return value


def _with_time(context: RequestContext) -> RequestContext:
    return replace(context, deadline=max(context.deadline, time.monotonic() + _STORE_S))


def _shorten_or_raise(asking: Asking, error: ArgusError) -> None:
    """Takes the oldest exchange out of a prompt that the model finds too long. Once none is left, no room is asked for:
    the new message alone may fill the window.

    Raises:
        ArgusError: `error`, when it is another one or when nothing is left to take.
    """
    messages = asking.prepared.request.messages
    if error.code != "prompt_too_long" or not asking.history:
        raise named(error, len(messages) - 1)
    first = 1 if messages[0].role == "system" else 0
    asking.history = asking.history[1:]
    sampling = asking.prepared.request.sampling
    shorter = ChatRequest(
        (*messages[:first], *messages[first + 2 :]), sampling if asking.history else replace(sampling, room=0)
    )
    asking.prepared = replace(asking.prepared, request=shorter)
