"""`/v1/compare` through the whole HTTP side: models and a provider side by side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve.errors import ContentRefused
from tests.unit.fakes import Site, cluster
from tests.unit.test_http_chat import MODELS, URI
from tests.unit.test_http_hosted import FakeProvider


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


@pytest.fixture
async def http(provider: FakeProvider) -> AsyncIterator[httpx.AsyncClient]:
    hosted = {"gpt": {"kind": "openai", "model": "gpt-4o-mini"}}
    async with Site(cluster(models=MODELS, providers=hosted), providers={"gpt": provider}).client() as client:
        yield client


async def compare(http: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    body = {"models": ["llava", "blip2", "gpt"], "prompt": "What is it?", "image": URI, **fields}
    return await http.post("/v1/compare", json=body)


async def test_every_model_answers_in_the_order_asked(http: httpx.AsyncClient) -> None:
    answered = await compare(http)
    assert answered.status_code == 200
    results = answered.json()["results"]
    assert [result["model"] for result in results] == ["llava", "blip2", "gpt"]
    assert {result["answer"] for result in results} == {"What is it? (1 media)"}
    assert [result["usage"]["usd"] for result in results] == [0, 0, 0.01]
    assert all(result["seconds"] >= 0 for result in results)


async def test_one_that_fails_leaves_the_others(http: httpx.AsyncClient, provider: FakeProvider) -> None:
    provider.error = ContentRefused("The provider refused the content.")
    answered = await compare(http)
    assert answered.status_code == 200
    llava, _, gpt = answered.json()["results"]
    assert "answer" in llava
    assert gpt["error"]["code"] == "content_refused"


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"models": ["llava", "nobody"]}, 404, "model_not_found"),
        ({"models": []}, 400, None),
        ({"models": ["llava"] * 9}, 400, None),
        ({"models": ["clip"]}, 400, "task_not_supported"),
        ({"prompt": ""}, 400, None),
        ({"unknown": 1}, 400, "unknown_field"),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_name(
    http: httpx.AsyncClient, provider: FakeProvider, fields: dict[str, Any], status: int, code: str | None
) -> None:
    answered = await compare(http, **fields)
    assert answered.status_code == status, answered.text
    if code is not None:
        assert answered.json()["error"]["code"] == code
    assert answered.json()["error"]["param"]
    assert not provider.asked
