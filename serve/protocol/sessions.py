"""`/v1/sessions`: conversations that the cluster remembers, answered in the shape of OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from deployments.session_types import Conversation, Exchange, MediumRef, Session
from serve.protocol import routes
from serve.protocol.bodies import Fields, json_object, read_json
from serve.protocol.body_stream import context_of, read_body
from serve.protocol.chat import completion, streamed
from serve.protocol.chat_bodies import AnswerFields, UserContent, checked, sampling, turn
from serve.protocol.native import json
from serve.protocol.openapi import ERRORS, json_body, json_response
from serve.sessions import Asking, SessionService

# OpenAI's bounds on metadata (API reference, `metadata`).
_MOST_NOTES = 16
Note = Annotated[str, Field(max_length=512)]
NoteName = Annotated[str, Field(min_length=1, max_length=64)]


class SessionFields(Fields):
    """A conversation to begin. What is left out is the cluster file's."""

    model: str | None = Field(None, description="Answers when a message names none; the cluster's first chat model.")
    system: str | None = Field(None, min_length=1, description="Instructions; they are never dropped.")
    ttl_s: float | None = Field(None, ge=1, description="Seconds that the session lives after its last message.")
    max_turns: int | None = Field(None, ge=1, description="Most exchanges kept; the oldest go first.")
    max_images: int | None = Field(None, ge=0, description="Most images kept.")
    max_tokens: int | None = Field(None, ge=1, description="Most tokens of the history a message is asked with.")
    metadata: dict[NoteName, Note] = Field(
        {}, max_length=_MOST_NOTES, description="Your own notes: 16 texts of up to 512 characters."
    )


class SayFields(AnswerFields):
    """A message of the user, and how it is to be answered."""

    content: UserContent = Field(description="A text, or OpenAI's content parts: text, image_url, video_url.")


def build(service: SessionService, max_body_bytes: int) -> APIRouter:
    """The routes, over a session service."""
    router = routes.router("/v1/sessions", "sessions")

    @router.post(
        "",
        summary="Begin a session",
        openapi_extra=json_body(SessionFields, required=False),
        responses=json_response("The session.", ERRORS),
    )
    async def create(request: Request) -> Response:
        fields = await read_json(request, max_body_bytes, SessionFields, required=False)
        return json(session_object(await service.create(context_of(request), **fields.model_dump())))

    @router.get("", summary="Your newest sessions", responses=json_response("A list of sessions.", ERRORS))
    async def list_sessions(request: Request) -> Response:
        found = await service.list_sessions(context_of(request))
        return json({"object": "list", "data": [session_object(session) for session in found]})

    @router.get("/{id}", summary="One session", responses=json_response("The session.", ERRORS))
    async def get(id: str, request: Request) -> Response:
        return json(session_object((await service.get(id, context_of(request))).session))

    @router.delete("/{id}", summary="Delete a session", responses=json_response("What was deleted.", ERRORS))
    async def delete(id: str, request: Request) -> Response:
        await service.delete(id, context_of(request))
        return json({"object": "session", "id": id, "deleted": True})

    @router.get("/{id}/messages", summary="What was said", responses=json_response("Messages, oldest first.", ERRORS))
    async def messages(id: str, request: Request) -> Response:
        conversation = await service.get(id, context_of(request))
        return json({"object": "list", "data": list(_messages(conversation))})

    @router.post(
        "/{id}/messages",
        summary="Say something and get the answer",
        openapi_extra=json_body(SayFields),
        responses=json_response(
            "A chat.completion object with a `session`; with `stream`, server-sent events of its chunks.", ERRORS
        ),
    )
    async def say(id: str, request: Request) -> Response:
        context = context_of(request)
        fields = checked(json_object(await read_body(request, max_body_bytes)), SayFields)
        message = turn("user", fields.content, "content")
        if not fields.stream:
            asking, result = await service.say(id, message, sampling(fields), context, model=fields.model)
            return json({**completion(result, asking.prepared, context), "session": said_object(asking)})
        asking = await service.begin(id, message, sampling(fields), context, model=fields.model)
        events = service.stream(asking, context)
        return await streamed(
            events, asking.prepared, request, fields.stream_options, lambda: {"session": said_object(asking)}
        )

    return router


def session_object(session: Session) -> dict[str, Any]:
    """A session as clients see it; times in whole Unix seconds."""
    return {
        "object": "session",
        "id": session.id,
        "model": session.model,
        "system": session.system,
        "created_at": int(session.created_at),
        "expires_at": int(session.expires_at),
        "ttl_s": session.ttl_s,
        "turns": session.turns,
        "images": session.images,
        "tokens": session.tokens,
        **{f"max_{name}": most for name, most in asdict(session.bounds).items()},
        "metadata": session.metadata,
    }


def said_object(asking: Asking) -> dict[str, Any]:
    """The session after an answer: whether that was kept, and how many old exchanges it dropped."""
    return {
        **session_object(asking.session),
        "kept": asking.kept,
        "dropped": asking.dropped if asking.kept else 0,
    }


def _messages(conversation: Conversation) -> Iterator[dict[str, Any]]:
    if conversation.session.system is not None:
        yield {"role": "system", "content": conversation.session.system}
    for exchange in conversation.exchanges:
        yield {"role": "user", "content": [_part(part) for part in exchange.user]}
        yield {
            "role": "assistant",
            "content": exchange.answer,
            "model": exchange.model,
            "usage": _usage(exchange),
        }


def _part(part: str | MediumRef) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": part.kind, "sha256": part.sha256, "bytes": part.size}


def _usage(exchange: Exchange) -> dict[str, int]:
    return {
        "prompt_tokens": exchange.prompt_tokens,
        "completion_tokens": exchange.completion_tokens,
        "total_tokens": exchange.prompt_tokens + exchange.completion_tokens,
    }
