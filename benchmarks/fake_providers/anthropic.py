"""Anthropic's Messages API: `POST /v1/messages`.

Request and response follow https://platform.claude.com/docs/en/api/messages and the types of the official SDK, error
bodies https://platform.claude.com/docs/en/api/errors, streams
https://platform.claude.com/docs/en/build-with-claude/streaming.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.fake_providers.media import check_image
from benchmarks.fake_providers.server import KEY, Answer, FakeServer, Fault, Refusal, pieces

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_IMAGE_TOKENS = 100


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Text(_Fields):
    type: Literal["text"]
    text: str = Field(min_length=1)


class _Base64(_Fields):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class _Url(_Fields):
    type: Literal["url"]
    url: str = Field(pattern=r"^https://")


class _Image(_Fields):
    type: Literal["image"]
    source: Annotated[_Base64 | _Url, Field(discriminator="type")]


class _Message(_Fields):
    role: Literal["user", "assistant"]
    content: str | Annotated[list[Annotated[_Text | _Image, Field(discriminator="type")]], Field(min_length=1)]

    def parts(self) -> list[_Text | _Image]:
        return [_Text(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class _Tool(_Fields):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    input_schema: dict[str, Any]


class _ToolChoice(_Fields):
    type: Literal["tool"]
    name: str


class _Format(_Fields):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class _OutputConfig(_Fields):
    format: _Format | None = None


class _Body(_Fields):
    model: str
    max_tokens: int = Field(ge=1)
    messages: list[_Message] = Field(min_length=1)
    system: str | None = Field(None, min_length=1)
    stop_sequences: list[Annotated[str, Field(pattern=r"\S")]] | None = None
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    stream: bool = False
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    output_config: _OutputConfig | None = None


class FakeAnthropic(FakeServer):
    """See the module's text and `FakeServer`."""

    def __init__(self, answer: Answer = "A cat on a mat.", **options: Any) -> None:
        super().__init__(answer, **options)

    def routes(self, app: web.Application) -> None:
        """See `FakeServer.routes`."""
        app.router.add_post("/v1/messages", self.model_call(self._messages))

    def error(self, status: int, message: str) -> Any:
        """See `FakeServer.error`."""
        kind = _KINDS.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_fake"}

    async def _messages(self, request: web.Request, body: Any, fault: Fault | None) -> web.StreamResponse:
        # Version 2026-10-21 of the API has the key as a bearer token, earlier ones have x-api-key.
        given = request.headers.get("x-api-key") or request.headers.get("Authorization", "").removeprefix("Bearer ")
        if given != KEY:
            raise Refusal(401, self.error(401, f"invalid x-api-key {given}"))
        if not request.headers.get("anthropic-version"):
            raise self._refused("anthropic-version: header is required")
        fields = self._fields(body)
        self._check(fields)
        mode = None if fault is None else fault.mode
        if mode == "too_long":
            raise self._refused("prompt is too long: 208310 tokens > 200000 maximum")
        if mode == "refuse":  # a classifier stops the answer before it begins
            return await self._answer(request, fields, "", "refusal", fault)
        if mode == "refuse_answer":
            return await self._answer(request, fields, "I can't", "refusal", fault)
        text = "This is not JSON {" if mode == "invalid_output" else self.text_for(body)
        for stop in fields.stop_sequences or ():
            if stop in text:
                return await self._answer(request, fields, text.split(stop, 1)[0], "stop_sequence", fault)
        if len(pieces(text)) > fields.max_tokens:
            return await self._answer(request, fields, "".join(pieces(text)[: fields.max_tokens]), "max_tokens", fault)
        reason = "tool_use" if fields.tool_choice is not None else "end_turn"
        return await self._answer(request, fields, text, reason, fault)

    def _fields(self, body: Any) -> _Body:
        try:
            return _Body.model_validate(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise self._refused(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def _check(self, fields: _Body) -> None:
        if fields.temperature is not None and fields.top_p is not None:
            raise self._refused("`temperature` and `top_p` cannot both be specified for this model.")
        if fields.tool_choice is not None and fields.tool_choice.name not in [tool.name for tool in fields.tools or ()]:
            raise self._refused(f"Tool '{fields.tool_choice.name}' not found in provided tools")
        for tool in fields.tools or ():
            if tool.input_schema.get("type") != "object":
                raise self._refused("tools.0.custom.input_schema.type: Input should be 'object'")
        if fields.output_config is not None and fields.output_config.format is not None:
            problem = _open_object(fields.output_config.format.schema_)
            if problem:
                raise self._refused(f"output_config.format.schema: {problem}")
        for message in fields.messages:
            for part in message.parts():
                if isinstance(part, _Image) and isinstance(part.source, _Base64):
                    try:
                        check_image(part.source.media_type, part.source.data)
                    except ValueError as error:
                        raise self._refused(f"messages.0.content.0.image.source.base64: {error}") from None

    def _refused(self, message: str) -> Refusal:
        return Refusal(400, self.error(400, message))

    async def _answer(
        self, request: web.Request, fields: _Body, text: str, reason: str, fault: Fault | None
    ) -> web.StreamResponse:
        parts = [part for message in fields.messages for part in message.parts()]
        texts = sum(len(part.text) for part in parts if isinstance(part, _Text)) + len(fields.system or "")
        prompt = max(1, texts // 4) + _IMAGE_TOKENS * sum(isinstance(part, _Image) for part in parts)
        usage = {"input_tokens": prompt, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 20}
        usage["output_tokens"] = len(pieces(text))
        details = None
        if reason == "refusal":
            details = {"type": "refusal", "category": None, "explanation": "This request was declined."}
        ending = {"stop_reason": reason, "stop_sequence": None, "stop_details": details}
        head = {"id": "msg_fake", "type": "message", "role": "assistant", "model": fields.model}
        as_tool = fields.tool_choice is not None and reason == "tool_use"
        if fields.stream:
            return await self.send_events(request, _events(head, text, as_tool, ending, usage), fault)
        block: dict[str, Any] = {"type": "text", "text": text}
        if as_tool:
            block = {"type": "tool_use", "id": "toolu_fake", "name": "answer", "input": _loaded(text)}
        return await self.send(request, {**head, "content": [block] if text else [], **ending, "usage": usage}, fault)


def _events(
    head: dict[str, Any], text: str, as_tool: bool, ending: dict[str, Any], usage: dict[str, int]
) -> list[bytes]:
    start = {"input_tokens": usage["input_tokens"], "cache_read_input_tokens": 20, "output_tokens": 1}
    nothing = {"stop_reason": None, "stop_sequence": None}
    block = (
        {"type": "tool_use", "id": "toolu_fake", "name": "answer", "input": {}}
        if as_tool
        else {"type": "text", "text": ""}
    )
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**head, "content": [], **nothing, "usage": start}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "ping"},
    ]
    for piece in pieces(text):
        delta = (
            {"type": "input_json_delta", "partial_json": piece} if as_tool else {"type": "text_delta", "text": piece}
        )
        events.append({"type": "content_block_delta", "index": 0, "delta": delta})
    events += [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ending, "usage": {"output_tokens": usage["output_tokens"]}},
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\n".encode() + b"data: " + orjson.dumps(event) + b"\n\n" for event in events]


def _loaded(text: str) -> Any:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {"said": text}
    return value if isinstance(value, dict) else {"said": text}


def _open_object(schema: Any) -> str | None:
    """What is wrong with the first object that allows further properties."""
    if isinstance(schema, dict):
        if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
            return "For 'object' type, 'additionalProperties' must be explicitly set to false"
        schema = list(schema.values())
    if isinstance(schema, list):
        return next((problem for part in schema if (problem := _open_object(part))), None)
    return None
