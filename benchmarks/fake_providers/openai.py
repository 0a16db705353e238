"""An OpenAI-compatible server: `POST /v1/chat/completions`.

Request and response follow https://platform.openai.com/docs/api-reference/chat and the types of the official SDK; error
bodies and codes follow https://platform.openai.com/docs/guides/error-codes. Fields that the API does not know are
refused as it refuses them.
"""

from __future__ import annotations

import math
import time
from typing import Any

import orjson
from aiohttp import web
from pydantic import ValidationError

from benchmarks.fake_providers.media import check_data_uri
from benchmarks.fake_providers.openai_fields import ChatBody, JsonObject, JsonSchema, strict_problem
from benchmarks.fake_providers.server import KEY, Answer, FakeServer, Fault, Refusal, pieces

# Models that reason take neither max_tokens nor a temperature other than 1.
_REASONING = ("o1", "o3", "o4", "gpt-5")


class FakeOpenAI(FakeServer):
    """See the module's text and `FakeServer`.

    Args:
        models: names that it serves; None serves any.
        context_tokens: of the window; a longer prompt is refused.
    """

    def __init__(
        self,
        answer: Answer = "A cat on a mat.",
        *,
        models: frozenset[str] | None = None,
        context_tokens: int = 128_000,
        **options: Any,
    ) -> None:
        super().__init__(answer, **options)
        self.models = models
        self.context_tokens = context_tokens

    @property
    def base_url(self) -> str:
        """With the version, as the SDK wants it."""
        return f"http://{self.host}/v1"

    def routes(self, app: web.Application) -> None:
        """See `FakeServer.routes`."""
        app.router.add_post("/v1/chat/completions", self.model_call(self._chat))

    def error(self, status: int, message: str) -> Any:
        """See `FakeServer.error`."""
        kind = {401: "invalid_request_error", 403: "invalid_request_error", 429: "requests"}.get(status, "server_error")
        code = {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(status)
        return _error(message, kind, code)

    async def _chat(self, request: web.Request, body: Any, fault: Fault | None) -> web.StreamResponse:
        _check_key(request)
        fields = _fields(body)
        self._check(fields)
        mode = None if fault is None else fault.mode
        prompt_tokens = _prompt_tokens(fields)
        if mode == "too_long" or prompt_tokens > self.context_tokens:
            raise _refused(
                f"This model's maximum context length is {self.context_tokens} tokens.",
                "context_length_exceeded",
                "messages",
            )
        if mode == "refuse":  # https://learn.microsoft.com/azure/ai-services/openai/concepts/content-filter
            raise _refused("The response was filtered due to the prompt triggering policy.", "content_filter", "prompt")
        text = "This is not JSON {" if mode == "invalid_output" else self.text_for(body)
        answers = [_Finished(text, fields, mode == "refuse_answer") for _ in range(fields.n or 1)]
        usage = _usage(prompt_tokens, sum(len(answer.tokens) for answer in answers))
        if fields.stream:
            return await self.send_events(request, _events(fields, answers, usage), fault)
        return await self.send(request, _completion(fields, answers, usage), fault)

    def _check(self, fields: ChatBody) -> None:
        if self.models is not None and fields.model not in self.models:
            raise Refusal(
                404,
                _error(f"The model `{fields.model}` does not exist.", "invalid_request_error", "model_not_found"),
            )
        if fields.model.startswith(_REASONING):
            if fields.max_tokens is not None:
                raise _refused(
                    "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                    "'max_completion_tokens' instead.",
                    "unsupported_parameter",
                    "max_tokens",
                )
            if fields.temperature not in (None, 1):
                raise _refused("Unsupported value: 'temperature'.", "unsupported_value", "temperature")
        texts = " ".join(text for message in fields.messages for text in message.texts())
        if isinstance(fields.response_format, JsonObject) and "json" not in texts.lower():
            raise _refused("'messages' must contain the word 'json' in some form.", None, "messages")
        if isinstance(fields.response_format, JsonSchema):
            schema = fields.response_format.json_schema
            problem = strict_problem(schema.schema_ or {}) if schema.strict else None
            if problem:
                raise _refused(f"Invalid schema for response_format: {problem}", None, "response_format")
        for message in fields.messages:
            for image in message.images():
                if image.url.startswith("data:"):
                    try:
                        check_data_uri(image.url)
                    except ValueError as error:
                        raise _refused(str(error), "invalid_image_format", "messages") from None


class _Finished:
    """One answer as it will be sent."""

    def __init__(self, text: str, fields: ChatBody, refused: bool) -> None:
        most = fields.max_completion_tokens or fields.max_tokens
        for stop in [fields.stop] if isinstance(fields.stop, str) else fields.stop or []:
            text = text.split(stop, 1)[0]
        tokens = pieces(text)
        self.refused = refused
        self.reason = "length" if most is not None and len(tokens) > most else "stop"
        self.tokens = ["I'm sorry, ", "I can't help with that."] if refused else tokens[:most]
        self.text = "".join(self.tokens)
        self._top = fields.top_logprobs or 0
        self._wants = bool(fields.logprobs)

    def logprobs(self, tokens: list[str]) -> Any:
        """The `logprobs` object for some of its tokens."""
        if not self._wants:
            return None
        return {"content": [self._logprob(token) for token in tokens], "refusal": None}

    def _logprob(self, token: str) -> dict[str, Any]:
        one = {"token": token, "logprob": math.log(0.9), "bytes": list(token.encode())}
        others = [{"token": f"~{i}", "logprob": math.log(0.1) - i, "bytes": None} for i in range(self._top)]
        return {**one, "top_logprobs": [one, *others][: self._top]}


def _completion(fields: ChatBody, answers: list[_Finished], usage: dict[str, Any]) -> dict[str, Any]:
    choices = []
    for index, answer in enumerate(answers):
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if answer.refused else answer.text,
            "refusal": answer.text if answer.refused else None,
            "annotations": [],
        }
        choices.append(
            {
                "index": index,
                "message": message,
                "logprobs": answer.logprobs(answer.tokens),
                "finish_reason": answer.reason,
            }
        )
    return {**_head(fields, "chat.completion"), "choices": choices, "usage": usage}


def _events(fields: ChatBody, answers: list[_Finished], usage: dict[str, Any]) -> list[bytes]:
    head = _head(fields, "chat.completion.chunk")
    wants_usage = fields.stream_options is not None and fields.stream_options.include_usage
    rest = {"usage": None} if wants_usage else {}
    chunks = []
    for index, answer in enumerate(answers):
        deltas: list[tuple[dict[str, Any], Any, str | None]] = [({"role": "assistant", "content": ""}, None, None)]
        key = "refusal" if answer.refused else "content"
        deltas += [({key: token}, answer.logprobs([token]), None) for token in answer.tokens]
        deltas.append(({}, None, answer.reason))
        chunks += [
            {
                **head,
                "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}],
                **rest,
            }
            for delta, logprobs, reason in deltas
        ]
    if wants_usage:
        chunks.append({**head, "choices": [], "usage": usage})
    return [b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks] + [b"data: [DONE]\n\n"]


def _head(fields: ChatBody, kind: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-fake",
        "object": kind,
        "created": int(time.time()),
        "model": fields.model,
        "service_tier": "default",
        "system_fingerprint": "fp_fake",
    }


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": prompt_tokens // 2, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _prompt_tokens(fields: ChatBody) -> int:
    """Four characters a token, 85 an image: enough for a fake to count with."""
    texts = sum(len(text) for message in fields.messages for text in message.texts())
    return max(1, texts // 4) + 85 * sum(len(message.images()) for message in fields.messages)


def _check_key(request: web.Request) -> None:
    given = request.headers.get("Authorization", "")
    if given != f"Bearer {KEY}":
        # The real API repeats a part of the key, this one all of it: whoever passes messages on must be seen to leak.
        message = f"Incorrect API key provided: {given.removeprefix('Bearer ')}."
        raise Refusal(401, _error(message, "invalid_request_error", "invalid_api_key"))


def _fields(body: Any) -> ChatBody:
    try:
        return ChatBody.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _refused(f"{where}: {first['msg']}", None, where) from None


def _refused(message: str, code: str | None, param: str | None) -> Refusal:
    return Refusal(400, _error(message, "invalid_request_error", code, param))


def _error(message: str, kind: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
