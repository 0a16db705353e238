"""A cascade over scripted models: `Calls` without models, on a clock that only calls move."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deployments.generation.messages import (
    Answer,
    ChatEvent,
    ChatRequest,
    ChatResult,
    ImagePart,
    Message,
    Text,
    TokenLogprob,
)
from deployments.messages import ClassifyRequest, ClassifyResult, EmbedRequest, EmbedResult, EncodedImage, Scores
from serve.calls import Called, Usage
from serve.cascade.types import Asked
from serve.config.cluster import ClusterFile
from serve.config.load import parse
from serve.context import RequestContext
from serve.errors import ArgusError, DeadlineExceeded
from tests.unit.fakes import png

LABELS = ("safe", "knife", "gun")


@dataclass(frozen=True)
class Says:
    """What a model says next.

    Attributes:
        text: of a chat model.
        logits: of a classifying one.
        probability: of the only token of the text; None for an engine without probabilities.
        seconds: that it takes; more than the call may last is a timeout.
        error: raised in place of an answer.
    """

    text: str = ""
    logits: tuple[float, ...] = ()
    probability: float | None = 0.9
    seconds: float = 0.1
    usage: Usage = Usage()  # noqa: RUF009
    cached: bool = False
    error: ArgusError | Exception | None = None


@dataclass
class FakeCalls:
    """`serve.calls.Calls`.

    Attributes:
        says: what each model says, in order; the last entry is repeated.
        asked: every call: name, request, seconds it might last, whether there was a fallback.
    """

    says: dict[str, list[Says]]
    now: float = field(default_factory=time.monotonic)
    asked: list[tuple[str, Any, float, bool]] = field(default_factory=list)
    contexts: list[RequestContext] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def names(self) -> list[str]:
        return [name for name, *_ in self.asked]

    def _next(self, name: str, request: Any, context: RequestContext, fallback: bool) -> Says:
        left = context.deadline - self.now
        self.asked.append((name, request, left, fallback))
        self.contexts.append(context)
        script = self.says[name]
        said = script.pop(0) if len(script) > 1 else script[0]
        if said.seconds > left:
            self.now += left
            raise DeadlineExceeded(f"{name} did not answer within the deadline.")
        self.now += said.seconds
        if isinstance(said.error, ArgusError):
            raise said.error
        return said

    async def chat(
        self,
        name: str,
        request: ChatRequest,
        context: RequestContext,
        *,
        affinity: str | None = None,
        fallback: bool = False,
    ) -> Called[ChatResult]:
        said = self._next(name, request, context, fallback)
        tokens = () if said.probability is None else (TokenLogprob(said.text, float(np.log(said.probability))),)
        result = ChatResult((Answer(said.text, (1,), tokens, "stop"),), 7, 0)
        return Called(result, said.usage, said.seconds, said.cached)

    async def chat_stream(
        self,
        name: str,
        request: ChatRequest,
        context: RequestContext,
        *,
        affinity: str | None = None,
        fallback: bool = False,
    ) -> AsyncGenerator[ChatEvent, None]:
        said = self._next(name, request, context, fallback)
        words = said.text.split(" ")
        for i, word in enumerate(words):
            last = i == len(words) - 1
            yield ChatEvent(0, word if i == 0 else f" {word}", (i,), (), "stop" if last else None, 7)

    async def classify(
        self, name: str, request: ClassifyRequest, context: RequestContext, *, fallback: bool = False
    ) -> Called[ClassifyResult]:
        said = self._next(name, request, context, fallback)
        if said.error is not None:  # of the image alone
            return Called(ClassifyResult((said.error,), 1.0), said.usage, said.seconds)
        logits = np.asarray(said.logits, np.float32)
        return Called(ClassifyResult((Scores(logits, logits),), 1.0), said.usage, said.seconds, said.cached)

    async def embed(
        self, name: str, request: EmbedRequest, context: RequestContext, *, fallback: bool = False
    ) -> Called[EmbedResult]:
        raise AssertionError("no cascade embeds")


def guard(**keys: Any) -> dict[str, Any]:
    """A moderation: CLIP screens, LLaVA analyses, GPT takes over when LLaVA is not there."""
    return {
        "answer": "label",
        "labels": list(LABELS),
        "policy": {"allow": ["safe"], "block": ["knife", "gun"]},
        "steps": [
            {
                "name": "screen",
                "use": "clip",
                "task": "classify",
                "accept": {"rule": "confidence", "at_least": 0.9},
            },
            {
                "name": "analyse",
                "use": "llava",
                "task": "choose",
                "fallback": [{"on": ["unavailable", "timeout"], "use": "gpt"}],
            },
        ],
        **keys,
    }


def file(**cascades: Any) -> ClusterFile:
    """A cluster file with these cascades."""
    return parse(
        {
            "name": "test",
            "node_pools": {"local": {}},
            "models": {
                "clip": {"kind": "clip", "checkpoint": "openai/clip-vit-base-patch32"},
                "llava": {"kind": "llava", "checkpoint": "llava-hf/llava-1.5-7b-hf"},
                "blip2": {"kind": "blip2", "checkpoint": "Salesforce/blip2-opt-2.7b"},
            },
            "providers": {"gpt": {"kind": "openai", "model": "gpt-4o"}},
            "cascades": cascades,
        }
    )


def asked(question: str = "", *, images: int = 1, size: tuple[int, int] = (8, 6)) -> Asked:
    """One turn about images."""
    parts: list[Any] = [ImagePart(EncodedImage(png(size=size))) for _ in range(images)]
    return Asked((Message("user", (*parts, Text(question)) if question else tuple(parts)),))


def texts(request: ChatRequest) -> list[str]:
    """The texts of a conversation."""
    return [part.text for message in request.messages for part in message.parts if isinstance(part, Text)]


def context(calls: FakeCalls, seconds: float = 30.0, request_id: str = "r1") -> RequestContext:
    """Of a client that waits this long."""
    return RequestContext(request_id, "tester", calls.now + seconds)
