"""No client can make series: whatever is asked, the values of labels are names of the cluster file and of the code."""

from __future__ import annotations

import random
import string
from collections.abc import Callable

import httpx
import pytest

from serve.config.routes import PROBES, ROUTES, UNMATCHED
from tests.unit.fakes import KEYS, Site, cluster, png

MOUNTED = {"/docs-assets"}
Ask = Callable[["Client", str], object]


class Client:
    """Sends each kind of request with a name of its own in it."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._key = {"authorization": f"Bearer {next(iter(KEYS.values()))}"}

    async def every_kind(self, name: str) -> None:
        """Every place in which a client's word could end up in a label."""
        get, post = self._http.get, self._http.post
        key = self._key
        await get(f"/{name}", headers=key)
        await get(f"/v1/{name}/{name}", headers=key)
        await get(f"/v2/models/{name}/versions/{name}/ready", headers=key)
        await get(f"/docs-assets/{name}.js")
        await get(f"/viewer/assets/{name}.js")
        await get(f"/viewer/{name}")
        await self._http.request(name.upper()[:9], "/v1/classify", headers=key)
        for path in ("models", "indexes", "scenes", "jobs", "sessions", "knowledge", "reconstructions", "vision"):
            await get(f"/v1/{path}/{name}", headers=key)
        await post(f"/v1/cascades/{name}", files={"image": png()}, headers=key)
        await post(f"/v2/models/{name}/infer", json={"inputs": []}, headers=key)
        await post(f"/v1/indexes/{name}/search", json={"text": name}, headers=key)
        await post(f"/v1/scenes/{name}/render", json={"camera": {}}, headers=key)
        await post("/v1/classify", json={"labels": [name, "b"], "model": name, name: name}, headers=key)
        await post("/v1/chat/completions", json={"model": name, "messages": []}, headers=key)
        await post("/v1/classify", content=name.encode(), headers=key | {"content-type": f"text/{name}"})
        await get("/v1/models", headers={"authorization": f"Bearer {name}"})
        await get("/v1/models", headers={"x-api-key": name, "x-request-id": name})
        await get("/v1/models", headers=key | {"x-argus-timeout-ms": name})
        await get("/v1/models", headers=key | {"x-argus-priority": name})


@pytest.fixture(scope="module")
def locked() -> Site:
    return Site(cluster(keys=True))


def names(count: int, seed: int) -> list[str]:
    drawn = random.Random(seed)
    return ["".join(drawn.choices(string.ascii_lowercase + string.digits, k=12)) for _ in range(count)]


async def test_thousands_of_names_add_no_series(locked: Site) -> None:
    async with locked.client() as http:
        client = Client(http)
        for name in names(3, seed=1):
            await client.every_kind(name)
        first = series(locked)
        locked.recorder.reset()
        for name in names(100, seed=2):
            await client.every_kind(name)
    assert len(locked.recorder.requests) > 2500
    assert series(locked) <= first
    assert len(first) < 100
    assert {route for _, route, *_ in first} <= {*ROUTES, *PROBES, *MOUNTED, UNMATCHED}
    assert {client for _, _, client, *_ in first} <= {*KEYS, "anonymous"}
    lanes = set(locked.services.admission.lanes())
    assert len(lanes) <= 65, "lanes are bounded by their number"


def series(site: Site) -> set[tuple[str, str, str, str, str]]:
    return {(r.protocol, r.route, r.client, r.outcome, r.fault) for r in site.recorder.requests}
