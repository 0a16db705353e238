"""One request to several models and providers: their answers side by side, and what one fails at is its own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from deployments.generation.messages import Answer, ChatEvent, ChatRequest, ChatResult, ImagePart, Sampling
from serve.calls import Called, Usage
from serve.chat import Turn
from serve.compare import Compared, CompareService
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidRequest, NotFound, Unavailable
from serve.protocol import compare as skin
from tests.unit.fakes import Site, cluster, png
from tests.unit.test_http_chat import MODELS

HOSTED = {
    "gpt": {"kind": "openai", "model": "gpt-4o"},
    "gemini": {"kind": "gemini", "model": "gemini-2.5-flash"},
}


@dataclass
class FakeCalls:
    """Answers with the model's name, once all that are expected have been asked."""

    together: int = 1
    fail: dict[str, Exception] = field(default_factory=dict)
    asked: dict[str, ChatRequest] = field(default_factory=dict)
    contexts: list[RequestContext] = field(default_factory=list)
    _all: asyncio.Event = field(default_factory=asyncio.Event)

    async def chat(
        self,
        name: str,
        request: ChatRequest,
        context: RequestContext,
        *,
        affinity: str | None = None,
        fallback: bool = False,
    ) -> Called[ChatResult]:
        self.asked[name] = request
        self.contexts.append(context)
        if len(self.asked) >= self.together:
            self._all.set()
        await self._all.wait()
        if name in self.fail:
            raise self.fail[name]
        result = ChatResult((Answer(f"I am {name}.", (), (), "stop"),), 11, 0)
        return Called(result, Usage(11, 4, 0.25), 0.5, attempts=2)

    def chat_stream(self, *_: Any, **__: Any) -> AsyncGenerator[ChatEvent, None]:
        raise NotImplementedError

    async def classify(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    async def embed(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


@pytest.fixture(scope="module")
def site() -> Site:
    return Site(cluster(models=MODELS, providers=HOSTED))


@pytest.fixture
def calls() -> FakeCalls:
    return FakeCalls()


@pytest.fixture
def service(site: Site, calls: FakeCalls) -> CompareService:
    return CompareService(site.config, site.plane, site.services.chat, calls)


def context() -> RequestContext:
    return RequestContext("r1", "anonymous", time.monotonic() + 60)


async def compared(service: CompareService, *names: str) -> tuple[Compared, ...]:
    return await service.compare(names, [Turn("user", ("Who are you?",))], Sampling(), context())


async def test_all_are_asked_at_the_same_time_and_answer_in_order(service: CompareService, calls: FakeCalls) -> None:
    calls.together = 3
    found = await compared(service, "gpt", "llava", "gemini")
    assert [one.model for one in found] == ["gpt", "llava", "gemini"]
    answers = [one.outcome.value.answers[0].text for one in found if isinstance(one.outcome, Called)]
    assert answers == ["I am gpt.", "I am llava.", "I am gemini."]
    assert calls.asked["gpt"] == calls.asked["llava"]


async def test_what_one_fails_at_is_its_own(service: CompareService, calls: FakeCalls) -> None:
    calls.fail = {"gpt": Unavailable("gpt is not there."), "gemini": RuntimeError("bug")}
    found = {one.model: one.outcome for one in await compared(service, "gpt", "llava", "gemini")}
    assert isinstance(found["gpt"], Unavailable)
    assert isinstance(found["gemini"], ArgusError)
    assert "bug" not in found["gemini"].message
    assert isinstance(found["llava"], Called)


async def test_calls_end_before_the_request_does(service: CompareService, calls: FakeCalls) -> None:
    given = context()
    await service.compare(["gpt"], [Turn("user", ("?",))], Sampling(), given)
    assert given.deadline - 1 < calls.contexts[0].deadline < given.deadline


@pytest.mark.parametrize(
    ("names", "kind", "code", "param"),
    [
        ([], InvalidRequest, "missing_field", "models"),
        (["gpt"] * 2, InvalidRequest, "duplicate_model", "models[1]"),
        ([f"m{i}" for i in range(9)], InvalidRequest, "too_many_models", "models"),
        (["gpt", "nobody"], NotFound, "model_not_found", "models[1]"),
        (["clip"], InvalidRequest, "task_not_supported", "models[0]"),
    ],
)
async def test_names_are_checked_before_anyone_is_asked(
    service: CompareService, calls: FakeCalls, names: list[str], kind: type[ArgusError], code: str, param: str
) -> None:
    with pytest.raises(kind) as caught:
        await compared(service, *names)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert not calls.asked


@pytest.fixture
async def client(service: CompareService, site: Site) -> Any:
    app = FastAPI()
    app.include_router(skin.build(service, site.config.limits))

    async def with_context(scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {})["context"] = context()
        await app(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(with_context), base_url="http://argus") as client:
        yield client


async def test_the_route_over_json(client: httpx.AsyncClient, calls: FakeCalls) -> None:
    calls.fail = {"gemini": Unavailable("It is not there.")}
    body = {"models": ["gpt", "gemini"], "prompt": "Who are you?", "system": "Be brief.", "max_tokens": 7, "seed": 3}
    answer = (await client.post("/v1/compare", json=body)).json()
    first, second = answer["results"]
    assert answer["object"] == "comparison"
    assert (first["model"], first["answer"], first["finish_reason"]) == ("gpt", "I am gpt.", "stop")
    assert first["usage"] == {"prompt_tokens": 11, "completion_tokens": 4, "usd": 0.25}
    assert (first["attempts"], first["cached"]) == (2, False)
    assert first["seconds"] >= 0
    assert second["error"]["code"] == "unavailable"
    assert "answer" not in second
    request = calls.asked["gpt"]
    assert [message.role for message in request.messages] == ["system", "user"]
    assert (request.sampling.max_tokens, request.sampling.seed) == (7, 3)


async def test_the_route_takes_image_files(client: httpx.AsyncClient, calls: FakeCalls) -> None:
    files = [("image", ("a.png", png(), "image/png")), ("image", ("b.png", png("blue"), "image/png"))]
    answer = await client.post("/v1/compare", data={"models": "gpt,gemini", "prompt": "Differences?"}, files=files)
    assert answer.status_code == 200, answer.text
    parts = calls.asked["gemini"].messages[0].parts
    assert [isinstance(part, ImagePart) for part in parts] == [True, True, False]


async def test_a_model_that_takes_fewer_images_says_so_in_its_place(
    client: httpx.AsyncClient, calls: FakeCalls, site: Site
) -> None:
    most = site.config.models["llava"].max_images  # type: ignore[union-attr]
    files = [("image", (f"{i}.png", png(), "image/png")) for i in range(most + 1)]
    answer = await client.post("/v1/compare", data={"models": "llava,gpt", "prompt": "?"}, files=files)
    first, second = answer.json()["results"]
    assert first["error"]["code"] == "too_many_images"
    assert second["answer"] == "I am gpt."
    assert "llava" not in calls.asked


async def test_when_all_fail_the_request_does(service: CompareService, calls: FakeCalls) -> None:
    calls.fail = {"gpt": Unavailable("It is not there.")}
    with pytest.raises(Unavailable):
        skin.compared(await compared(service, "gpt"), context())


def test_the_body_is_documented() -> None:
    properties = json.dumps(skin.CompareFields.model_json_schema())
    assert "models" in properties
    assert "at most 8" in properties
