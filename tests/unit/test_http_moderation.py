"""The applications over cascades: `/v1/moderate`, `/v1/products/analyze`, `/v1/search/products`."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve.errors import InvalidMedia, Unavailable
from tests.unit.cascade_site import CASCADES, CascadeSite
from tests.unit.fakes import png

URI = "data:image/png;base64," + base64.b64encode(png()).decode()


@pytest.fixture(scope="module")
def built() -> CascadeSite:
    return CascadeSite()


@pytest.fixture
def site(built: CascadeSite) -> CascadeSite:
    built.reset()
    return built


@pytest.fixture
async def http(site: CascadeSite) -> AsyncIterator[httpx.AsyncClient]:
    async with site.client() as client:
        yield client


async def error_of(response: httpx.Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


@pytest.fixture
async def shop(http: httpx.AsyncClient) -> httpx.AsyncClient:
    """With an index of three products; two know their images."""
    await http.put("/v1/indexes/shop", json={})
    items: list[dict[str, Any]] = [
        {"id": "a", "image": URI, "metadata": {"image": URI, "price": 3}},
        {"id": "b", "text": "something else", "metadata": {"image": "data:image/png;base64,AAAA", "price": 5}},
        {"id": "c", "text": "a third", "metadata": {"price": 9}},
    ]
    assert (await http.post("/v1/indexes/shop/items", json={"items": items})).status_code == 200
    return http


async def test_outcomes(http: httpx.AsyncClient, site: CascadeSite) -> None:
    body = (await http.post("/v1/moderate", files={"image": ("a.png", png(), "image/png")})).json()
    assert (body["object"], body["cascade"]) == ("moderation", "moderation")
    (allowed,) = body["results"]
    assert (allowed["outcome"], allowed["flagged"], allowed["label"]) == ("allow", False, "safe")
    site.screen.logits = {"knife": 9.0}
    (blocked,) = (await http.post("/v1/moderate", json={"image": URI, "explain": False})).json()["results"]
    assert (blocked["outcome"], blocked["flagged"], blocked["label"]) == ("block", True, "knife")
    assert "trace" not in blocked


async def test_what_cannot_be_analysed_is_reviewed(http: httpx.AsyncClient, site: CascadeSite) -> None:
    site.screen.logits = {"safe": 0.2}
    site.chat.script = [(0, Unavailable("gone"))] * 9
    (result,) = (await http.post("/v1/moderate", json={"image": URI})).json()["results"]
    assert (result["outcome"], result["degraded"], result["label"]) == ("review", True, "safe")


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, (400, "missing_field", "image")),
        ({"image": URI, "cascade": "vqa"}, (400, "invalid_field", "cascade")),
        ({"image": URI, "cascade": "nothing"}, (404, "cascade_not_found", "cascade")),
        ({"images": [URI] * 7}, (400, "too_many_inputs", "images")),
    ],
)
async def test_moderation_refuses(http: httpx.AsyncClient, body: dict[str, Any], wanted: tuple[int, str, str]) -> None:
    assert await error_of(await http.post("/v1/moderate", json=body)) == wanted


async def test_a_cluster_without_policies_moderates_nothing() -> None:
    async with CascadeSite(cascades={"vqa": CASCADES["vqa"]}).client() as client:
        response = await client.post("/v1/moderate", json={"image": URI})
        assert await error_of(response) == (404, "not_configured", "cascade")


async def test_a_product_in_all_its_parts(shop: httpx.AsyncClient, site: CascadeSite) -> None:
    site.chat.says = '{"colour": "red"}'
    body = (await shop.post("/v1/products/analyze", json={"image": URI, "index": "shop", "k": 2})).json()
    assert body["attributes"]["answer"] == {"colour": "red"}
    assert body["caption"]["answer"] == '{"colour": "red"}'
    assert body["similar"]["hits"][0]["id"] == "a"
    assert len(body["similar"]["hits"]) == 2
    assert body["usage"]["completion_tokens"] == 4


async def test_a_part_that_fails_leaves_the_others(shop: httpx.AsyncClient, site: CascadeSite) -> None:
    site.chat.says = "a red star"
    response = await shop.post("/v1/products/analyze", json={"image": URI, "index": "nowhere", "explain": False})
    assert response.status_code == 200
    body = response.json()
    assert body["caption"]["answer"] == "a red star"
    assert body["attributes"]["error"]["code"] == "invalid_output"
    assert body["similar"]["error"]["code"] == "index_not_found"


async def test_a_product_whose_every_part_fails(http: httpx.AsyncClient, site: CascadeSite) -> None:
    site.chat.script = [(0, InvalidMedia("torn", code="truncated_image"))] * 2
    response = await http.post("/v1/products/analyze", json={"image": URI})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "truncated_image")


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, (400, "missing_field", "image")),
        ({"image": "!"}, (400, "invalid_base64", "image")),
        ({"image": URI, "caption": "nothing"}, (404, "cascade_not_found", "caption")),
        ({"image": URI, "attributes": "nothing"}, (404, "cascade_not_found", "attributes")),
        ({"image": URI, "filter": "x"}, (400, "invalid_json", "filter")),
    ],
)
async def test_products_refuse(http: httpx.AsyncClient, body: dict[str, Any], wanted: tuple[int, str, str]) -> None:
    assert await error_of(await http.post("/v1/products/analyze", json=body)) == wanted


async def test_a_search_describes_its_first_hits(shop: httpx.AsyncClient, site: CascadeSite) -> None:
    site.chat.says = "a red thing"
    body = (await shop.post("/v1/search/products", json={"index": "shop", "image": URI})).json()
    hits = {hit["id"]: hit for hit in body["hits"]}
    assert body["hits"][0]["id"] == "a"
    assert hits["a"]["description"]["answer"] == "a red thing"
    assert hits["b"]["description"]["error"]["param"].endswith("].metadata.image")
    assert hits["c"]["description"] is None, "its metadata name no image"
    plain = await shop.post("/v1/search/products", json={"index": "shop", "text": "a third", "describe": 0, "k": 1})
    assert [(hit["id"], hit["description"]) for hit in plain.json()["hits"]] == [("c", None)]


async def test_a_search_without_a_cascade_to_describe_with() -> None:
    async with CascadeSite(cascades={"vqa": CASCADES["vqa"]}).client() as client:
        response = await client.post("/v1/search/products", json={"index": "shop", "text": "x"})
        assert await error_of(response) == (404, "not_configured", "caption")
        none = await client.post("/v1/products/analyze", json={"image": URI})
        assert none.json()["error"]["code"] == "not_configured"
