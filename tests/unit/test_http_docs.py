"""The OpenAPI document and the page that shows it, which must work without any other server."""

from __future__ import annotations

import re

import pytest

from serve.auth import hash_key
from serve.config.cluster import ApiKey, Auth
from tests.unit.fakes import KEYS, Site, cluster


async def test_the_docs_page_needs_nothing_from_elsewhere() -> None:
    async with Site().client() as client:
        page = await client.get("/docs")
        assert page.status_code == 200 and "swagger" in page.text.lower()
        assert not re.search(r"(src|href)=[\"']?(https?:)?//", page.text)
        for asset in set(re.findall(r"/docs-assets/[\w.-]+", page.text)):
            assert (await client.get(asset)).status_code == 200, asset
        assert (await client.get("/docs-assets/../serve/auth.py")).status_code == 404


async def test_the_document_describes_every_route() -> None:
    async with Site().client() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert {
        "/v1/classify",
        "/v1/embeddings",
        "/v1/models",
        "/v1/indexes/{name}/search",
        "/v2/models/{model}/infer",
    } <= set(paths)
    classify = paths["/v1/classify"]["post"]
    assert {"application/json", "multipart/form-data", "image/jpeg"} <= set(classify["requestBody"]["content"])
    assert {"400", "401", "413", "429", "503", "504"} <= set(classify["responses"])


OPEN = ["/v1/healthz", "/v1/readyz", "/v2/health/live", "/v2/health/ready"]


@pytest.mark.parametrize("keys", [True, False])
async def test_the_document_says_how_a_key_is_sent_and_where_none_is_needed(keys: bool) -> None:
    async with Site(cluster(keys=keys)).client() as client:
        document = (await client.get("/openapi.json")).json()
        schemes = document["components"]["securitySchemes"]
        sent = {
            name: {"authorization": f"Bearer {KEYS['alice']}"}
            if (one["type"], one.get("scheme")) == ("http", "bearer")
            else {one["name"]: KEYS["alice"]}
            for name, one in schemes.items()
        }
        assert sorted(one["type"] for one in schemes.values()) == ["apiKey", "http"]
        for requirement in document["security"]:
            headers = {key: value for name in requirement for key, value in sent[name].items()}
            assert (await client.get("/v1/models", headers=headers)).status_code == 200
        assert ({} in document["security"]) is not keys, "a key is optional where none is configured"
        said = {path: one.get("security") for path, methods in document["paths"].items() for one in methods.values()}
        assert {path for path, security in said.items() if security == []} == set(OPEN)
        assert all(security in (None, []) for security in said.values())


async def test_the_document_follows_keys_that_come_later() -> None:
    site = Site()
    async with site.client() as client:
        assert {} in (await client.get("/openapi.json")).json()["security"]
        site.services.authenticator.replace(Auth(keys=[ApiKey(name="alice", sha256=hash_key(KEYS["alice"]))]))
        assert {} not in (await client.get("/openapi.json")).json()["security"]
