"""Bad images among good ones: each good one is answered right, each bad one refused with its code, nothing hangs."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from benchmarks.poison import BAD_KINDS, mixed_requests
from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.cluster


async def test_good_requests_are_unhurt_by_bad_ones(cluster: Cluster) -> None:
    requests = list(mixed_requests(400, bad_share=0.2, seed=1))
    assert {request.kind for request in requests} >= set(BAD_KINDS)
    gate = asyncio.Semaphore(32)
    async with httpx.AsyncClient(base_url=cluster.http, headers=cluster.headers, timeout=60) as client:

        async def send(index: int) -> str | None:
            async with gate:
                answer = await requests[index].send(client)
            return requests[index].complaint(answer)

        complaints = [c for c in await asyncio.gather(*(send(i) for i in range(len(requests)))) if c is not None]
    assert complaints == []
