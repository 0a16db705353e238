"""Answers to customers from a knowledge base, with citations, and with a stronger model where the first will not do.

One turn: chunks are retrieved, and the message is read for intent and sentiment (one constrained answer of the chat
model). The rule of serve/escalation.py then says who answers; the answer's own probabilities may send it on once more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import orjson

from deployments.generation.messages import ChatResult, Constraint, Sampling
from deployments.knowledge_types import Chunk
from serve.chat import ChatService, Turn
from serve.citations import resolve
from serve.config.support import Support
from serve.context import RequestContext
from serve.dataplane import CHAT, DataPlane
from serve.errors import ArgusError, NotFound
from serve.escalation import INTENTS, SENTIMENTS, Intent, Reason, Sentiment, Signals, confidence, reasons
from serve.knowledge import KnowledgeService
from serve.sessions import Asking, SessionService

_SCHEMA = orjson.dumps(
    {
        "type": "object",
        "properties": {"intent": {"enum": INTENTS}, "sentiment": {"enum": SENTIMENTS}},
        "required": ["intent", "sentiment"],
        "additionalProperties": False,
    }
).decode()
_READING = Sampling(max_tokens=128, temperature=0.0, constraint=Constraint(_SCHEMA))
_READ = (
    "Read a customer's message. Its intent is one of: {intents}; `human` when a person is asked for. Its sentiment is "
    "one of: {sentiments}. Answer in JSON.\n\nMessage: {message}"
)
_ASK = (
    "Answer the customer's message from the numbered excerpts alone, briefly. Write the number of the excerpt in "
    "brackets behind what you took from it, like [1]. When they do not hold the answer, say that you do not know.\n\n"
    "{excerpts}\n\nMessage: {message}"
)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answered turn.

    Attributes:
        text: the answer, without citations of excerpts that there are not.
        cited: the chunks that it cites, each with its number, in the order of first mention.
        confidence: see `serve.escalation.confidence`.
        escalated: the model is the stronger one, because of `reasons`.
        reasons: why a stronger model was, or would have been, asked.
        tokens: of prompts and of answers, of every call together.
        asking: the message in its session; None without one.
    """

    model: str
    text: str
    cited: tuple[tuple[int, Chunk], ...]
    intent: Intent
    sentiment: Sentiment
    confidence: float | None
    escalated: bool
    reasons: tuple[Reason, ...]
    tokens: tuple[int, int]
    asking: Asking | None


class SupportService:
    """See the module's text.

    Args:
        support: the section of the cluster file; None when it has none.
    """

    def __init__(
        self,
        plane: DataPlane,
        chat: ChatService,
        sessions: SessionService,
        knowledge: KnowledgeService,
        support: Support | None,
    ) -> None:
        self._plane = plane
        self._chat = chat
        self._sessions = sessions
        self._knowledge = knowledge
        self._support = support

    async def answer(
        self,
        base: str,
        message: str,
        context: RequestContext,
        *,
        session: str | None = None,
        model: str | None = None,
        escalate_to: str | None = None,
    ) -> Reply:
        """Answers one message; in a session, over what was said there before, of which the excerpts are no part.

        Raises:
            NotFound: `not_configured`, `knowledge_not_found`, `session_not_found`, `model_not_found`.
            Conflict: `session_busy`.
            ArgusError: whatever else was wrong.
        """
        rule = self._support
        if rule is None:
            raise NotFound("This cluster file has no `support` section.", code="not_configured")
        first = self._plane.pick(model or rule.chat_model, CHAT).name
        stronger = self._stronger(escalate_to or rule.escalation_model)
        found = await self._knowledge.search(base, message, rule.chunks, context, param="message")
        intent, sentiment, read = await self._read(message, first, context)
        signals = Signals(intent, sentiment, found.coverage, found.similarity)
        asked = Turn("user", (_prompt(message, found.chunks),))

        def sampling(name: str) -> Sampling:
            sure = self._chat.gives_logprobs(name)
            return Sampling(max_tokens=rule.max_tokens, temperature=0.0, logprobs=0 if sure else None)

        try:
            if session is None:
                best = await self._best(_Alone(self._chat, asked, sampling, context), signals, first, stronger, rule)
                return _reply(best, found.chunks, signals, read, None)
            asking = await self._sessions.begin(
                session, asked, sampling(first), context, model=first, remembered=message
            )
            try:
                ask = _InSession(self._sessions, asking, sampling, context)
                best = await self._best(ask, signals, first, stronger, rule)
                reply = _reply(best, found.chunks, signals, read, asking)
                await self._sessions.keep(asking, _with_text(best.result, reply.text), context)
            finally:
                await self._sessions.end(asking)
            return reply
        except ArgusError as error:
            raise _named(error) from error.__cause__

    def _stronger(self, name: str | None) -> str | None:
        try:
            return None if name is None else self._plane.pick(name, CHAT).name
        except ArgusError as error:
            raise error.at("escalate_to") from None

    async def _read(self, message: str, model: str, context: RequestContext) -> tuple[Intent, Sentiment, ChatResult]:
        """Intent and sentiment of a message, and the model's answer that says so."""
        intents, sentiments = ", ".join(INTENTS), ", ".join(SENTIMENTS)
        turn = Turn("user", (_READ.format(intents=intents, sentiments=sentiments, message=message),))
        try:
            result = await self._chat.complete(await self._chat.prepare([turn], _READING, context, model), context)
        except ArgusError as error:
            raise _named(error) from error.__cause__
        return *_parsed(result.answers[0].text), result

    async def _best(self, ask: _Ask, signals: Signals, first: str, stronger: str | None, rule: Support) -> _Best:
        """The answer of the model whose turn it is. What calls for the stronger one before any answer saves the first
        one's."""
        why = reasons(signals, rule)
        model = stronger if why and stronger is not None else first
        results = [await ask(model)]
        sure = confidence(results[-1].answers[0].logprobs)
        why = reasons(replace(signals, confidence=sure), rule)
        if why and stronger is not None and model != stronger:
            model = stronger
            results.append(await ask(model))
            sure = confidence(results[-1].answers[0].logprobs)
        return _Best(model, tuple(results), sure, model != first, why)


_Ask = Callable[[str], Awaitable[ChatResult]]
"""Asks the model of a name."""


@dataclass(frozen=True, slots=True)
class _Best:
    model: str
    results: tuple[ChatResult, ...]
    confidence: float | None
    escalated: bool
    reasons: tuple[Reason, ...]

    @property
    def result(self) -> ChatResult:
        return self.results[-1]


@dataclass(frozen=True, slots=True)
class _Alone:
    """A turn without a session."""

    chat: ChatService
    turn: Turn
    sampling: Callable[[str], Sampling]
    context: RequestContext

    async def __call__(self, model: str) -> ChatResult:
        prepared = await self.chat.prepare([self.turn], self.sampling(model), self.context, model)
        return await self.chat.complete(prepared, self.context)


@dataclass(frozen=True, slots=True)
class _InSession:
    """A turn of a session."""

    sessions: SessionService
    asking: Asking
    sampling: Callable[[str], Sampling]
    context: RequestContext

    async def __call__(self, model: str) -> ChatResult:
        if self.asking.prepared.model != model:
            await self.sessions.switch(self.asking, self.sampling(model), self.context, model)
        return await self.sessions.answer(self.asking, self.context)


def _prompt(message: str, chunks: Sequence[Chunk]) -> str:
    excerpts = "\n".join(
        f"[{i}] {f'({chunk.title}) ' if chunk.title else ''}{chunk.text}" for i, chunk in enumerate(chunks, 1)
    )
    return _ASK.format(excerpts=excerpts or "(There are none.)", message=message)


def _parsed(text: str) -> tuple[Intent, Sentiment]:
    """What a constrained answer says; one that its length cut says nothing."""
    try:
        read = orjson.loads(text)
        return read["intent"], read["sentiment"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "other", "neutral"


def _reply(best: _Best, chunks: Sequence[Chunk], signals: Signals, read: ChatResult, asking: Asking | None) -> Reply:
    text, numbers = resolve(best.result.answers[0].text.strip(), len(chunks))
    counted = (read, *best.results)
    return Reply(
        best.model,
        text,
        tuple((number, chunks[number - 1]) for number in numbers),
        signals.intent,
        signals.sentiment,
        best.confidence,
        best.escalated,
        best.reasons,
        (
            sum(result.prompt_tokens for result in counted),
            sum(result.completion_tokens for result in counted),
        ),
        asking,
    )


def _with_text(result: ChatResult, text: str) -> ChatResult:
    return replace(result, answers=(replace(result.answers[0], text=text),))


def _named(error: ArgusError) -> ArgusError:
    """The error, blamed on a field of this request."""
    if error.param is None:
        return error
    if error.param == "id":
        return error.at("session")
    return error.at("message") if error.param.startswith(("messages", "content")) else error
