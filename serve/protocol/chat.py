"""`/v1/chat/completions`: OpenAI's answers, whole or as server-sent events."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.generation.messages import ChatEvent, ChatResult, FinishReason, TokenLogprob
from serve.cascade.service import CascadeService
from serve.chat import ChatService, Prepared
from serve.context import RequestContext
from serve.errors import ArgusError
from serve.protocol import cascade_chat, routes
from serve.protocol.bodies import json_object
from serve.protocol.body_stream import context_of, read_body
from serve.protocol.chat_bodies import ChatFields, StreamOptions, chat_fields, sampling, turns
from serve.protocol.events import HEADERS, MEDIA_TYPE, error_event, server_event
from serve.protocol.native import json
from serve.protocol.openapi import ERRORS, json_body, json_response

_DONE = b"data: [DONE]\n\n"


def build(chat: ChatService, cascades: CascadeService, max_body_bytes: int) -> APIRouter:
    """The route, over a chat service; a cascade's name is a model here too."""
    router = routes.router("/v1", "openai")

    @router.post(
        "/chat/completions",
        summary="The next turn of a conversation",
        openapi_extra=json_body(ChatFields),
        responses=json_response("A chat.completion object; with `stream`, server-sent events of its chunks.", ERRORS),
    )
    async def completions(request: Request) -> Response:
        context = context_of(request)
        body = json_object(await read_body(request, max_body_bytes))
        if cascade_chat.is_cascade(cascades, body):
            return await _cascaded(cascades, body, request)
        fields = chat_fields(body)
        prepared = await chat.prepare(turns(fields.messages), sampling(fields), context, fields.model)
        if not fields.stream:
            return json(completion(await chat.complete(prepared, context), prepared, context))
        events = chat.stream(prepared, context)
        return await streamed(events, prepared, request, fields.stream_options, to_the_end=False)

    return router


async def _cascaded(cascades: CascadeService, body: dict[str, Any], request: Request) -> Response:
    """A cascade's answer, with its trace beside what OpenAI's objects hold."""
    context = context_of(request)
    result, fields, explain = await cascade_chat.answered(cascades, body, context)
    prepared, answer = cascade_chat.as_chat(result)
    more = cascade_chat.extension(result, explain=explain)
    if not fields.stream:
        return cascade_chat.geared(json(completion(answer, prepared, context) | more), result)
    events = cascade_chat.as_events(answer)
    response = await streamed(events, prepared, request, fields.stream_options, lambda: more)
    return cascade_chat.geared(response, result)


async def streamed(
    events: AsyncGenerator[ChatEvent, None],
    prepared: Prepared,
    request: Request,
    options: StreamOptions | None,
    closing: Callable[[], dict[str, Any]] | None = None,
    *,
    to_the_end: bool = True,
) -> Response:
    """The answer as server-sent events.

    Args:
        to_the_end: something that the reader counts on still happens after the last event; without it, `[DONE]` follows
            the last choice's end at once.
        closing: gives the fields of a last chunk of ours, once every event has been sent.

    Raises:
        ArgusError: before the first event; until then the answer can still be an honest status.
    """
    first = await anext(events)
    include_usage = options is not None and options.include_usage
    chunks = _Chunks(prepared, context_of(request), include_usage, to_the_end)
    return _EventStream(server_sent(first, events, chunks, request, include_usage, closing), events)


class _EventStream(StreamingResponse):
    """Ends the model's work when its reader leaves: at once, not when the garbage collector finds the generators. Of an
    answer that is complete, the reader does not wait for the end of the call below."""

    def __init__(self, content: AsyncGenerator[bytes, None], events: AsyncGenerator[ChatEvent, None]) -> None:
        super().__init__(content, media_type=MEDIA_TYPE, headers=dict(HEADERS))
        self._content, self._events = content, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
            with suppress(ArgusError):  # after its last event, of which the reader has been told
                async for _ in self._events:
                    pass
        finally:
            await self._content.aclose()
            await self._events.aclose()  # of a stream that never began, the content has not closed it


def completion(result: ChatResult, prepared: Prepared, context: RequestContext) -> dict[str, Any]:
    """A `chat.completion` object."""
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": _logprobs(answer.logprobs, wanted=prepared.request.sampling.logprobs is not None),
            "finish_reason": finish_word(answer.finish_reason),
        }
        for i, answer in enumerate(result.answers)
    ]
    return {
        **_head("chat.completion", prepared, context),
        "choices": choices,
        "usage": _usage(result.prompt_tokens, result.completion_tokens, result.cached_tokens),
    }


async def server_sent(
    first: ChatEvent,
    events: AsyncGenerator[ChatEvent, None],
    chunks: _Chunks,
    request: Request,
    include_usage: bool,
    closing: Callable[[], dict[str, Any]] | None = None,
) -> AsyncGenerator[bytes, None]:
    """`chat.completion.chunk` objects as server-sent events, `[DONE]` last; the caller closes `events`.

    What fails after the first event is said in an event of its own: the status has been sent.
    """
    try:
        # The chunks of one event are sent together: each sending is a system call and a proxy's turn.
        sent = b"".join(chunks.of(first))
        while not chunks.complete:
            if sent:
                yield sent
            if (event := await anext(events, None)) is None:
                sent = b""
                break
            sent = b"".join(chunks.of(event))
    except ArgusError as error:
        yield error_event(error, request)
        return
    more = closing() if closing is not None else None
    if include_usage or more is not None:
        sent += chunks.last(more or {})
    yield sent + _DONE


class _Chunks:
    """Makes the chunks of one stream, and counts its tokens."""

    def __init__(self, prepared: Prepared, context: RequestContext, include_usage: bool, to_the_end: bool) -> None:
        self._head = _head("chat.completion.chunk", prepared, context)
        self._include_usage = include_usage
        # With usage asked for, every chunk but the last carries a null in its place (API reference, stream_options).
        self._tail: dict[str, Any] = {"usage": None} if include_usage else {}
        self._logprobs = prepared.request.sampling.logprobs is not None
        self._opened: set[int] = set()
        self._unfinished = math.inf if to_the_end else prepared.request.sampling.n
        self._tokens = self._prompt = self._cached = 0

    def of(self, event: ChatEvent) -> Iterable[bytes]:
        """The chunks for one event: none while it brings nothing to show."""
        self._tokens = self._tokens + len(event.token_ids) if event.written is None else event.written
        self._prompt, self._cached = event.prompt_tokens, event.cached_tokens
        if event.index not in self._opened:
            self._opened.add(event.index)
            yield self._chunk(event.index, {"role": "assistant", "content": "", "refusal": None}, (), None)
        if event.text or event.logprobs:
            yield self._chunk(event.index, {"content": event.text}, event.logprobs, None)
        if event.finish_reason is not None:
            self._unfinished -= 1
            yield self._chunk(event.index, {}, (), finish_word(event.finish_reason))

    @property
    def complete(self) -> bool:
        """Every choice has ended, and nobody waits for what comes after."""
        return self._unfinished <= 0

    def last(self, fields: dict[str, Any]) -> bytes:
        """A chunk without choices: the usage, where it was asked for, and fields that OpenAI's do not have.

        They share one chunk, since clients that gather a stream take the last chunk's word for the usage.
        """
        usage = {"usage": _usage(self._prompt, self._tokens, self._cached)} if self._include_usage else {}
        return server_event({**self._head, "choices": [], **usage, **fields})

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: tuple[TokenLogprob, ...], finish: str | None
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": _logprobs(logprobs, wanted=self._logprobs and bool(logprobs)),
            "finish_reason": finish,
        }
        return server_event({**self._head, "choices": [choice], **self._tail})


def _head(kind: str, prepared: Prepared, context: RequestContext) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{context.request_id}",
        "object": kind,
        "created": int(time.time()),
        "model": prepared.model,
        "system_fingerprint": None,
    }


def finish_word(reason: FinishReason) -> str:
    """OpenAI has no word for an answer that its deadline cut; `length` is what clients know as "not complete"."""
    return "length" if reason == "cut" else reason


def _usage(prompt: int, written: int, cached: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _logprobs(tokens: tuple[TokenLogprob, ...], *, wanted: bool) -> dict[str, Any] | None:
    return {"content": logprobs_content(tokens), "refusal": None} if wanted else None


def logprobs_content(tokens: tuple[TokenLogprob, ...]) -> list[dict[str, Any]]:
    """Tokens and their alternatives, as OpenAI writes them."""
    return [{**_token(token), "top_logprobs": [_token(alternative) for alternative in token.top]} for token in tokens]


def _token(token: TokenLogprob) -> dict[str, Any]:
    data = None if token.data is None else list(token.data)
    return {"token": token.token, "logprob": token.logprob, "bytes": data}
