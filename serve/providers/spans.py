"""What the span of a provider's call says, in the words of OpenTelemetry's conventions for generative AI.

Of messages, images and answers it holds counts only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

import httpx2

from deployments.generation.messages import Sampling
from serve import tracing
from serve.calls import Usage
from serve.config.providers import Kind, Provider
from serve.tracing.spans import outgoing

_NAMES: Final[Mapping[Kind, str]] = {
    "openai": "openai",
    "gemini": "gcp.gemini",
    "anthropic": "anthropic",
    "oip": "oip",
}


def asked(span: tracing.Span, name: str, settings: Provider, sampling: Sampling | None, *, stream: bool) -> None:
    """Before the call.

    Args:
        name: of the provider in the cluster file.
        sampling: None for a classification.
    """
    operation = "classify" if sampling is None else "chat"
    span.update_name(f"{operation} {settings.model}")
    span.set_attributes(
        {
            "argus.model": name,
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": _NAMES[settings.kind],
            "gen_ai.request.model": settings.model,
        }
    )
    if sampling is not None:
        span.set_attributes(
            {
                "gen_ai.request.max_tokens": sampling.max_tokens or settings.max_tokens,
                "gen_ai.request.temperature": sampling.temperature,
                "gen_ai.request.stream": stream,
            }
        )
    host = urlsplit(settings.base_url or "").hostname
    if host is not None:
        span.set_attribute("server.address", host)


def answered(span: tracing.Span, usage: Usage, cached_tokens: int, reasons: Iterable[str | None]) -> None:
    """After it."""
    span.set_attributes(
        {
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": cached_tokens,
            "gen_ai.response.finish_reasons": [reason for reason in reasons if reason is not None],
            "argus.usd": usage.usd,
        }
    )


async def add_outgoing(request: httpx2.Request) -> None:
    """A hook of HTTP clients whose server may know of our traces."""
    request.headers.update(outgoing())
