"""JSON from chat models: constrained where the engine can, checked always, repaired once."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from deployments.generation.messages import ChatRequest, Constraint, Message, Part, Sampling, Text
from serve.calls import Calls, Usage
from serve.cascade.parse import json_value
from serve.context import RequestContext
from serve.errors import InvalidOutput, InvalidRequest

S = TypeVar("S", bound=BaseModel)
T = TypeVar("T")

_SHOWN = 300
_REPAIR = "This cannot be used. {problem} Answer again with JSON that fits the schema, and nothing else."


async def structured(
    calls: Calls,
    name: str,
    parts: tuple[Part, ...],
    kind: type[S],
    context: RequestContext,
    *,
    max_tokens: int,
    fallback: bool,
) -> tuple[S, Usage]:
    """A model's answer as a `kind`.

    The schema travels as a constraint, so an engine with a grammar can write nothing else. What a schema cannot say
    (rows of equal length), or an engine does not keep, is checked here; the model is told once what is wrong.

    Args:
        name: of a chat model or provider.
        parts: the user's turn.

    Raises:
        InvalidOutput: the second answer is wrong too, or one was cut at `max_tokens`.
        ArgusError: the call's.
    """
    schema = Constraint(orjson.dumps(kind.model_json_schema()).decode())
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, constraint=schema)
    messages: tuple[Message, ...] = (Message("user", parts),)
    usage = Usage()
    for is_last in (False, True):
        said = ""
        try:
            called = await calls.chat(name, ChatRequest(messages, sampling), context, fallback=fallback)
            usage += called.usage
            said = called.value.answers[0].text
            if called.value.answers[0].finish_reason == "stop":
                return _checked(said, kind), usage
        except InvalidOutput as error:  # ours, or the provider's own check
            if is_last:
                raise
            problem = error.message
        else:
            raise InvalidOutput(f"The answer is longer than {max_tokens} tokens, or than the deadline allows.")
        answered = (Message("assistant", (Text(said),)),) if said else ()
        messages = (*messages, *answered, Message("user", (Text(_REPAIR.format(problem=problem)),)))
    raise AssertionError("the last attempt returns or raises")


def _checked(text: str, kind: type[S]) -> S:
    value = json_value(text)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        message = f"The answer does not fit its schema{f' at {where}' if where else ''}: {first['msg'][:_SHOWN]}."
        raise InvalidOutput(message) from None


async def answered(name: str, work: Awaitable[T]) -> T:
    """What a back end answers about a page that we drew. What it refuses is not the client's fault.

    Raises:
        InvalidOutput: `backend_refused`, in place of an `InvalidRequest`.
    """
    try:
        return await work
    except InvalidRequest as error:
        message = f"Back end {name!r} refused a page: {error.message}"
        raise InvalidOutput(message, code="backend_refused") from error
