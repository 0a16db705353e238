"""Chat as tensors: the same conversations as `/v1/chat/completions`, whole or token by token.

`MESSAGES` holds the conversation as OpenAI's JSON; for one turn `TEXT`, `IMAGE` and `VIDEO` are simpler. Streams follow
Triton's decoupled models: many responses to a request, the last one marked (`triton_final_response`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson

from deployments.generation.messages import ChatResult, Detail, TokenLogprob
from serve.chat import ChatService, Medium, Prepared, Turn
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidRequest
from serve.protocol.bodies import Fields, validate
from serve.protocol.chat import finish_word, logprobs_content
from serve.protocol.chat_bodies import ChatFields, chat_fields, sampling, turns
from serve.protocol.oip_inputs import check_names, files, texts
from serve.protocol.tensors import InferRequest, ModelSpec, Tensor, TensorSpec, int_tensor, text_tensor

_INPUTS = ("MESSAGES", "TEXT", "IMAGE", "VIDEO")
# Parameters of the request under OpenAI's names; `response_format` and a list in `stop` are JSON texts here.
_NUMBERS = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "seed", "logprobs", "top_logprobs")
_TEXTS = ("stop", "response_format")
# Of IMAGE, since there is no place for it beside the bytes; see `chat_bodies.MediaUrl`.
_DETAIL = "detail"
_PLACEHOLDER = [{"role": "user", "content": "-"}]

Outputs = dict[str, Tensor]


class _DetailFields(Fields):
    detail: Detail


class ChatFunction:
    """`NAME.chat`."""

    def __init__(self, chat: ChatService) -> None:
        self._chat = chat

    def spec(self, name: str) -> ModelSpec:
        """Metadata. `MESSAGES` and the other inputs are alternatives."""
        inputs = tuple(TensorSpec(one, "BYTES", (-1,)) for one in _INPUTS)
        outputs = (
            TensorSpec("TEXT", "BYTES", (-1,)),
            TensorSpec("FINISH_REASON", "BYTES", (-1,)),
            TensorSpec("INDEX", "INT32", (-1,)),
            TensorSpec("PROMPT_TOKENS", "INT32", (1,)),
            TensorSpec("COMPLETION_TOKENS", "INT32", (1,)),
            TensorSpec("CACHED_TOKENS", "INT32", (1,)),
            TensorSpec("LOGPROBS", "BYTES", (-1,)),
        )
        return ModelSpec(name, "argus", inputs, outputs)

    async def infer(self, model: str, request: InferRequest, context: RequestContext) -> Outputs:
        """All answers at once."""
        prepared = await self._prepare(model, request, context)
        result: ChatResult = await self._chat.complete(prepared, context)
        return _outputs(
            [
                _Piece(answer.text, finish_word(answer.finish_reason), index, answer.logprobs)
                for index, answer in enumerate(result.answers)
            ],
            (result.prompt_tokens, result.completion_tokens, result.cached_tokens),
            prepared,
        )

    async def stream(
        self, model: str, request: InferRequest, context: RequestContext
    ) -> AsyncGenerator[tuple[Outputs, bool], None]:
        """What each event brought, with the tokens so far; FINISH_REASON is empty until an answer's last one."""
        prepared = await self._prepare(model, request, context)
        open_answers, tokens = prepared.request.sampling.n, 0
        async with aclosing(self._chat.stream(prepared, context)) as events:
            async for event in events:
                tokens = tokens + len(event.token_ids) if event.written is None else event.written
                open_answers -= event.finish_reason is not None
                finish = "" if event.finish_reason is None else finish_word(event.finish_reason)
                piece = _Piece(event.text, finish, event.index, event.logprobs)
                yield _outputs([piece], (event.prompt_tokens, tokens, event.cached_tokens), prepared), open_answers == 0

    async def _prepare(self, model: str, request: InferRequest, context: RequestContext) -> Prepared:
        check_names(request, _INPUTS, (*_NUMBERS, *_TEXTS, _DETAIL))
        fields = _fields(request)
        conversation = _one_turn(request) if "MESSAGES" not in request.inputs else turns(fields.messages)
        return await self._chat.prepare(conversation, sampling(fields), context, model)


@dataclass(frozen=True, slots=True)
class _Piece:
    """An answer, or what it gained."""

    text: str
    finish_reason: str
    index: int
    logprobs: tuple[TokenLogprob, ...]


def _outputs(pieces: list[_Piece], counts: tuple[int, int, int], prepared: Prepared) -> Outputs:
    """The tensors of these pieces.

    Args:
        counts: tokens of the prompt, of all answers so far, and of the prompt in the engine's cache.
    """
    tensors = [
        text_tensor("TEXT", [piece.text for piece in pieces]),
        text_tensor("FINISH_REASON", [piece.finish_reason for piece in pieces]),
        int_tensor("INDEX", [piece.index for piece in pieces]),
        *(
            int_tensor(f"{name}_TOKENS", [n])
            for name, n in zip(("PROMPT", "COMPLETION", "CACHED"), counts, strict=True)
        ),
    ]
    if prepared.request.sampling.logprobs is not None:
        told = [orjson.dumps(logprobs_content(piece.logprobs)).decode() for piece in pieces]
        tensors.append(text_tensor("LOGPROBS", told))
    return {tensor.name: tensor for tensor in tensors}


def _fields(request: InferRequest) -> ChatFields:
    """OpenAI's request, put together from the parameters and MESSAGES, so that one check holds for both protocols."""
    body: dict[str, Any] = {"messages": _PLACEHOLDER}
    for name, value in request.parameters.items():
        if name in _NUMBERS:
            body[name] = _number(name, value)
        elif name in _TEXTS:
            body[name] = _loaded(name, value) if name == "response_format" else _stop(value)
    if "MESSAGES" in request.inputs:
        if extra := [name for name in request.inputs if name != "MESSAGES"]:
            raise InvalidRequest(f"{extra[0]} cannot stand beside MESSAGES.", code="invalid_field", param=extra[0])
        body["messages"] = _loaded("MESSAGES", _only(texts(request, "MESSAGES"), "MESSAGES"))
    try:
        return chat_fields(body)
    except ArgusError as error:
        where = error.param or ""
        raise error.at("MESSAGES" + where[len("messages") :] if where.startswith("messages") else where) from None


def _stop(value: Any) -> Any:
    """A JSON array of texts is a list of them; every other text is itself, one that begins with a bracket too."""
    if not isinstance(value, str):
        return value
    try:
        read = orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
    return read if isinstance(read, list) and all(isinstance(text, str) for text in read) else value


def _number(name: str, value: Any) -> Any:
    """Older clients can send texts, numbers and booleans only as integers or strings."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        raise InvalidRequest(f"Parameter {name!r} must be a number.", code="invalid_parameter", param=name) from None


def _loaded(name: str, text: Any) -> Any:
    try:
        return orjson.loads(text)
    except (orjson.JSONDecodeError, TypeError) as error:
        raise InvalidRequest(f"{name} is not JSON: {error}.", code="invalid_json", param=name) from None


def _only(items: list[str], name: str) -> str:
    if len(items) != 1:
        raise InvalidRequest(f"{name} must hold one element, not {len(items)}.", code="invalid_shape", param=name)
    return items[0]


def _one_turn(request: InferRequest) -> list[Turn]:
    media: list[str | Medium] = []
    detail = validate({"detail": request.parameters.get(_DETAIL, "auto")}, _DetailFields).detail
    if "IMAGE" in request.inputs:
        media += [Medium("image", one, f"IMAGE[{i}]", detail) for i, one in enumerate(files(request, "IMAGE"))]
    if "VIDEO" in request.inputs:
        media += [Medium("video", one, f"VIDEO[{i}]") for i, one in enumerate(files(request, "VIDEO"))]
    if "TEXT" in request.inputs:
        media.append(_only(texts(request, "TEXT"), "TEXT"))
    if not media:
        raise InvalidRequest("Send MESSAGES, or TEXT with IMAGE or VIDEO.", code="missing_input", param="MESSAGES")
    return [Turn("user", tuple(media))]
