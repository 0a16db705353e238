"""Two router replicas that share a Redis: one budget and one cache, which outlive the replicas."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio

from benchmarks.fake_providers import KEY, FakeOpenAI
from benchmarks.redis_server import NotInstalled, redis_server
from tests.e2e import cluster as clusters
from tests.e2e.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]

# Each answer has four tokens, as many as it may have, so a dollar buys twenty.
ANSWER, TOKENS, USD_A_TOKEN, USD = "yes it is a cat", 4, 0.0125, 1.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI(ANSWER) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def routers(provider: FakeOpenAI, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    folder = tmp_path_factory.mktemp("replicas")
    try:
        with redis_server(folder) as redis:
            content = {
                "node_pools": {"local": {"cpus": 2}},
                "models": {
                    "noop": {
                        "kind": "custom",
                        "implementation": "benchmarks.noop:NoopModel",
                        "tasks": ["classify"],
                        "placement": {"num_cpus": 0.1},
                    }
                },
                "router": {"replicas": 2, "num_cpus": 0.2},
                "providers": {
                    "hosted": {
                        "kind": "openai",
                        "model": "gpt-4o",
                        "base_url": provider.base_url,
                        "api_key_file": str(key_file(folder)),
                        "prices": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 1e6 * USD_A_TOKEN},
                    }
                },
                "resilience": {"redis": {"url": redis.url}, "usd_per_day": USD},
            }
            running = await asyncio.to_thread(clusters.start, "replicas", content, folder)
            yield running
            await asyncio.to_thread(clusters.stop, running)
    except NotInstalled:
        pytest.skip("redis-server is not installed here (Debian: apt-get install redis-server)")


def key_file(folder: Path) -> Path:
    path = folder / "provider.key"
    path.write_text(KEY)
    return path


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
        for _ in range(20):
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
    for _ in range(300):
        try:
            answer = await ask(client, question)
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
            return answer
        await asyncio.sleep(0.2)
    raise AssertionError("no router came back within a minute")
