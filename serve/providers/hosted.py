"""What all providers share: the request made ready, the clock, and every failure turned into one of our errors.

A provider's own module says how a request is put in its API's words and how its answers and errors are read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import httpx2

from deployments.generation.messages import (
    Answer,
    ChatEvent,
    ChatRequest,
    ChatResult,
    ImagePart,
    Role,
    Sampling,
    Text,
    VideoPart,
)
from serve import tracing
from serve.calls import Usage
from serve.config.providers import Provider as Settings
from serve.errors import ArgusError, ContextTooLong, DeadlineExceeded, Unsupported
from serve.providers import faults, images, output, spans, tokens
from serve.providers.base import ProviderAnswer
from serve.providers.images import SentImage
from serve.providers.keys import key_of
from serve.providers.prices import Price, cost

_LOG = logging.getLogger("argus.providers")
# A text has at least this many bytes a token; what is longer than the window even so is refused before it is sent.
_MOST_BYTES_A_TOKEN = 8
_MOST_CONNECTIONS = 256

SentPart = str | SentImage | VideoPart


@dataclass(frozen=True, slots=True)
class SentMessage:
    """A message whose images are ready to be sent."""

    role: Role
    parts: tuple[SentPart, ...]

    @property
    def text(self) -> str:
        """Its texts, a line each."""
        return "\n".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True, slots=True)
class Conversation:
    """A request as providers' modules see it."""

    messages: tuple[SentMessage, ...]
    sampling: Sampling

    @property
    def system(self) -> str:
        """The system messages, for APIs that take them apart."""
        return "\n\n".join(message.text for message in self.messages if message.role == "system")

    @property
    def turns(self) -> tuple[SentMessage, ...]:
        """The other messages."""
        return tuple(message for message in self.messages if message.role != "system")

    def told(self, text: str) -> Conversation:
        """The same with a further instruction."""
        return replace(self, messages=(SentMessage("system", (text,)), *self.messages))


@dataclass(frozen=True, slots=True)
class Counted:
    """The provider's own count of a call's tokens; None where it did not say.

    Attributes:
        prompt: cached ones included.
        completion: reasoning included.
    """

    prompt: int | None = None
    completion: int | None = None
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as a provider's module has read it."""

    answers: tuple[Answer, ...]
    counted: Counted


class HostedProvider(ABC):
    """See the module's text, and `serve.providers.base.Provider`.

    Args:
        name: in the cluster file.

    Attributes:
        propagates: it is told of our traces (`tracing.propagate_to`); set before the first call.
    """

    # What the API cannot do; a request that needs it is refused before anything is sent.
    takes_videos = False

    def __init__(self, name: str, settings: Settings, price: Price) -> None:
        self.name = name
        self.propagates = False
        self._settings = settings
        self._price = price
        self._secret = faults.Secret("")
        self._client: Any = None
        self._connecting = asyncio.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, model={self._settings.model!r})"

    def estimate(self, request: ChatRequest) -> Usage:
        """See `Provider.estimate`."""
        prompt = self._prompt_tokens(request)
        sampling = request.sampling
        completion = (sampling.max_tokens or self._settings.max_tokens) * sampling.n
        return Usage(prompt, completion, cost(self._price, prompt, completion))

    async def chat(self, request: ChatRequest, timeout_s: float) -> ProviderAnswer:
        """See `Provider.chat`."""
        with tracing.span("chat", tracing.Kind.CLIENT) as span:
            if span is not None:
                spans.asked(span, self.name, self._settings, request.sampling, stream=False)
            async with self._within(now() + timeout_s):
                conversation = await self._prepared(request)
                reply = await self._ask(conversation, timeout_s)
            constraint = request.sampling.constraint
            if constraint is not None:
                reply = replace(reply, answers=tuple(_checked(answer, request.sampling) for answer in reply.answers))
            usage = self._usage(request, reply.counted, "".join(answer.text for answer in reply.answers))
            if span is not None:
                reasons = [answer.finish_reason for answer in reply.answers]
                spans.answered(span, usage, reply.counted.cached, reasons)
        return ProviderAnswer(
            ChatResult(reply.answers, usage.prompt_tokens, reply.counted.cached, usage.completion_tokens), usage
        )

    async def chat_stream(self, request: ChatRequest, timeout_s: float) -> AsyncGenerator[ChatEvent | Usage, None]:
        """See `Provider.chat_stream`.

        The last event of each answer is held back until the provider has said what it counted, or the stream ends.
        Answers that must be JSON are checked once they are whole, before their last event.
        """
        span = tracing.start("chat", kind=tracing.Kind.CLIENT)
        try:
            async with aclosing(self._chat_stream(request, timeout_s, span)) as events:
                async for event in events:
                    yield event
        except BaseException as error:
            if span is not None:
                tracing.fail(span, error)
            raise
        finally:
            if span is not None:
                span.end()

    async def _chat_stream(
        self, request: ChatRequest, timeout_s: float, span: tracing.Span | None
    ) -> AsyncGenerator[ChatEvent | Usage, None]:
        if span is not None:
            spans.asked(span, self.name, self._settings, request.sampling, stream=True)
        deadline = now() + timeout_s
        with tracing.use(span):
            async with self._within(deadline):
                conversation = await self._prepared(request)
        counted, texts, last = Counted(), dict[int, list[str]](), list[ChatEvent]()
        async with aclosing(self._stream(conversation, timeout_s)) as items:
            while True:
                with tracing.use(span):
                    async with self._within(deadline):
                        item = await anext(items, None)
                if item is None:
                    break
                if isinstance(item, Counted):
                    counted = item
                    continue
                texts.setdefault(item.index, []).append(item.text)
                if item.finish_reason is None:
                    yield item
                else:
                    last.append(item)
        if len(last) < request.sampling.n:  # the stream ended as if all were said
            raise faults.lost(self.name)
        if request.sampling.constraint is not None:
            for pieces in texts.values():
                output.check("".join(pieces), request.sampling.constraint)
        usage = self._usage(request, counted, "".join(piece for pieces in texts.values() for piece in pieces))
        if span is not None:
            spans.answered(span, usage, counted.cached, [event.finish_reason for event in last])
        for event in last:
            yield replace(event, prompt_tokens=usage.prompt_tokens, cached_tokens=counted.cached)
        yield usage

    @abstractmethod
    async def close(self) -> None:
        """See `Provider.close`."""

    @abstractmethod
    async def _ask(self, conversation: Conversation, timeout_s: float) -> Reply:
        """The whole answer; raises whatever its SDK raises."""

    @abstractmethod
    def _stream(self, conversation: Conversation, timeout_s: float) -> AsyncGenerator[ChatEvent | Counted, None]:
        """The answer as it grows; raises whatever its SDK raises."""

    @abstractmethod
    def _image_tokens(self, width: int, height: int, detail: tokens.Detail) -> int:
        """Tokens of an image of this size, in pixels as sent."""

    @abstractmethod
    def _said(self, error: Exception) -> ArgusError | None:
        """What an error of the SDK means; None for errors of others."""

    def _video_tokens(self, data: bytes) -> int:
        """Tokens of a video."""
        raise AssertionError("only called where videos are taken")

    @abstractmethod
    def _new_client(self, secret: faults.Secret) -> Any:
        """A client of the SDK; called in a thread, since some take long to read certificates."""

    async def _connected(self) -> Any:
        """The SDK's client, made when it is first needed."""
        if self._client is None:
            async with self._connecting:
                if self._client is None:
                    self._secret = key_of(self.name, self._settings)
                    self._client = await self._make_client(self._secret)
        return self._client

    async def _make_client(self, secret: faults.Secret) -> Any:
        return await asyncio.to_thread(self._new_client, secret)

    async def _prepared(self, request: ChatRequest) -> Conversation:
        """Checks what the API cannot do, and prepares the images."""
        self._check(request)
        parts = [part for message in request.messages for part in message.parts if isinstance(part, ImagePart)]
        sent = iter(await images.prepare(parts, self._settings.images))
        messages = []
        for message in request.messages:
            ready = [
                part.text if isinstance(part, Text) else next(sent) if isinstance(part, ImagePart) else part
                for part in message.parts
            ]
            messages.append(SentMessage(message.role, tuple(ready)))
        return Conversation(tuple(messages), request.sampling)

    def _check(self, request: ChatRequest) -> None:
        sampling = request.sampling
        if sampling.logprobs is not None and not self._settings.gives_logprobs:
            raise Unsupported(
                f"{self.name} gives no log probabilities.", code="unsupported_parameter", param="logprobs"
            )
        if not self.takes_videos and any(isinstance(p, VideoPart) for m in request.messages for p in m.parts):
            raise Unsupported(f"{self.name} takes no videos.", code="unsupported_content", param="messages")
        window = self._settings.context_tokens
        if window is not None and self._prompt_tokens(request, bytes_a_token=_MOST_BYTES_A_TOKEN) > window:
            raise ContextTooLong(f"The prompt is longer than the {window} tokens that {self.name} takes.")

    def _prompt_tokens(self, request: ChatRequest, *, bytes_a_token: int | None = None) -> int:
        settings = self._settings.images
        constraint = request.sampling.constraint
        total = 0
        if constraint is not None and constraint.json_schema is not None:
            total += _text_tokens(constraint.json_schema, bytes_a_token)
        for message in request.messages:
            total += tokens.MESSAGE_TOKENS
            for part in message.parts:
                if isinstance(part, Text):
                    total += _text_tokens(part.text, bytes_a_token)
                elif isinstance(part, ImagePart):
                    detail = images.detail_of(part, settings)
                    total += self._image_tokens(*images.sent_size(images.size_of(part.image), detail, settings), detail)
                elif self.takes_videos:
                    total += self._video_tokens(part.data)
        return total

    def _usage(self, request: ChatRequest, counted: Counted, text: str) -> Usage:
        """What is charged; our estimate stands in for what the provider does not say."""
        prompt = self._prompt_tokens(request) if counted.prompt is None else counted.prompt
        completion = tokens.text_tokens(text) if counted.completion is None else counted.completion
        return Usage(prompt, completion, cost(self._price, prompt, completion, counted.cached))

    @asynccontextmanager
    async def _within(self, deadline: float) -> AsyncIterator[None]:
        """Ends what takes longer than `deadline` (on the loop's clock), and raises every failure as one of ours."""
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError:
            raise self._late() from None
        except ArgusError:
            raise
        except Exception as error:
            raise self._ours(error) from None

    def _ours(self, error: Exception) -> ArgusError:
        known = self._said(error)
        if known is not None:
            return known
        if isinstance(error, httpx2.TimeoutException):
            return self._late()
        if isinstance(error, httpx2.HTTPError | httpx2.InvalidURL | OSError):
            return faults.lost(self.name)
        # Parsers raise nearly every built-in type on damaged answers. Only the type is logged: texts may hold content.
        _LOG.warning("%s: %s while its answer was read", self.name, type(error).__qualname__)
        return faults.unreadable(self.name)

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"{self.name} did not answer in time.")


def http_client(base_url: str, *, propagates: bool = False) -> httpx2.AsyncClient:
    """The connections of one provider.

    Proxies of the environment are used, as every HTTP client does, except towards this machine, where none is of use.
    Redirects are not followed: they would carry keys in headers to wherever they lead.

    Args:
        propagates: requests carry `traceparent`.
    """
    limits = httpx2.Limits(max_connections=_MOST_CONNECTIONS, max_keepalive_connections=_MOST_CONNECTIONS)
    return httpx2.AsyncClient(
        trust_env=not is_loopback(base_url),
        follow_redirects=False,
        limits=limits,
        timeout=None,
        event_hooks={"request": [spans.add_outgoing]} if propagates else None,
    )


def is_loopback(url: str) -> bool:
    """Whether an address names this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _checked(answer: Answer, sampling: Sampling) -> Answer:
    constraint = sampling.constraint
    assert constraint is not None, "only called with one"
    text = output.unfenced(answer.text)
    output.check(text, constraint)
    return answer if text == answer.text else replace(answer, text=text)


def _text_tokens(text: str, bytes_a_token: int | None) -> int:
    return tokens.text_tokens(text) if bytes_a_token is None else math.ceil(len(text.encode()) / bytes_a_token)


def now() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()
