"""Which calls are answered from the cache, for models and providers alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from deployments.generation.messages import ChatEvent, ChatRequest, ImagePart, Message, Sampling, Text
from deployments.messages import ClassifyRequest, EncodedImage
from serve.context import RequestContext
from serve.resilience.build import build_guard
from serve.resilience.cache_key import CacheKeys, identities_of, kept
from serve.resilience.recorder import Silent
from serve.routed_calls import RoutedCalls
from tests.unit.fakes import FakeGenerator, FakeModel, cluster, png
from tests.unit.test_http_chat import MODELS
from tests.unit.test_http_hosted import FakeProvider

GREEDY = Sampling(temperature=0.0)


class Setting:
    """Calls over fakes."""

    def __init__(self, **resilience: Any) -> None:
        hosted = {"gpt": {"kind": "openai", "model": "gpt-4o-mini"}}
        config = cluster(models=MODELS, providers=hosted, resilience=resilience)
        self.clip, self.llava, self.gpt = FakeModel(), FakeGenerator(), FakeProvider()
        handles: dict[str, Any] = {"clip": self.clip, "llava": self.llava}
        self.guard = build_guard(config, Silent(), lambda seconds, usual_s: None)
        self.keys = CacheKeys(identities_of(config))
        self.calls = RoutedCalls(handles, {"gpt": self.gpt}, self.guard, self.keys, kept(config))

    def asked(self, name: str) -> int:
        return len(self.llava.requests if name == "llava" else self.gpt.asked)


def context(client: str = "alice") -> RequestContext:
    return RequestContext("r", client, time.monotonic() + 10)


def about(image: bytes, sampling: Sampling = GREEDY) -> ChatRequest:
    return ChatRequest((Message("user", (ImagePart(EncodedImage(image)), Text("What is it?"))),), sampling)


@pytest.mark.parametrize("name", ["llava", "gpt"])
async def test_the_same_question_is_asked_once(name: str) -> None:
    setting = Setting()
    first = await setting.calls.chat(name, about(png()), context())
    second = await setting.calls.chat(name, about(png()), context())
    assert (first.cached, second.cached) == (False, True)
    assert second.value == first.value
    assert second.usage.usd == 0
    assert setting.asked(name) == 1


@pytest.mark.parametrize("name", ["llava", "gpt"])
@pytest.mark.parametrize(
    ("request_", "client"),
    [
        (about(png("blue")), "alice"),
        (about(png()), "bob"),
        (about(png(), Sampling(temperature=0, stop=("x",))), "alice"),
    ],
    ids=["another picture", "another tenant", "another parameter"],
)
async def test_another_one_is_not(name: str, request_: ChatRequest, client: str) -> None:
    setting = Setting()
    await setting.calls.chat(name, about(png()), context())
    assert not (await setting.calls.chat(name, request_, context(client))).cached
    assert setting.asked(name) == 2


async def test_what_was_drawn_by_lot_is_not_kept() -> None:
    setting = Setting()
    for _ in range(2):
        await setting.calls.chat("llava", about(png(), Sampling(temperature=0.5)), context())
    assert setting.asked("llava") == 2


@pytest.mark.parametrize(("wanted", "times"), [(None, 2), (True, 1)])
async def test_classifications_are_kept_on_demand(wanted: bool | None, times: int) -> None:
    setting = Setting(targets={"clip": {"cache": wanted}})
    for _ in range(2):
        await setting.calls.classify("clip", ClassifyRequest((EncodedImage(png()),), ("a", "b")), context())
    assert len(setting.clip.requests("classify")) == times


@pytest.mark.parametrize("off", [{"cache": {"enabled": False}}, {"targets": {"llava": {"cache": False}}}])
async def test_it_can_be_switched_off(off: dict[str, Any]) -> None:
    setting = Setting(**off)
    for _ in range(2):
        await setting.calls.chat("llava", about(png()), context())
    assert setting.asked("llava") == 2


class Writing(FakeGenerator):
    """Writes until the deadline that it was told, then says that this cut its answer."""

    async def stream(
        self, method: str, context: RequestContext, *args: Any, affinity: str | None = None
    ) -> AsyncGenerator[Any, None]:
        yield ChatEvent(0, "red", (1,))
        await asyncio.sleep(args[1].timeout_s)
        yield ChatEvent(0, " and", (2,), finish_reason="cut")


async def test_what_was_written_until_the_deadline_comes_home_before_it() -> None:
    setting = Setting()
    setting.calls = RoutedCalls({"llava": Writing()}, {}, setting.guard, setting.keys)
    request = ChatRequest((Message("user", (Text("Describe everything."),)),))
    whole = await setting.calls.chat("llava", request, RequestContext("r", "alice", time.monotonic() + 3))
    assert [(answer.text, answer.finish_reason) for answer in whole.value.answers] == [("red and", "cut")]
    events = setting.calls.chat_stream("llava", request, RequestContext("r", "alice", time.monotonic() + 3))
    assert [(event.text, event.finish_reason) async for event in events] == [("red", None), (" and", "cut")]
