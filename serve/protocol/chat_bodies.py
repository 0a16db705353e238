"""The request of `/v1/chat/completions`, and its translation into turns and sampling.

Follows the published API reference (https://platform.openai.com/docs/api-reference/chat/create). `video_url` parts are
the extension that vLLM's and other servers' clients use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import Field

from deployments.generation.messages import Constraint, Detail, Role, Sampling
from serve.chat import Medium, Turn
from serve.errors import InvalidRequest, Unsupported
from serve.media.admit import Reference
from serve.protocol.bodies import Fields, validate

_MOST_ANSWERS = 8
_MOST_STOPS = 4
# Parameters of OpenAI's that we know and do not offer, with the values under which they ask for nothing: clients and
# frameworks send many of them always.
_NOT_OFFERED: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "web_search_options": (None,),
    "verbosity": (None,),
}


Nothing = Annotated[list[Any], Field(max_length=0)] | None


class MediaUrl(Fields):
    """Where an image is."""

    url: str = Field(min_length=1, description="http(s) URL or data URI.")
    detail: Detail = Field(
        "auto",
        description="`low` caps the longer side at 512 pixels, for a model that cuts images into tiles at one tile; "
        "`auto` caps the shorter side at 768, more than any model here reads; `high` caps nothing.",
    )


class VideoUrl(Fields):
    """Where a video is."""

    url: str = Field(min_length=1, description="http(s) URL or data URI.")


class TextPart(Fields):
    """A text."""

    type: Literal["text"]
    text: str


class ImagePart(Fields):
    """An image."""

    type: Literal["image_url"]
    image_url: MediaUrl


class VideoPart(Fields):
    """A video."""

    type: Literal["video_url"]
    video_url: VideoUrl


UserContent = str | list[Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]]


class SystemMessage(Fields):
    """Instructions."""

    role: Literal["system", "developer"]
    content: str | list[TextPart]
    name: str | None = None


class UserMessage(Fields):
    """What the user says and shows."""

    role: Literal["user"]
    content: UserContent
    name: str | None = None


class AssistantMessage(Fields):
    """An earlier answer; what OpenAI's clients give of one fits, with the fields that are empty here."""

    role: Literal["assistant"]
    content: str | list[TextPart]
    name: str | None = None
    refusal: None = None
    annotations: Nothing = None
    audio: None = None
    function_call: None = None
    tool_calls: Nothing = None
    parsed: Any = Field(None, description="What OpenAI's clients read in the content; accepted and not used.")


class JsonSchema(Fields):
    """A named schema."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    schema_: dict[str, Any] = Field(alias="schema", description="JSON Schema that the answer will fit.")
    description: str | None = None
    strict: bool | None = Field(None, description="The answer always fits, whatever is said here.")


class TextFormat(Fields):
    """No constraint."""

    type: Literal["text"]


class JsonObjectFormat(Fields):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(Fields):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class StreamOptions(Fields):
    """Details of a stream."""

    include_usage: bool = Field(False, description="A last chunk with the usage of the whole request.")
    include_obfuscation: bool | None = Field(None, description="Accepted and not used.")
    continuous_usage_stats: bool | None = Field(
        None, description="vLLM's, which load generators such as GuideLLM send; accepted and not used."
    )


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]
Format = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class AnswerFields(Fields):
    """What is wanted of an answer, whatever it answers."""

    model: str | None = Field(None, description="A chat model; the cluster's first one when left out.")
    max_completion_tokens: int | None = Field(None, ge=1, description="Most tokens of an answer.")
    max_tokens: int | None = Field(None, ge=1, description="The older name of `max_completion_tokens`.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy; 1 when left out.")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus sampling; 1 when left out.")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="Makes the answer repeatable.")
    stop: str | list[str] | None = Field(None, description=f"Up to {_MOST_STOPS} texts before which an answer ends.")
    logprobs: bool | None = Field(None, description="Log probabilities of the tokens.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="Alternatives at each token; needs `logprobs`.")
    response_format: Format | None = Field(None, description="Text, any JSON object, or JSON that fits a schema.")
    stream: bool | None = Field(None, description="Send the answer as server-sent events while it grows.")
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")
    user: str | None = Field(None, description="Accepted and not used.")
    metadata: dict[str, str] | None = Field(None, description="Accepted and not used.")
    safety_identifier: str | None = Field(None, description="Accepted and not used.")
    prompt_cache_key: str | None = Field(None, description="Accepted and not used.")


class ChatFields(AnswerFields):
    """A conversation that wants its next turn."""

    messages: list[Message] = Field(min_length=1, description="The conversation; the last message is the user's.")
    n: int | None = Field(None, ge=1, le=_MOST_ANSWERS, description="Answers wanted; 1 when left out.")


Answering = TypeVar("Answering", bound=AnswerFields)


def chat_fields(body: dict[str, Any]) -> ChatFields:
    """The checked fields of a conversation; see `checked`."""
    return checked(body, ChatFields)


def checked(body: dict[str, Any], kind: type[Answering]) -> Answering:
    """The checked fields of a body that asks for an answer.

    Raises:
        Unsupported: `unsupported_parameter`: one of OpenAI's that asks for something we do not offer.
        InvalidRequest: a field that is missing, unknown or wrong, or two that contradict each other.
    """
    for name, neutral in _NOT_OFFERED.items():
        if name in body and body.pop(name) not in neutral:
            raise Unsupported(f"Parameter {name!r} is not supported here.", code="unsupported_parameter", param=name)
    fields = validate(body, kind)
    if fields.max_tokens and fields.max_completion_tokens and fields.max_tokens != fields.max_completion_tokens:
        raise _contradiction("max_tokens", "max_tokens and max_completion_tokens differ; send one of them.")
    if fields.top_logprobs is not None and not fields.logprobs:
        raise _contradiction("top_logprobs", "top_logprobs needs logprobs to be true.")
    if fields.stream_options is not None and not fields.stream:
        raise _contradiction("stream_options", "stream_options needs stream to be true.")
    return fields


def _contradiction(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_field", param=param)


def sampling(fields: AnswerFields) -> Sampling:
    """How the answer is to be chosen.

    Raises:
        InvalidRequest: too many stop texts, or an empty one.
    """
    stop = () if fields.stop is None else (fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop)
    if len(stop) > _MOST_STOPS or not all(stop):
        raise _contradiction("stop", f"stop takes up to {_MOST_STOPS} texts, none of them empty.")
    return Sampling(
        max_tokens=fields.max_completion_tokens or fields.max_tokens,
        temperature=1.0 if fields.temperature is None else fields.temperature,
        top_p=1.0 if fields.top_p is None else fields.top_p,
        seed=fields.seed,
        stop=stop,
        n=(fields.n or 1) if isinstance(fields, ChatFields) else 1,
        logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
        constraint=_constraint(fields.response_format),
    )


def _constraint(given: TextFormat | JsonObjectFormat | JsonSchemaFormat | None) -> Constraint | None:
    if isinstance(given, JsonObjectFormat):
        return Constraint()
    if isinstance(given, JsonSchemaFormat):
        return Constraint(_text_of(given.json_schema.schema_))
    return None


def _text_of(schema: dict[str, Any]) -> str:
    try:
        return orjson.dumps(schema).decode()
    except TypeError as error:  # it writes 254 levels, and reads more
        message = f"The JSON schema cannot be used: {error}."
        param = "response_format.json_schema.schema"
        raise InvalidRequest(message, code="invalid_json_schema", param=param) from None


def turns(messages: list[SystemMessage | UserMessage | AssistantMessage]) -> list[Turn]:
    """The conversation."""
    return [
        turn("system" if message.role == "developer" else message.role, message.content, f"messages[{i}].content")
        for i, message in enumerate(messages)
    ]


def turn(role: Role, content: UserContent | list[TextPart], param: str) -> Turn:
    """One message.

    Args:
        param: the request field that holds the content.

    Raises:
        InvalidRequest: `empty_message`.
    """
    if isinstance(content, str):
        return Turn(role, (content,))
    if not content:
        raise InvalidRequest("The message has no content.", code="empty_message", param=param)
    return Turn(role, tuple(_part(part, f"{param}[{j}]") for j, part in enumerate(content)))


def _part(part: TextPart | ImagePart | VideoPart, param: str) -> str | Medium:
    if isinstance(part, TextPart):
        return part.text
    if isinstance(part, ImagePart):
        return Medium("image", Reference(part.image_url.url), f"{param}.image_url", part.image_url.detail)
    return Medium("video", Reference(part.video_url.url), f"{param}.video_url")
