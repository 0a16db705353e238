"""Anthropic's Messages API (https://platform.claude.com/docs/en/api/messages)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import anthropic
import orjson

from deployments.generation.messages import Answer, ChatEvent, ChatRequest, FinishReason
from serve.errors import ArgusError, Unsupported
from serve.providers import faults, output, tokens
from serve.providers.hosted import Conversation, Counted, HostedProvider, Reply, SentMessage, http_client
from serve.providers.images import SentImage

_ADDRESS = "https://api.anthropic.com"
_TOOL = "answer"
# Status of each type of error, which within a stream is all that is said (docs: "Errors").
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class AnthropicProvider(HostedProvider):
    """See the module's text. Seeds are not offered by the API and are left out; several answers are several calls."""

    async def close(self) -> None:
        """See `Provider.close`."""
        if self._client is not None:
            await self._client.close()

    def chat_stream(self, request: ChatRequest, timeout_s: float) -> AsyncGenerator[Any, None]:
        """See `Provider.chat_stream`."""
        if request.sampling.n != 1:
            raise Unsupported(f"{self.name} streams one answer.", code="unsupported_parameter", param="n")
        return super().chat_stream(request, timeout_s)

    async def _ask(self, conversation: Conversation, timeout_s: float) -> Reply:
        calls = [asyncio.ensure_future(self._once(conversation, timeout_s)) for _ in range(conversation.sampling.n)]
        try:
            replies = await asyncio.gather(*calls)
        finally:
            for call in calls:
                call.cancel()
        counts = [reply.counted for reply in replies]
        total = Counted(
            sum(count.prompt or 0 for count in counts),
            sum(count.completion or 0 for count in counts),
            sum(count.cached for count in counts),
        )
        return Reply(tuple(answer for reply in replies for answer in reply.answers), total)

    async def _once(self, conversation: Conversation, timeout_s: float) -> Reply:
        message = await self._create(conversation, timeout_s)
        answer = Answer(_text(message.content), (), (), self._reason(message.stop_reason, message.stop_details))
        return Reply((answer,), _counted(message.usage))

    async def _stream(self, conversation: Conversation, timeout_s: float) -> AsyncGenerator[ChatEvent | Counted, None]:
        events = await self._create(conversation, timeout_s, stream=True)
        counted, reason = Counted(), None
        async with events:
            async for event in events:
                if event.type == "message_start":
                    counted = _counted(event.message.usage)
                elif event.type == "content_block_delta":
                    text = _delta(event.delta)
                    if text:
                        yield ChatEvent(0, text)
                elif event.type == "message_delta":
                    reason = self._reason(event.delta.stop_reason, event.delta.stop_details)
                    counted = Counted(counted.prompt, event.usage.output_tokens, counted.cached)
                elif event.type == "message_stop" and reason is not None:
                    yield counted
                    yield ChatEvent(0, "", finish_reason=reason)

    def _image_tokens(self, width: int, height: int, detail: tokens.Detail) -> int:
        return tokens.anthropic_image_tokens(width, height, self._settings.model)

    def _said(self, error: Exception) -> ArgusError | None:
        if isinstance(error, anthropic.APITimeoutError):
            return self._late()
        if isinstance(error, anthropic.APIConnectionError):
            return faults.lost(self.name)
        if isinstance(error, anthropic.APIResponseValidationError):
            return faults.unreadable(self.name)
        if isinstance(error, anthropic.APIStatusError):
            body = error.body if isinstance(error.body, dict) else {}
            inner = body.get("error")
            said = inner if isinstance(inner, dict) else {}
            kind = str(said.get("type") or "")
            status = error.status_code if error.status_code >= 400 else _STATUS.get(kind, 500)
            wait = faults.retry_after_s(error.response.headers, now=time.time())
            message = self._secret.hide_in(str(said.get("message") or ""))
            return faults.error_of(self.name, status, message, code=kind, retry_after=wait)
        return None

    async def _create(self, conversation: Conversation, timeout_s: float, **more: Any) -> Any:
        client = await self._connected()
        return await client.messages.create(**self._body(conversation), timeout=timeout_s, **more)

    def _new_client(self, secret: faults.Secret) -> anthropic.AsyncAnthropic:
        address = self._settings.base_url or _ADDRESS
        return anthropic.AsyncAnthropic(
            api_key=secret.reveal(),
            base_url=address,
            max_retries=0,
            http_client=http_client(address, propagates=self.propagates),
        )

    def _body(self, conversation: Conversation) -> dict[str, Any]:
        settings, sampling = self._settings, conversation.sampling
        body: dict[str, Any] = {"model": settings.model, "max_tokens": sampling.max_tokens or settings.max_tokens}
        if sampling.constraint is not None:
            conversation, wanted = self._json(conversation)
            body |= wanted
        if system := conversation.system:
            body["system"] = system
        if sampling.stop:
            body["stop_sequences"] = list(sampling.stop)
        if settings.sends_sampling:
            # The models that take these take one of them; the SDK has no name for them any more.
            if sampling.temperature != 1:
                body["extra_body"] = {"temperature": min(1.0, sampling.temperature)}
            elif sampling.top_p != 1:
                body["extra_body"] = {"top_p": sampling.top_p}
        return body | {"messages": [_message(message) for message in conversation.turns]}

    def _json(self, conversation: Conversation) -> tuple[Conversation, dict[str, Any]]:
        """The conversation and the fields that make the answer JSON.

        Structured outputs want every object closed, a tool wants an object; what fits neither is asked for in words.
        """
        constraint, way = conversation.sampling.constraint, self._settings.json_output
        assert constraint is not None, "only called with one"
        schema = output.schema_of(constraint)
        if schema is not None and way == "schema" and output.is_closed(schema):
            return conversation, {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
        if way == "tool" and (schema is None or schema.get("type") == "object"):
            tool = {
                "name": _TOOL,
                "description": "Gives the answer.",
                "input_schema": schema or {"type": "object"},
            }
            return conversation, {"tools": [tool], "tool_choice": {"type": "tool", "name": _TOOL}}
        return conversation.told(output.instruction(constraint)), {}

    def _reason(self, given: str | None, details: Any) -> FinishReason:
        if given == "refusal":
            why = getattr(details, "explanation", None) or "the model declined to answer"
            raise faults.refused(self.name, self._secret.hide_in(why))
        return "length" if given in ("max_tokens", "model_context_window_exceeded") else "stop"


def _message(message: SentMessage) -> dict[str, Any]:
    if message.role == "assistant":
        return {"role": "assistant", "content": message.text}
    return {"role": "user", "content": [_part(part) for part in message.parts]}


def _part(part: object) -> dict[str, Any]:
    if isinstance(part, SentImage):
        source = {"type": "base64", "media_type": part.media_type, "data": part.base64}
        return {"type": "image", "source": source}
    return {"type": "text", "text": part}


def _text(content: Any) -> str:
    """The text of an answer, or the input of the tool that stands for it."""
    for block in content:
        if block.type == "tool_use":
            return orjson.dumps(block.input).decode()
    return "".join(block.text for block in content if block.type == "text")


def _delta(delta: Any) -> str:
    if delta.type == "text_delta":
        return str(delta.text)
    return str(delta.partial_json) if delta.type == "input_json_delta" else ""


def _counted(usage: Any) -> Counted:
    """Anthropic counts what its cache held, or now holds, apart from `input_tokens`."""
    cached = usage.cache_read_input_tokens or 0
    prompt = usage.input_tokens + cached + (usage.cache_creation_input_tokens or 0)
    return Counted(prompt, usage.output_tokens, cached)
