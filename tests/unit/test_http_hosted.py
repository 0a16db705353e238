"""Providers as chat models: the same routes, the same answers, by the name that the cluster file gives them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field, replace

import httpx
import openai
import pytest

from deployments.generation.messages import ChatEvent, ChatRequest, Gathering
from serve.calls import Usage
from serve.errors import ArgusError, ContentRefused
from serve.providers.base import ProviderAnswer
from tests.unit.fakes import FakeGenerator, Site, cluster
from tests.unit.test_http_chat import MODELS, image, text, user


@dataclass
class FakeProvider:
    """Answers like the fake engine, at a price of one cent."""

    name: str = "gpt"
    error: ArgusError | None = None
    asked: list[ChatRequest] = field(default_factory=list)

    def estimate(self, request: ChatRequest) -> Usage:
        return Usage(7, 50, 0.02)

    async def chat(self, request: ChatRequest, timeout_s: float) -> ProviderAnswer:
        gathering = Gathering()
        async for event in self.chat_stream(request, timeout_s):
            if isinstance(event, ChatEvent):
                gathering.add(event)
        return ProviderAnswer(replace(gathering.result(), written=3), Usage(7, 3, 0.01))

    async def chat_stream(self, request: ChatRequest, timeout_s: float) -> AsyncGenerator[ChatEvent | Usage, None]:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        for event in FakeGenerator().events(request):
            yield replace(event, token_ids=())
        yield Usage(7, 3, 0.01)

    async def close(self) -> None: ...


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


@pytest.fixture
async def http(provider: FakeProvider) -> AsyncIterator[httpx.AsyncClient]:
    hosted = {"gpt": {"kind": "openai", "model": "gpt-4o-mini"}}
    site = Site(cluster(models=MODELS, providers=hosted), providers={"gpt": provider})
    async with site.client() as client:
        yield client


@pytest.fixture
def client(http: httpx.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://argus/v1", api_key="none", http_client=http, max_retries=0)


async def test_a_provider_answers_by_its_name(client: openai.AsyncOpenAI, provider: FakeProvider) -> None:
    said = await client.chat.completions.create(model="gpt", messages=[user(text("What is this?"), image())])
    assert said.model == "gpt"
    assert said.choices[0].message.content == "What is this? (1 media)"
    assert said.usage is not None and said.usage.completion_tokens == 3
    assert [len(message.parts) for message in provider.asked[0].messages] == [2]


async def test_its_answer_streams(client: openai.AsyncOpenAI) -> None:
    pieces = []
    stream = await client.chat.completions.create(
        model="gpt", messages=[user(text("one two"))], stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
        last = chunk
    assert "".join(pieces) == "one two (0 media)"
    assert last.usage is not None and (last.usage.prompt_tokens, last.usage.completion_tokens) == (7, 3)


async def test_what_it_refuses_is_said_in_our_words(client: openai.AsyncOpenAI, provider: FakeProvider) -> None:
    provider.error = ContentRefused("The provider refused the content.")
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await client.chat.completions.create(model="gpt", messages=[user(text("x"))])
    assert caught.value.code == "content_refused"
    assert len(provider.asked) == 1


async def test_videos_go_only_where_they_are_taken(client: openai.AsyncOpenAI, provider: FakeProvider) -> None:
    video = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="gpt", messages=[user(video)])  # type: ignore[list-item]
    assert caught.value.code == "too_many_videos"
    assert not provider.asked


async def test_it_is_listed_and_described_without_being_asked(http: httpx.AsyncClient, provider: FakeProvider) -> None:
    listed = (await http.get("/v1/models")).json()["data"]
    assert [entry["id"] for entry in listed if entry["id"] == "gpt"] == ["gpt"]
    assert (await http.get("/v1/models/gpt")).status_code == 200
    assert (await http.get("/v2/models/gpt.chat/ready")).status_code == 200
    assert not provider.asked
