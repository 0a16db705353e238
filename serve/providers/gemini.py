"""Google's Gemini API (https://ai.google.dev/api/generate-content), through google-genai.

Besides chat it offers what Gemini has of its own: `detect` gives boxes, `moments` gives times in a video.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpx2
import orjson
from google import genai
from google.genai import errors, types

from deployments.generation.messages import (
    Answer,
    ChatEvent,
    ChatRequest,
    Constraint,
    FinishReason,
    ImagePart,
    Message,
    Sampling,
    Text,
    TokenLogprob,
    VideoPart,
)
from serve.calls import Usage
from serve.config.providers import Provider as Settings
from serve.errors import ArgusError, InvalidOutput
from serve.providers import faults, grounding, output, tokens
from serve.providers.gemini_files import GeminiFiles
from serve.providers.grounding import Box, Moment
from serve.providers.hosted import Conversation, Counted, HostedProvider, Reply, SentMessage, SentPart, http_client
from serve.providers.images import SentImage, size_of
from serve.providers.prices import Price
from serve.providers.video import duration_s, video_type

_ADDRESS = "https://generativelanguage.googleapis.com"
_LENGTH = frozenset({"MAX_TOKENS", "CONTINUATION"})
# https://ai.google.dev/api/generate-content#FinishReason: what stopped for its content.
_REFUSED = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "ESCALATION",
        "MODEL_ARMOR",
    }
)

_OPENED: ContextVar[list[httpx2.Response] | None] = ContextVar("argus_gemini_opened", default=None)


class GeminiProvider(HostedProvider):
    """See the module's text."""

    takes_videos = True

    def __init__(self, name: str, settings: Settings, price: Price) -> None:
        super().__init__(name, settings, price)
        self._files: GeminiFiles | None = None

    async def detect(self, image: ImagePart, what: str, timeout_s: float) -> tuple[tuple[Box, ...], Usage]:
        """Boxes around what `what` describes, in pixels of the image as it was given.

        Raises:
            InvalidOutput: the model's boxes cannot be read.
        """
        prompt = (Text(grounding.detection_prompt(what)), image)
        text, usage = await self._grounded(prompt, grounding.BOX_SCHEMA, timeout_s)
        return grounding.boxes(text, size_of(image.image)), usage

    async def moments(self, video: VideoPart, what: str, timeout_s: float) -> tuple[tuple[Moment, ...], Usage]:
        """When in a video `what` happens, in seconds from its start.

        Raises:
            InvalidOutput: the model's times cannot be read.
        """
        text, usage = await self._grounded(
            (video, Text(grounding.moments_prompt(what))), grounding.MOMENT_SCHEMA, timeout_s
        )
        return grounding.moments(text), usage

    async def close(self) -> None:
        """See `Provider.close`; waits for files that are still being deleted."""
        if self._files is not None:
            await self._files.close()
        if self._client is not None:
            await self._client.aio.aclose()
            self._client.close()

    async def _grounded(
        self, parts: tuple[Text | ImagePart | VideoPart, ...], schema: dict[str, Any], timeout_s: float
    ) -> tuple[str, Usage]:
        sampling = Sampling(temperature=0.0, constraint=Constraint(orjson.dumps(schema).decode()))
        answer = await self.chat(ChatRequest((Message("user", parts),), sampling), timeout_s)
        return answer.result.answers[0].text, answer.usage

    async def _ask(self, conversation: Conversation, timeout_s: float) -> Reply:
        client = await self._connected()
        models = client.aio.models
        async with self._uploads(client).kept() as files:
            response = await models.generate_content(
                model=self._settings.model,
                contents=[await self._content(message, files) for message in conversation.turns],
                config=self._config(conversation),
            )
        self._check_prompt(response)
        candidates = sorted(response.candidates or (), key=lambda one: one.index or 0)
        if not candidates:
            raise ValueError("no candidates")
        return Reply(tuple(self._answer(one) for one in candidates), _counted(response.usage_metadata))

    async def _stream(self, conversation: Conversation, timeout_s: float) -> AsyncGenerator[ChatEvent | Counted, None]:
        client = await self._connected()
        models = client.aio.models
        async with self._uploads(client).kept() as files:
            opened: list[httpx2.Response] = []
            try:
                with _opening(opened):
                    responses: Any = await models.generate_content_stream(
                        model=self._settings.model,
                        contents=[await self._content(message, files) for message in conversation.turns],
                        config=self._config(conversation),
                    )
                while True:
                    with _opening(opened):
                        response = await anext(responses, None)
                    if response is None:
                        break
                    self._check_prompt(response)
                    if response.usage_metadata is not None:
                        yield _counted(response.usage_metadata)
                    for one in response.candidates or ():
                        reason = self._reason(one) if one.finish_reason else None
                        yield ChatEvent(one.index or 0, _text(one), logprobs=_logprobs(one), finish_reason=reason)
            finally:
                for one in opened:
                    await one.aclose()

    def _image_tokens(self, width: int, height: int, detail: tokens.Detail) -> int:
        return tokens.gemini_image_tokens(width, height)

    def _video_tokens(self, data: bytes) -> int:
        return tokens.gemini_video_tokens(duration_s(data), self._settings.gemini.video_fps or 1.0)

    def _said(self, error: Exception) -> ArgusError | None:
        if isinstance(error, errors.APIError):
            details = _details(error)
            headers = getattr(error.response, "headers", None) or {}
            wait = faults.retry_after_s(headers, now=time.time())
            if wait is None:
                wait = next(
                    (w for w in (faults.duration_s(d.get("retryDelay")) for d in details) if w is not None), None
                )
            reasons = {str(detail.get("reason")) for detail in details}
            # A key that it does not know is a 400 here: https://ai.google.dev/gemini-api/docs/troubleshooting
            status = 401 if "API_KEY_INVALID" in reasons else int(error.code or 500)
            message = self._secret.hide_in(str(error.message or ""))
            return faults.error_of(self.name, status, message, code=error.status, retry_after=wait)
        return None

    def _new_client(self, secret: faults.Secret) -> genai.Client:
        address = self._settings.base_url or _ADDRESS
        # An httpx client of ours keeps the SDK from aiohttp, with which it repeats lost requests by itself.
        client = http_client(address, propagates=self.propagates)
        client.event_hooks["response"] = [_note_opened]
        options = types.HttpOptions(base_url=address, httpx_async_client=client)
        return genai.Client(api_key=secret.reveal(), vertexai=False, http_options=options)

    def _uploads(self, client: genai.Client) -> GeminiFiles:
        if self._files is None:
            self._files = GeminiFiles(self.name, client.aio.files, self._settings.gemini.file_poll_s)
        return self._files

    async def _content(self, message: SentMessage, files: Any) -> types.Content:
        parts = [await self._part(part, files) for part in message.parts]
        return types.Content(role="model" if message.role == "assistant" else "user", parts=parts)

    async def _part(self, part: SentPart, files: Any) -> types.Part:
        if isinstance(part, str):
            return types.Part(text=part)
        media_type = part.media_type if isinstance(part, SentImage) else video_type(part.data)
        rate = self._settings.gemini.video_fps
        seen = types.VideoMetadata(fps=rate) if rate is not None and isinstance(part, VideoPart) else None
        if len(part.data) > self._settings.gemini.files_above_bytes:
            uri = await files.upload(part.data, media_type)
            return types.Part(file_data=types.FileData(file_uri=uri, mime_type=media_type), video_metadata=seen)
        return types.Part(inline_data=types.Blob(data=part.data, mime_type=media_type), video_metadata=seen)

    def _config(self, conversation: Conversation) -> types.GenerateContentConfig:
        settings, sampling = self._settings, conversation.sampling
        config: dict[str, Any] = {"max_output_tokens": sampling.max_tokens or settings.max_tokens}
        if settings.sends_sampling:
            config["temperature"] = sampling.temperature
            if sampling.top_p != 1:
                config["top_p"] = sampling.top_p
        if sampling.seed is not None:
            config["seed"] = sampling.seed % 2**31  # an int32 in the API
        if sampling.stop:
            config["stop_sequences"] = list(sampling.stop)
        if sampling.n != 1:
            config["candidate_count"] = sampling.n
        if sampling.logprobs is not None:
            config |= {"response_logprobs": True, "logprobs": sampling.logprobs or None}
        if sampling.constraint is not None:
            if settings.json_output == "prompt":
                conversation = conversation.told(output.instruction(sampling.constraint))
            else:
                config["response_mime_type"] = "application/json"
                config["response_json_schema"] = output.schema_of(sampling.constraint)
        if _only_low(conversation.turns):
            config["media_resolution"] = types.MediaResolution.MEDIA_RESOLUTION_LOW
        if system := conversation.system:
            config["system_instruction"] = system
        off = types.AutomaticFunctionCallingConfig(disable=True)
        return types.GenerateContentConfig(automatic_function_calling=off, **config)

    def _check_prompt(self, response: Any) -> None:
        feedback = response.prompt_feedback
        if feedback is not None and feedback.block_reason:
            why = feedback.block_reason_message or f"the prompt was blocked ({feedback.block_reason.value})"
            raise faults.refused(self.name, self._secret.hide_in(why))

    def _answer(self, candidate: Any) -> Answer:
        return Answer(_text(candidate), (), _logprobs(candidate), self._reason(candidate))

    def _reason(self, candidate: Any) -> FinishReason:
        given = candidate.finish_reason.value if candidate.finish_reason else "STOP"
        if given in _REFUSED:
            raise faults.refused(self.name, f"the answer was stopped ({given})")
        if given in _LENGTH:
            return "length"
        if given != "STOP":
            raise InvalidOutput(f"{self.name} ended its answer with {given[:40]}.")
        return "stop"


@contextmanager
def _opening(opened: list[httpx2.Response]) -> Iterator[None]:
    """Notes the responses that begin within: closing the SDK's streams leaves their connections open."""
    token = _OPENED.set(opened)
    try:
        yield
    finally:
        _OPENED.reset(token)


async def _note_opened(response: httpx2.Response) -> None:
    opened = _OPENED.get()
    if opened is not None:
        opened.append(response)


def _only_low(messages: Sequence[SentMessage]) -> bool:
    """Whether every image asks for low detail; the API has one resolution for a request (64 tokens an image then)."""
    media = [part for message in messages for part in message.parts if not isinstance(part, str)]
    return bool(media) and all(isinstance(part, SentImage) and part.detail == "low" for part in media)


def _text(candidate: Any) -> str:
    parts = (candidate.content.parts if candidate.content is not None else None) or ()
    return "".join(part.text for part in parts if part.text and not part.thought)


def _logprobs(candidate: Any) -> tuple[TokenLogprob, ...]:
    result = candidate.logprobs_result
    if result is None or not result.chosen_candidates:
        return ()
    tops = result.top_candidates or [None] * len(result.chosen_candidates)
    return tuple(
        _logprob(chosen, tuple(map(_logprob, (top.candidates if top is not None else None) or ())))
        for chosen, top in zip(result.chosen_candidates, tops, strict=False)
    )


def _logprob(candidate: Any, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    """The API tells a token's text, which holds whole characters."""
    return TokenLogprob(candidate.token, candidate.log_probability, top, candidate.token.encode())


def _counted(usage: Any) -> Counted:
    """Thoughts are billed as output."""
    if usage is None or usage.prompt_token_count is None:
        return Counted()
    completion = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
    return Counted(usage.prompt_token_count, completion, usage.cached_content_token_count or 0)


def _details(error: errors.APIError) -> list[dict[str, Any]]:
    """The `details` of a google.rpc.Status, where there are any."""
    body = error.details if isinstance(error.details, dict) else {}
    inner = body.get("error", body)
    found = inner.get("details") if isinstance(inner, dict) else None
    return [detail for detail in found or () if isinstance(detail, dict)]
