"""A cascade's name as a model of `/v1/chat/completions`: its answer as a completion, its trace in the field `argus`.

The answer is that of whichever step accepts, so a stream has it in one piece: what an earlier step wrote, and a later
one replaced, must not have been sent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import orjson
from fastapi import Response

from deployments.generation.messages import Answer, ChatEvent, ChatRequest, ChatResult, Sampling
from serve.cascade.service import CascadeService
from serve.cascade.types import CascadeResult
from serve.chat import Prepared
from serve.context import RequestContext
from serve.errors import InvalidRequest, Unsupported
from serve.protocol.cascade_bodies import NORMAL_GEAR, answer_fields, with_gear
from serve.protocol.chat_bodies import ChatFields, TextFormat, chat_fields, sampling, turns


def is_cascade(cascades: CascadeService, body: dict[str, Any]) -> bool:
    """Whether a request names a cascade as its model."""
    return isinstance(body.get("model"), str) and body["model"] in cascades.names()


async def answered(
    cascades: CascadeService, body: dict[str, Any], context: RequestContext
) -> tuple[CascadeResult, ChatFields, bool]:
    """The cascade's answer to a conversation, its checked fields, and whether the trace is wanted.

    Args:
        body: OpenAI's request; `explain: false` is ours.

    Raises:
        Unsupported: a wish that a cascade cannot meet.
        ArgusError: what is wrong with the request, or why no step could answer.
    """
    explain = body.pop("explain", True)
    if not isinstance(explain, bool):
        raise InvalidRequest("Field 'explain': must be true or false.", code="invalid_field", param="explain")
    fields = chat_fields(body)
    shaped = fields.response_format is not None and not isinstance(fields.response_format, TextFormat)
    for param, wanted in (("n", (fields.n or 1) > 1), ("logprobs", bool(fields.logprobs)), ("response_format", shaped)):
        if wanted:
            message = f"Parameter {param!r} is not supported by cascades; the cluster file says how they answer."
            raise Unsupported(message, code="unsupported_parameter", param=param)
    wished = sampling(fields)
    if fields.temperature is None:
        wished = replace(wished, temperature=0.0)
    assert fields.model is not None
    return await cascades.converse(fields.model, turns(fields.messages), wished, context), fields, explain


def extension(result: CascadeResult, *, explain: bool) -> dict[str, Any]:
    """The field that OpenAI's completions do not have."""
    head = {"cascade": result.cascade, "calibrated": result.calibrated, "gear": result.gear or NORMAL_GEAR}
    return {"argus": head | answer_fields(result, explain=explain)}


def as_chat(result: CascadeResult) -> tuple[Prepared, ChatResult]:
    """The answer as a chat model would give it; its tokens are those of all steps."""
    usage = result.usage
    said = Answer(text_of(result), (), (), "stop")
    prepared = Prepared(result.cascade, ChatRequest((), Sampling()), None)
    return prepared, ChatResult((said,), usage.prompt_tokens, 0, usage.completion_tokens)


async def as_events(answer: ChatResult) -> AsyncGenerator[ChatEvent, None]:
    """The same as a stream of one piece."""
    said = answer.answers[0]
    reason = said.finish_reason
    yield ChatEvent(0, said.text, (), (), reason, answer.prompt_tokens, written=answer.completion_tokens)


def text_of(result: CascadeResult) -> str:
    """An answer of any shape as text."""
    return result.value if isinstance(result.value, str) else orjson.dumps(result.value).decode()


def geared(response: Response, result: CascadeResult) -> Response:
    """The response with the header that says which gear answered."""
    return with_gear(response, result.gear or NORMAL_GEAR)
