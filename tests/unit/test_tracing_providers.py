"""Spans of calls to providers, through their official clients, and what the providers are told of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from benchmarks.fake_providers import KEY, Fault
from serve import tracing
from serve.config.providers import Provider as Settings
from serve.errors import ArgusError
from serve.providers.build import build_providers
from tests.support.provider_servers import KEY_VARIABLE, WAYS, asking, showing
from tests.support.spans import SAMPLED, TRACE, Recorded, attribute, id_of, recording

NAMES = {"openai": "openai", "gemini": "gcp.gemini", "anthropic": "anthropic", "oip-http": "oip", "oip-grpc": "oip"}
QUESTION = "private question"


@pytest.fixture
def spans() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


def provider(server: Any, way: str, monkeypatch: pytest.MonkeyPatch, *, told: bool = False) -> Any:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    given = {"base_url": server.base_url, "api_key_env": KEY_VARIABLE} | WAYS[way][1]
    return build_providers({"hosted": Settings.model_validate(given)}, ["hosted"] if told else [])["hosted"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_call(spans: Recorded, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    async with WAYS[way][0](answer="private answer") as server:
        made = provider(server, way, monkeypatch)
        with tracing.root("attempt"):
            answer = await made.chat(showing(QUESTION), 10)
        await made.close()
    model = WAYS[way][1]["model"]
    span = spans.one(f"chat {model}", model="hosted", usd=answer.usage.usd)
    assert span.kind is SpanKind.CLIENT
    assert spans.below(spans.one("attempt")) == [span.name]
    assert attribute(span, "gen_ai.provider.name") == NAMES[way]
    assert attribute(span, "gen_ai.request.model") == model
    assert attribute(span, "gen_ai.usage.input_tokens") == answer.usage.prompt_tokens
    assert attribute(span, "gen_ai.usage.output_tokens") == answer.usage.completion_tokens
    assert attribute(span, "gen_ai.response.finish_reasons") == ("stop",)
    said = span.to_json()
    assert "private" not in said
    assert KEY not in said


@pytest.mark.parametrize("way", ["openai", "gemini", "anthropic"])
async def test_a_stream(spans: Recorded, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    async with WAYS[way][0](answer="private answer of some words") as server:
        made = provider(server, way, monkeypatch)
        with tracing.root("attempt"):
            async with aclosing(made.chat_stream(asking(QUESTION), 10)) as events:
                async for event in events:
                    last = event
        with tracing.root("attempt"):
            async with aclosing(made.chat_stream(asking(QUESTION), 10)) as events:
                await anext(events)
        await made.close()
    whole, left = spans.all(f"chat {WAYS[way][1]['model']}")
    assert attribute(whole, "gen_ai.request.stream") is True
    assert attribute(whole, "gen_ai.usage.output_tokens") == last.completion_tokens
    assert attribute(left, "argus.cancelled") is True
    assert attribute(left, "gen_ai.usage.output_tokens") is None


async def test_a_refusal_says_its_code(spans: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    async with WAYS["openai"][0](answer="x") as server:
        server.script = [Fault("429", retry_after=2)]
        made = provider(server, "openai", monkeypatch)
        with pytest.raises(ArgusError) as caught, tracing.root("attempt"):
            await made.chat(asking(QUESTION), 10)
        await made.close()
    span = spans.one("chat gpt-4o")
    assert attribute(span, "error.type") == caught.value.code
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("way", [way for way in WAYS if way != "oip-grpc"])
@pytest.mark.parametrize("told", [True, False])
async def test_only_who_is_named_learns_of_our_traces(
    spans: Recorded, monkeypatch: pytest.MonkeyPatch, way: str, told: bool
) -> None:
    async with WAYS[way][0](answer="x") as server:
        made = provider(server, way, monkeypatch, told=told)
        with tracing.root("attempt", tracing.link_to(SAMPLED)):
            await made.chat(asking(QUESTION), 10)
        await made.chat(asking(QUESTION), 10)
        await made.close()
    with_span, without = [
        {name.lower(): value for name, value in request.headers.items()}
        for request in server.requests
        if request.method == "POST"
    ]
    assert "traceparent" not in without
    if told:
        span = spans.one(f"chat {WAYS[way][1]['model']}")
        assert with_span["traceparent"].split("-")[2] == f"{id_of(span):016x}"
    else:
        assert not {"traceparent", "tracestate", "baggage"} & with_span.keys()
    assert TRACE not in str(server.requests), "a linked trace is nobody's parent"


async def test_a_hosted_classifier_has_a_span(spans: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments.messages import ClassifyRequest
    from serve.errors import Unavailable
    from tests.support.provider_servers import picture

    settings = Settings.model_validate(
        {
            "kind": "oip",
            "model": "labeller",
            "base_url": "http://127.0.0.1:9",
            "oip": {"task": "classify", "labels": ["a", "b"], "output": "P"},
        }
    )
    made: Any = build_providers({"hosted": settings})["hosted"]
    with tracing.root("attempt"), pytest.raises((Unavailable, ArgusError)):
        await made.classify(ClassifyRequest((picture(),), ("a", "b")), 5)
    await made.close()
    span = spans.one("classify labeller", model="hosted")
    assert attribute(span, "gen_ai.operation.name") == "classify"
    assert attribute(span, "error.type") is not None
