"""Two router replicas that share a Redis: one budget and one cache, which outlive the replicas."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.fake_providers import FakeOpenAI
from tests.e2e.cluster import Cluster
from tests.e2e.routers.site import ANSWER, TOKENS, USD, USD_A_TOKEN, Routers

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def routers(two_routers: Routers) -> Cluster:
    if not two_routers.shared:
        pytest.skip("redis-server is not installed here (Debian: apt-get install redis-server)")
    return two_routers.cluster


@pytest.fixture(scope="module")
def provider(two_routers: Routers) -> FakeOpenAI:
    return two_routers.paid


def replicas(cluster: Cluster) -> set[int]:
    """Processes of the router's replicas."""
    return {pid for pid in cluster.pids() if "ServeReplica" in (line := command(pid)) and ":router" in line}


def command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return ""


async def ask(client: httpx.AsyncClient, question: str) -> httpx.Response:
    body: dict[str, Any] = {
        "model": "hosted",
        "messages": [{"role": "user", "content": question}],
        "max_completion_tokens": TOKENS,
        "temperature": 0,
    }
    return await client.post("/v1/chat/completions", json=body)


async def test_what_one_replica_has_asked_the_other_knows(routers: Cluster, provider: FakeOpenAI) -> None:
    before = provider.calls
    async with httpx.AsyncClient(base_url=routers.http, headers=routers.headers, timeout=60, trust_env=False) as client:
        assert (await ask(client, "Is it a cat?")).json()["choices"][0]["message"]["content"] == ANSWER
        await asyncio.sleep(2)  # an answer is kept after it was given
        for _ in range(19):
            assert (await ask(client, "Is it a cat?")).json()["choices"][0]["message"]["content"] == ANSWER
    assert provider.calls == before + 1


async def test_both_spend_one_budget_which_outlives_them(routers: Cluster, provider: FakeOpenAI) -> None:
    async with httpx.AsyncClient(base_url=routers.http, headers=routers.headers, timeout=60, trust_env=False) as client:
        answers = await asyncio.gather(*(ask(client, f"Is {number} a cat?") for number in range(60)))
        codes = Counter(a.status_code if a.is_success else a.json()["error"]["code"] for a in answers)
        assert set(codes) == {200, "service_budget_exceeded"}, codes
        spent = provider.calls * TOKENS * USD_A_TOKEN
        assert spent == pytest.approx(USD), "as much was asked of the provider as the money buys, and no call more"
        old = replicas(routers)
        assert len(old) == 2
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        answer = await once_up(client, "Is the last one a cat?")
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "service_budget_exceeded"
        assert not replicas(routers) & old
    assert provider.calls * TOKENS * USD_A_TOKEN == pytest.approx(USD)


async def once_up(client: httpx.AsyncClient, question: str) -> httpx.Response:
    """The first answer of a router that is there again."""
    for _ in range(3000):
        try:
            answer = await ask(client, question)
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
            return answer
        await asyncio.sleep(0.2)
    raise AssertionError("no router came back")
