"""OpenAI's Chat Completions, and every server that copies them (https://platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

import openai

from deployments.generation.messages import Answer, ChatEvent, FinishReason, TokenLogprob
from serve.errors import ArgusError
from serve.providers import faults, output, tokens
from serve.providers.hosted import Conversation, Counted, HostedProvider, Reply, SentMessage, http_client
from serve.providers.images import SentImage

_ADDRESS = "https://api.openai.com/v1"
# Types of errors that come within a stream, whose status has long been sent.
_STREAM_STATUS = {"rate_limit_exceeded": 429, "invalid_request_error": 400, "invalid_api_key": 401}


class OpenAIProvider(HostedProvider):
    """See the module's text."""

    async def close(self) -> None:
        """See `Provider.close`."""
        if self._client is not None:
            await self._client.close()

    async def _ask(self, conversation: Conversation, timeout_s: float) -> Reply:
        completion = await self._create(conversation, timeout_s)
        choices = sorted(completion.choices, key=lambda choice: choice.index)
        if not choices:
            raise ValueError("no choices")
        return Reply(tuple(self._answer(choice) for choice in choices), _counted(completion.usage))

    async def _stream(self, conversation: Conversation, timeout_s: float) -> AsyncGenerator[ChatEvent | Counted, None]:
        chunks = await self._create(conversation, timeout_s, stream=True, stream_options={"include_usage": True})
        async with chunks:
            async for chunk in chunks:
                for choice in chunk.choices or ():
                    if choice.delta.refusal:
                        raise faults.refused(self.name, choice.delta.refusal)
                    yield ChatEvent(
                        choice.index,
                        choice.delta.content or "",
                        logprobs=_logprobs(choice.logprobs),
                        finish_reason=self._reason(choice.finish_reason) if choice.finish_reason else None,
                    )
                if chunk.usage is not None:
                    yield _counted(chunk.usage)

    def _image_tokens(self, width: int, height: int, detail: tokens.Detail) -> int:
        return tokens.openai_image_tokens(width, height, detail, self._settings.model)

    def _said(self, error: Exception) -> ArgusError | None:
        if isinstance(error, openai.APITimeoutError):
            return self._late()
        if isinstance(error, openai.APIConnectionError):
            return faults.lost(self.name)
        if isinstance(error, openai.APIStatusError):
            wait = faults.retry_after_s(error.response.headers, now=time.time())
            return self._refusal(error, error.status_code, wait)
        if isinstance(error, openai.APIResponseValidationError):
            return faults.unreadable(self.name)
        if isinstance(error, openai.APIError):  # within a stream
            return self._refusal(error, _STREAM_STATUS.get(error.code or error.type or "", 500), None)
        return None

    def _refusal(self, error: openai.APIError, status: int, wait: float | None) -> ArgusError:
        body = error.body if isinstance(error.body, dict) else {}
        message = self._secret.hide_in(str(body.get("message") or ""))
        code = error.code or error.type
        return faults.error_of(self.name, status, message, code=code, retry_after=wait)

    async def _create(self, conversation: Conversation, timeout_s: float, **more: Any) -> Any:
        client = await self._connected()
        return await client.chat.completions.create(**self._body(conversation), timeout=timeout_s, **more)

    def _new_client(self, secret: faults.Secret) -> openai.AsyncOpenAI:
        address = self._settings.base_url or _ADDRESS
        return openai.AsyncOpenAI(
            api_key=secret.reveal(),
            base_url=address,
            max_retries=0,
            http_client=http_client(address, propagates=self.propagates),
        )

    def _body(self, conversation: Conversation) -> dict[str, Any]:
        settings, sampling = self._settings, conversation.sampling
        body: dict[str, Any] = {
            "model": settings.model,
            settings.limit_name: sampling.max_tokens or settings.max_tokens,
        }
        if settings.sends_sampling:
            body["temperature"] = sampling.temperature
            if sampling.top_p != 1:
                body["top_p"] = sampling.top_p
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.n != 1:
            body["n"] = sampling.n
        if sampling.logprobs is not None:
            body["logprobs"] = True
            if sampling.logprobs:
                body["top_logprobs"] = sampling.logprobs
        if sampling.constraint is not None:
            conversation, wanted = self._json(conversation)
            body |= wanted
        return body | {"messages": [_message(message) for message in conversation.messages]}

    def _json(self, conversation: Conversation) -> tuple[Conversation, dict[str, Any]]:
        """The conversation and the field that make the answer JSON."""
        constraint = conversation.sampling.constraint
        assert constraint is not None, "only called with one"
        if self._settings.json_output == "prompt":
            return conversation.told(output.instruction(constraint)), {}
        schema = output.schema_of(constraint)
        if schema is not None:
            named = {"name": "answer", "schema": schema, "strict": output.is_strict(schema)}
            return conversation, {"response_format": {"type": "json_schema", "json_schema": named}}
        if not any("json" in message.text.lower() for message in conversation.messages):  # the API insists on the word
            conversation = conversation.told(output.instruction(constraint))
        return conversation, {"response_format": {"type": "json_object"}}

    def _answer(self, choice: Any) -> Answer:
        if choice.message.refusal:
            raise faults.refused(self.name, choice.message.refusal)
        reason = self._reason(choice.finish_reason)
        return Answer(choice.message.content or "", (), _logprobs(choice.logprobs), reason)

    def _reason(self, given: str) -> FinishReason:
        if given == "content_filter":
            raise faults.refused(self.name, "a filter stopped the answer")
        return "length" if given == "length" else "stop"


def _message(message: SentMessage) -> dict[str, Any]:
    if message.role != "user":
        return {"role": message.role, "content": message.text}
    if all(isinstance(part, str) for part in message.parts) and len(message.parts) == 1:
        return {"role": "user", "content": message.text}
    return {"role": "user", "content": [_part(part) for part in message.parts]}


def _part(part: object) -> dict[str, Any]:
    if isinstance(part, SentImage):
        url = f"data:{part.media_type};base64,{part.base64}"
        return {"type": "image_url", "image_url": {"url": url, "detail": part.detail}}
    return {"type": "text", "text": part}


def _logprobs(given: Any) -> tuple[TokenLogprob, ...]:
    if given is None or given.content is None:
        return ()
    return tuple(_logprob(one, tuple(map(_logprob, one.top_logprobs or ()))) for one in given.content)


def _logprob(given: Any, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    return TokenLogprob(given.token, given.logprob, top, None if given.bytes is None else bytes(given.bytes))


def _counted(usage: Any) -> Counted:
    if usage is None:
        return Counted()
    details = usage.prompt_tokens_details
    cached = (details.cached_tokens or 0) if details is not None else 0
    return Counted(usage.prompt_tokens, usage.completion_tokens, cached)
