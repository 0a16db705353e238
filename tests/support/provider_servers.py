"""Providers pointed at the local servers that stand in for them, and the requests that tests send."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from PIL import Image

from benchmarks.fake_providers import KEY, FakeAnthropic, FakeGemini, FakeOip, FakeOipGrpc, FakeOpenAI, FakeServer
from deployments.generation.messages import (
    ChatEvent,
    ChatRequest,
    ImagePart,
    Message,
    Part,
    Sampling,
    Text,
)
from deployments.messages import EncodedImage
from serve.calls import Usage
from serve.config.providers import Provider as Settings
from serve.providers.build import build_providers

KEY_VARIABLE = "ARGUS_TEST_PROVIDER_KEY"
# Of each way to a provider: its server, and the settings that go with it.
WAYS: dict[str, tuple[type[FakeServer], dict[str, Any]]] = {
    "openai": (FakeOpenAI, {"kind": "openai", "model": "gpt-4o"}),
    "gemini": (FakeGemini, {"kind": "gemini", "model": "gemini-2.5-flash"}),
    "anthropic": (FakeAnthropic, {"kind": "anthropic", "model": "claude-sonnet-4-5"}),
    "oip-http": (FakeOip, {"kind": "oip", "model": "vlm"}),
    "oip-grpc": (FakeOipGrpc, {"kind": "oip", "model": "vlm", "oip": {"protocol": "grpc"}}),
}


@asynccontextmanager
async def pointed_at(server: FakeServer, monkeypatch: pytest.MonkeyPatch, way: str, **more: Any) -> AsyncIterator[Any]:
    """A provider whose address is the server's and whose key is the right one."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    given = {"base_url": server.base_url, "api_key_env": KEY_VARIABLE} | WAYS[way][1] | more
    provider = build_providers({"hosted": Settings.model_validate(given)})["hosted"]
    try:
        yield provider
    finally:
        await provider.close()


def picture(size: tuple[int, int] = (64, 48), colour: str = "red", kind: str = "PNG") -> EncodedImage:
    """An image file."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return EncodedImage(file.getvalue())


def asking(*parts: Part | str, sampling: Sampling | None = None, system: str | None = None) -> ChatRequest:
    """One user turn."""
    told = [Message("system", (Text(system),))] if system is not None else []
    turn = Message("user", tuple(Text(part) if isinstance(part, str) else part for part in parts))
    return ChatRequest((*told, turn), sampling or Sampling(max_tokens=50))


def showing(question: str = "What is this?", *, images: int = 1, sampling: Sampling | None = None) -> ChatRequest:
    """A question about images."""
    return asking(
        *(ImagePart(picture(colour=c)) for c in ("red", "blue", "green")[:images]), question, sampling=sampling
    )


async def streamed(provider: Any, request: ChatRequest, timeout_s: float = 10.0) -> tuple[list[ChatEvent], Usage]:
    """A whole stream: its events, and what was used."""
    items = [item async for item in provider.chat_stream(request, timeout_s)]
    assert isinstance(items[-1], Usage)
    return items[:-1], items[-1]
