"""Calls to the models of a running cluster over HTTP: what calibrates a cascade asks what the cascade would ask."""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
import time
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
import orjson

from deployments.generation.messages import (
    Answer,
    ChatRequest,
    ChatResult,
    ImagePart,
    Message,
    Sampling,
    Text,
    TokenLogprob,
)
from deployments.messages import (
    ClassifyRequest,
    ClassifyResult,
    EncodedImage,
    Image,
    Scores,
)
from serve.calls import Called, Usage
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidRequest, ModelFailed, Unavailable
from serve.resilience.retry import pause_before_retry


class HttpCalls:
    """`serve.calls.Questions` to the classifying and chatting models of a cluster elsewhere.

    Args:
        client: with the cluster's address as its base URL, and a key if the cluster wants one.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def classify(
        self, name: str, request: ClassifyRequest, context: RequestContext, *, fallback: bool = False
    ) -> Called[ClassifyResult]:
        """POST /v1/classify."""
        body = {
            "model": name,
            "labels": list(request.labels),
            "templates": request.templates if isinstance(request.templates, str) else list(request.templates),
            "multi_label": request.multi_label,
            "images": [_base64(image) for image in request.images],
        }
        answer, seconds = await self._post("/v1/classify", body, context)
        scores = tuple(_scores(result, request.labels) for result in answer["results"])
        return Called(ClassifyResult(scores, float(answer["temperature"])), Usage(), seconds)

    async def chat(
        self,
        name: str,
        request: ChatRequest,
        context: RequestContext,
        *,
        affinity: str | None = None,
        fallback: bool = False,
    ) -> Called[ChatResult]:
        """POST /v1/chat/completions."""
        messages = [{"role": message.role, "content": _parts(message)} for message in request.messages]
        body = {"model": name, "messages": messages, **_sampling(request.sampling)}
        answer, seconds = await self._post("/v1/chat/completions", body, context)
        usage = answer.get("usage") or {}
        prompt, written = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        choices = tuple(_answer(choice) for choice in answer["choices"])
        return Called(ChatResult(choices, prompt, 0), Usage(prompt, written), seconds)

    async def _post(self, path: str, body: Mapping[str, Any], context: RequestContext) -> tuple[dict[str, Any], float]:
        """The answer and its seconds; a cluster that is busy or away for a moment is asked again."""
        for attempt in itertools.count(1):
            started = time.monotonic()
            try:
                return await self._try(path, body, context), time.monotonic() - started
            except ArgusError as error:
                pause = pause_before_retry(error, attempt, context.left_s(), random.random())
                if pause is None:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("never reached")

    async def _try(self, path: str, body: Mapping[str, Any], context: RequestContext) -> dict[str, Any]:
        try:
            response = await self._client.post(path, json=body, timeout=context.remaining_s())
        except httpx.HTTPError as error:
            raise Unavailable(f"{self._client.base_url}: {type(error).__name__} {error}".strip()) from None
        if not response.is_success:
            raise _refused(path, response)
        answer: dict[str, Any] = response.json()
        return answer


def _refused(path: str, response: httpx.Response) -> ArgusError:
    try:
        error = response.json()["error"]
        message = f"{error['message']} ({error['code']})"
    except (ValueError, KeyError, TypeError):
        message = response.text[:200]
    text = f"{path} answered {response.status_code}: {message}"
    if response.status_code == 429 or response.status_code >= 500:
        wait = response.headers.get("Retry-After", "")
        return Unavailable(text, retry_after_s=float(wait) if wait.isdigit() else None)
    return InvalidRequest(text)


def _base64(image: Image) -> str:
    if not isinstance(image, EncodedImage):
        raise InvalidRequest("Only encoded images travel over HTTP.", param="image")
    return base64.b64encode(image.data).decode()


def _scores(result: Mapping[str, Any], labels: tuple[str, ...]) -> Scores | Exception:
    """In the request's order of labels; the answer's is by probability."""
    if "error" in result:
        return ModelFailed(str(result["error"]["message"]))
    by_label = {one["label"]: one for one in result["scores"]}
    return Scores(
        np.array([by_label[label]["probability"] for label in labels], np.float32),
        np.array([by_label[label]["logit"] for label in labels], np.float32),
    )


def _parts(message: Message) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for part in message.parts:
        if isinstance(part, Text):
            parts.append({"type": "text", "text": part.text})
        elif isinstance(part, ImagePart):
            uri = f"data:;base64,{_base64(part.image)}"  # the server tells the format by its bytes
            parts.append({"type": "image_url", "image_url": {"url": uri, "detail": part.detail}})
        else:
            raise InvalidRequest("Cascades over images are calibrated; a message holds a video.", param="video")
    return parts


def _sampling(sampling: Sampling) -> dict[str, Any]:
    body: dict[str, Any] = {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens}
    if sampling.logprobs is not None:
        body["logprobs"] = True
    if sampling.constraint is not None and sampling.constraint.json_schema is not None:
        schema = {"name": "answer", "schema": orjson.loads(sampling.constraint.json_schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _answer(choice: Mapping[str, Any]) -> Answer:
    told = (choice.get("logprobs") or {}).get("content") or ()
    logprobs = tuple(TokenLogprob(token["token"], float(token["logprob"])) for token in told)
    return Answer(choice["message"]["content"] or "", (), logprobs, choice.get("finish_reason") or "stop")
