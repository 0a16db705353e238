"""`Calls` over the cluster's deployments and providers: each call becomes a job that the guard sees through."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from deployments.generation.messages import ChatEvent, ChatRequest, ChatResult
from deployments.messages import Call, ClassifyRequest, ClassifyResult, EmbedRequest, EmbedResult, TaskRequest
from serve.calls import Called, Usage
from serve.context import RequestContext
from serve.handles import ModelHandle
from serve.providers.base import Classifier, Provider
from serve.resilience import codec
from serve.resilience.cache_key import CacheKeys
from serve.resilience.guard import Attempted, Codec, Guard, Job, StreamJob

R = TypeVar("R", ClassifyResult, EmbedResult)
T = TypeVar("T")

# What models of ours use costs their nodes' price, not a call's; their tokens are in their answers.
_FREE = Usage()
# An engine ends an answer at its deadline by itself. Of the request's time this much, in seconds, and at most this
# share is kept for what has been written to come home: through replica, router and data plane.
_HOME_S, _HOME_SHARE = 0.5, 0.2


class RoutedCalls:
    """See `serve.calls.Calls`.

    Args:
        handles: one for each served model, by name.
        providers: by name; no name is in both.
        keys: what the answers of the names in `kept` are kept under.
        on_wait: told how long a call waited at its model, beyond the wait that the guard reports.
    """

    def __init__(
        self,
        handles: Mapping[str, ModelHandle],
        providers: Mapping[str, Provider],
        guard: Guard,
        keys: CacheKeys,
        kept: Collection[str] = (),
        on_wait: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._handles = handles
        self._providers = providers
        self._guard = guard
        self._keys = keys
        self._kept = frozenset(kept)
        self._on_wait = on_wait

    async def chat(
        self,
        name: str,
        request: ChatRequest,
        context: RequestContext,
        *,
        affinity: str | None = None,
        fallback: bool = False,
    ) -> Called[ChatResult]:
        """See `Calls.chat`."""
        provider = self._providers.get(name)
        key = self._keys.chat(name, request, context) if name in self._kept else None
        if provider is not None:
            job = _provider_job(name, provider, request, key)
        else:
            handle = self._handles[name]

            async def attempt(timeout_s: float) -> Attempted[ChatResult]:
                within = _within(context, timeout_s)
                call = _answering(within, context)
                result: ChatResult = await handle.call("chat", within, request, call, affinity=affinity)
                return Attempted(result, _used(result))

            job = Job(name, attempt, cache_key=key, codec=codec.CHAT)
        return await self._guard.run(job, context, fallback=fallback)

    async def chat_stream(
        self,
        name: str,
        request: ChatRequest,
        context: RequestContext,
        *,
        affinity: str | None = None,
        fallback: bool = False,
    ) -> AsyncGenerator[ChatEvent, None]:
        """See `Calls.chat_stream`."""
        provider = self._providers.get(name)
        if provider is not None:
            job = StreamJob(name, lambda timeout_s: _counted(provider, request, timeout_s), provider.estimate(request))
        else:
            handle = self._handles[name]

            async def events(timeout_s: float) -> AsyncGenerator[ChatEvent | Usage, None]:
                within = _within(context, timeout_s)
                pieces = handle.stream("chat_stream", within, request, _answering(within, context), affinity=affinity)
                async with aclosing(pieces):
                    async for piece in pieces:
                        yield piece

            job = StreamJob(name, events)
        async with aclosing(self._guard.stream(job, context, fallback=fallback)) as answer:
            async for event in answer:
                yield event

    async def classify(
        self, name: str, request: ClassifyRequest, context: RequestContext, *, fallback: bool = False
    ) -> Called[ClassifyResult]:
        """See `Calls.classify`."""
        key = self._keys.classify(name, request, context) if name in self._kept else None
        provider = self._providers.get(name)
        if provider is None:
            job = self._model_job(name, "classify", request, context, key, codec.CLASSIFY)
        else:
            assert isinstance(provider, Classifier), "others have no such task"
            job = _classifier_job(name, provider, request, key)
        return await self._guard.run(job, context, fallback=fallback)

    async def embed(
        self, name: str, request: EmbedRequest, context: RequestContext, *, fallback: bool = False
    ) -> Called[EmbedResult]:
        """See `Calls.embed`."""
        key = self._keys.embed(name, request, context) if name in self._kept else None
        job = self._model_job(name, "embed", request, context, key, codec.EMBED)
        return await self._guard.run(job, context, fallback=fallback)

    async def task(
        self,
        name: str,
        request: TaskRequest[T],
        context: RequestContext,
        *,
        affinity: str | None = None,
        fallback: bool = False,
    ) -> Called[T]:
        """See `Calls.task`. Answers are not kept: these requests carry whole files, and few come twice."""
        handle = self._handles[name]

        async def attempt(timeout_s: float) -> Attempted[T]:
            within = _within(context, timeout_s)
            result: T = await handle.call(request.method, within, request, within.call(), affinity=affinity)
            if wait := getattr(result, "queue_wait_s", 0.0):
                self._on_wait(wait)
            return Attempted(result, _FREE)

        return await self._guard.run(Job(name, attempt), context, fallback=fallback)

    def _model_job(
        self, name: str, method: str, request: object, context: RequestContext, key: bytes | None, kind: Codec[R]
    ) -> Job[R]:
        handle = self._handles[name]

        async def attempt(timeout_s: float) -> Attempted[R]:
            within = _within(context, timeout_s)
            result: R = await handle.call(method, within, request, within.call())
            if result.queue_wait_s:
                self._on_wait(result.queue_wait_s)
            return Attempted(result, _FREE)

        return Job(name, attempt, cache_key=key, codec=kind)


def _provider_job(name: str, provider: Provider, request: ChatRequest, key: bytes | None) -> Job[ChatResult]:
    async def attempt(timeout_s: float) -> Attempted[ChatResult]:
        answer = await provider.chat(request, timeout_s)
        return Attempted(answer.result, answer.usage)

    return Job(name, attempt, provider.estimate(request), key, codec.CHAT)


def _classifier_job(
    name: str, classifier: Classifier, request: ClassifyRequest, key: bytes | None
) -> Job[ClassifyResult]:
    async def attempt(timeout_s: float) -> Attempted[ClassifyResult]:
        return Attempted(await classifier.classify(request, timeout_s), _FREE)

    return Job(name, attempt, cache_key=key, codec=codec.CLASSIFY)


async def _counted(
    provider: Provider, request: ChatRequest, timeout_s: float
) -> AsyncGenerator[ChatEvent | Usage, None]:
    """A provider's stream whose last event says how many tokens there were, which is known only after it."""
    last: ChatEvent | None = None
    async with aclosing(provider.chat_stream(request, timeout_s)) as events:
        async for event in events:
            if isinstance(event, Usage):
                if last is not None:
                    yield replace(last, prompt_tokens=event.prompt_tokens, written=event.completion_tokens)
                    last = None
                yield event
                continue
            if last is not None:
                yield last
            last = event if event.finish_reason is not None else None
            if last is None:
                yield event
    if last is not None:
        yield last


def _within(context: RequestContext, timeout_s: float) -> RequestContext:
    """The context of one attempt, which may last less than its request."""
    deadline = time.monotonic() + timeout_s
    return context if context.deadline <= deadline else replace(context, deadline=deadline)


def _answering(within: RequestContext, request: RequestContext) -> Call:
    """What a generating model is told: it ends sooner than its request, so that what was written is not lost.

    An attempt that may last less than its request is given up as a whole instead: another one may answer all of it.
    """
    left = request.remaining_s()
    call = within.call()
    return replace(call, timeout_s=min(call.timeout_s, left - min(_HOME_S, _HOME_SHARE * left)))


def _used(result: ChatResult) -> Usage:
    return Usage(result.prompt_tokens, result.completion_tokens)
