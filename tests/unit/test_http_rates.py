"""A tenant's requests a minute, counted at the edge over every protocol and route."""

from __future__ import annotations

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.unit.fakes import KEYS, Site, cluster
from tests.unit.test_oip_grpc import Context, skin_of


@pytest.fixture
def site() -> Site:
    return Site(cluster(keys=True, tenants={"alice": {"requests_per_minute": 2}}))


async def test_one_tenant_runs_out_and_no_other(site: Site) -> None:
    async with site.client() as client:
        said = [await client.get("/v1/models", headers={"X-API-Key": KEYS["alice"]}) for _ in range(3)]
        assert [answer.status_code for answer in said] == [200, 200, 429]
        assert said[2].json()["error"]["code"] == "rate_limited"
        assert int(said[2].headers["retry-after"]) >= 1
        assert (await client.get("/v1/models", headers={"X-API-Key": KEYS["bob"]})).status_code == 200
        assert (await client.get("/v1/healthz")).status_code == 200


async def test_grpc_and_http_draw_on_one_rate(site: Site) -> None:
    skin = skin_of(site)
    async with site.client() as client:
        for _ in range(2):
            assert (await client.get("/v1/models", headers={"X-API-Key": KEYS["alice"]})).status_code == 200
    context = Context(x_api_key=KEYS["alice"])
    await skin.ModelMetadata(pb.ModelMetadataRequest(name="clip.classify"), context)
    assert context.code is grpc.StatusCode.RESOURCE_EXHAUSTED
