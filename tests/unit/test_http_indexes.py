"""`/v1/indexes`: image search over HTTP."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from deployments.vector_filter import parse_filter
from serve.errors import InvalidRequest
from tests.unit.fakes import DIMENSION, Site, cluster, png

PNG = png()
BASE64 = base64.b64encode(PNG).decode()
ROOT = "/v1/indexes"


async def done(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def error_of(response: httpx.Response, status: int) -> tuple[str, str | None]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    return error["code"], error["param"]


async def make(client: httpx.AsyncClient, name: str = "shoes", **fields: Any) -> dict[str, Any]:
    return await done(await client.put(f"{ROOT}/{name}", json=fields))


async def add(client: httpx.AsyncClient, *items: dict[str, Any], name: str = "shoes") -> httpx.Response:
    return await client.post(f"{ROOT}/{name}/items", json={"items": items})


async def search(client: httpx.AsyncClient, name: str = "shoes", **fields: Any) -> list[dict[str, Any]]:
    body = await done(await client.post(f"{ROOT}/{name}/search", json=fields))
    assert (body["object"], body["index"]) == ("hits", name)
    hits: list[dict[str, Any]] = body["hits"]
    return hits


async def test_an_index_lives_and_dies(client: httpx.AsyncClient) -> None:
    created = await make(client, metric="dot")
    assert (created["object"], created["name"], created["metric"]) == ("index", "shoes", "dot")
    assert (created["dimension"], created["model"], created["count"]) == (DIMENSION, "clip", 0)
    assert await make(client, metric="dot") == created
    assert (await done(await client.get(ROOT)))["data"] == [created]
    assert await done(await client.get(f"{ROOT}/shoes")) == created
    assert (await done(await client.delete(f"{ROOT}/shoes")))["deleted"] is True
    assert error_of(await client.get(f"{ROOT}/shoes"), 404) == ("index_not_found", "name")
    assert (await done(await client.get(ROOT)))["data"] == []


async def test_an_index_needs_nothing_said_of_it(client: httpx.AsyncClient) -> None:
    assert (await done(await client.put(f"{ROOT}/shoes")))["model"] == "clip"
    assert error_of(await client.post(f"{ROOT}/shoes/delete"), 400)[0] == "invalid_json"


async def test_a_dimension_without_a_model(client: httpx.AsyncClient) -> None:
    created = await make(client, dimension=3)
    assert (created["dimension"], created["model"]) == (3, None)
    assert error_of(await client.put(f"{ROOT}/shoes", json={"dimension": 5}), 409)[0] == "conflict"
    for fields in ({"image": BASE64}, {"text": "red"}):
        refused = await client.post(f"{ROOT}/shoes/search", json=fields)
        assert error_of(refused, 400) == ("index_without_model", next(iter(fields)))


@pytest.mark.parametrize(
    ("name", "fields", "status", "code", "param"),
    [
        ("Shoes", {}, 400, "invalid_index_name", "name"),
        ("shoes", {"metric": "cos"}, 400, "invalid_field", "metric"),
        ("shoes", {"kind": "tree"}, 400, "invalid_field", "kind"),
        ("shoes", {"dimension": 0}, 400, "invalid_field", "dimension"),
        ("shoes", {"dimension": 10**6}, 400, "invalid_request", "dimension"),
        ("shoes", {"hnsw_m": 1}, 400, "invalid_request", "hnsw_m"),
        ("shoes", {"nlist": 4, "nprobe": 5}, 400, "invalid_request", "nprobe"),
        ("shoes", {"model": "nope"}, 404, "model_not_found", "model"),
        ("shoes", {"model": "judge"}, 400, "task_not_supported", "model"),
        ("shoes", {"name": "boots"}, 400, "unknown_field", "name"),
    ],
)
async def test_an_index_that_cannot_be(
    client: httpx.AsyncClient, name: str, fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    assert error_of(await client.put(f"{ROOT}/{name}", json=fields), status) == (code, param)
    assert (await done(await client.get(ROOT)))["data"] == []


async def test_items_by_image_text_and_vector(client: httpx.AsyncClient) -> None:
    await make(client)
    body = await done(
        await add(
            client,
            {"id": "i", "image": BASE64, "metadata": {"colour": "red", "sizes": [41, 42]}},
            {"id": "t", "text": "a red shoe"},
            {"id": "v", "vector": [1, 0, 0, 0.5]},
        )
    )
    assert body == {"object": "items", "index": "shoes", "added": 3}
    item = await done(await client.get(f"{ROOT}/shoes/items/i"))
    assert (item["object"], item["id"], item["metadata"]) == ("item", "i", {"colour": "red", "sizes": [41, 42]})
    embedded = (await client.post("/v1/embeddings", json={"image": BASE64})).json()["data"][0]["embedding"]
    assert item["vector"] == embedded
    assert (await done(await client.get(f"{ROOT}/shoes/items/v")))["vector"] == [1, 0, 0, 0.5]
    assert error_of(await client.get(f"{ROOT}/shoes/items/x"), 404) == ("item_not_found", "id")
    assert (await done(await client.get(f"{ROOT}/shoes")))["count"] == 3


async def test_an_item_id_with_slashes(client: httpx.AsyncClient) -> None:
    await make(client)
    await done(await add(client, {"id": "a/b c/d.png", "text": "x"}))
    assert (await done(await client.get(f"{ROOT}/shoes/items/a/b%20c/d.png")))["id"] == "a/b c/d.png"
    assert (await done(await client.delete(f"{ROOT}/shoes/items/a/b%20c/d.png")))["deleted"] == 1


@pytest.mark.parametrize(
    "options",
    [
        {"files": {"image": ("x.png", PNG, "image/png")}, "data": {"id": "i", "metadata": '{"colour": "red"}'}},
        {
            "content": PNG,
            "headers": {"content-type": "image/png"},
            "params": {"id": "i", "metadata": '{"colour": "red"}'},
        },
    ],
    ids=["multipart", "raw"],
)
async def test_an_item_from_a_file(client: httpx.AsyncClient, options: dict[str, Any]) -> None:
    await make(client)
    assert (await done(await client.post(f"{ROOT}/shoes/items", **options)))["added"] == 1
    item = await done(await client.get(f"{ROOT}/shoes/items/i"))
    assert item["metadata"] == {"colour": "red"}
    await done(await add(client, {"id": "j", "image": BASE64}))
    assert item["vector"] == (await done(await client.get(f"{ROOT}/shoes/items/j")))["vector"]


@pytest.mark.parametrize(
    ("items", "code", "param"),
    [
        ([], "invalid_field", "items"),
        ([{"text": "x"}], "missing_field", "items[0].id"),
        ([{"id": "a", "text": "x", "color": 1}], "unknown_field", "items[0].color"),
        ([{"id": "a", "text": "x"}, {"id": "b"}], "missing_field", "items[1]"),
        ([{"id": "a", "text": "x", "image": BASE64}], "missing_field", "items[0]"),
        ([{"id": "a", "text": " "}], "empty_text", "items[0].text"),
        ([{"id": "a", "text": "x"}, {"id": "b", "image": "?"}], "invalid_base64", "items[1].image"),
        ([{"id": "a", "vector": ["x"]}], "invalid_field", "items[0].vector[0]"),
        ([{"id": "a", "text": "x", "metadata": 5}], "invalid_field", "items[0].metadata"),
    ],
)
async def test_all_items_or_none(client: httpx.AsyncClient, items: list[dict[str, Any]], code: str, param: str) -> None:
    await make(client)
    assert error_of(await add(client, *items), 400) == (code, param)
    assert (await done(await client.get(f"{ROOT}/shoes")))["count"] == 0


@pytest.mark.parametrize("metadata", ["[1]", "{", "5"])
async def test_metadata_of_a_file_is_an_object(client: httpx.AsyncClient, metadata: str) -> None:
    await make(client)
    files = {"image": ("x.png", PNG, "image/png")}
    response = await client.post(f"{ROOT}/shoes/items", files=files, data={"id": "i", "metadata": metadata})
    assert error_of(response, 400) == ("invalid_json", "metadata")


async def test_search_by_vector_image_and_text(client: httpx.AsyncClient) -> None:
    await make(client)
    await done(await add(client, {"id": "i", "image": BASE64, "metadata": {"n": 1}}, {"id": "t", "text": "red"}))
    hits = await search(client, image=BASE64)
    assert hits[0]["id"] == "i"
    assert hits[0]["metadata"] == {"n": 1}
    assert hits[0]["score"] == pytest.approx(1, abs=1e-6)
    assert hits[0]["score"] >= hits[1]["score"]
    assert "vector" not in hits[0]
    assert (await search(client, text="red"))[0]["id"] == "t"
    vector = (await done(await client.get(f"{ROOT}/shoes/items/t")))["vector"]
    [hit] = await search(client, vector=vector, k=1, include_vectors=True)
    assert (hit["id"], hit["vector"]) == ("t", vector)
    raw = await client.post(
        f"{ROOT}/shoes/search", content=PNG, headers={"content-type": "image/png"}, params={"k": "1"}
    )
    assert [found["id"] for found in (await done(raw))["hits"]] == ["i"]
    form = await client.post(f"{ROOT}/shoes/search", files={"image": ("x", PNG, "image/png")})
    assert (await done(form))["hits"] == hits


async def test_filters_are_parsed(client: httpx.AsyncClient, site: Site) -> None:
    await make(client)
    condition = {"category": "shoe", "price": {"lt": 30}}
    await search(client, text="x", filter=condition)
    files = {"image": ("x", PNG, "image/png")}
    await done(await client.post(f"{ROOT}/shoes/search", files=files, data={"filter": json.dumps(condition)}))
    await done(await client.post(f"{ROOT}/shoes/delete", json={"filter": condition}))
    assert site.store.filters == [parse_filter(condition)] * 3


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({}, 400, "missing_field", "vector"),
        ({"text": "x", "vector": [1]}, 400, "missing_field", "vector"),
        ({"text": "x", "k": 0}, 400, "invalid_field", "k"),
        ({"text": "x", "k": 1001}, 400, "invalid_field", "k"),
        ({"text": "x", "top": 3}, 400, "unknown_field", "top"),
        ({"text": "x", "filter": "["}, 400, "invalid_json", "filter"),
        ({"image": "?"}, 400, "invalid_base64", "image"),
        ({"text": "x" * 61}, 400, "text_too_long", "text"),
    ],
)
async def test_a_search_that_is_none(
    client: httpx.AsyncClient, fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    await make(client)
    assert error_of(await client.post(f"{ROOT}/shoes/search", json=fields), status) == (code, param)


async def test_an_unknown_operator_is_refused_before_anything_is_embedded(
    client: httpx.AsyncClient, site: Site
) -> None:
    await make(client)
    before = len(site.model.requests("embed"))
    response = await client.post(f"{ROOT}/shoes/search", json={"text": "x", "filter": {"price": {"below": 3}}})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("filter")
    assert len(site.model.requests("embed")) == before


async def test_delete(client: httpx.AsyncClient) -> None:
    await make(client)
    await done(await add(client, *({"id": name, "text": name} for name in "abc")))
    deleted = await done(await client.post(f"{ROOT}/shoes/delete", json={"ids": ["a", "x"]}))
    assert deleted == {"object": "items", "index": "shoes", "deleted": 1}
    assert (await done(await client.delete(f"{ROOT}/shoes/items/b")))["deleted"] == 1
    assert (await done(await client.delete(f"{ROOT}/shoes/items/b")))["deleted"] == 0
    assert [hit["id"] for hit in await search(client, text="x")] == ["c"]


@pytest.mark.parametrize("fields", [{}, {"ids": ["a"], "filter": {"a": 1}}])
async def test_delete_what(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    await make(client)
    assert error_of(await client.post(f"{ROOT}/shoes/delete", json=fields), 400) == ("missing_field", "ids")


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", "", {}),
        ("DELETE", "", {}),
        ("GET", "/items/a", {}),
        ("POST", "/items", {"json": {"items": [{"id": "a", "text": "x"}]}}),
        ("POST", "/search", {"json": {"vector": [1]}}),
        ("POST", "/delete", {"json": {"ids": ["a"]}}),
    ],
)
async def test_an_index_that_is_not_there(
    client: httpx.AsyncClient, method: str, path: str, options: dict[str, Any]
) -> None:
    response = await client.request(method, f"{ROOT}/none{path}", **options)
    assert error_of(response, 404) == ("index_not_found", "name")


async def test_a_cluster_without_a_store() -> None:
    async with Site(cluster(models={"clip": {"kind": "clip", "checkpoint": "a/b"}})).client() as client:
        assert error_of(await client.get(ROOT), 404)[0] == "no_vector_index"
        assert error_of(await client.put(f"{ROOT}/a", json={"dimension": 3}), 404)[0] == "no_vector_index"


async def test_a_dimension_that_the_model_does_not_have(client: httpx.AsyncClient) -> None:
    wrong = {"model": "clip", "dimension": DIMENSION + 1}
    assert error_of(await client.put(f"{ROOT}/shoes", json=wrong), 400) == ("dimension_mismatch", "dimension")
    assert (await make(client, model="clip", dimension=DIMENSION))["dimension"] == DIMENSION


@pytest.mark.parametrize(
    ("wrong", "param"), [({"id": ""}, "items[1].id"), ({"metadata": {"$key": 1}}, "items[1].metadata")]
)
async def test_what_is_wrong_beside_a_picture_is_said_before_any_is_embedded(
    client: httpx.AsyncClient, site: Site, wrong: dict[str, Any], param: str
) -> None:
    await make(client)
    items = [{"id": "a", "image": BASE64}, {"id": "b", "image": BASE64, **wrong}]
    assert error_of(await add(client, *items), 400)[1] == param
    assert site.model.requests("embed") == []


async def test_a_failed_embedding_adds_nothing(client: httpx.AsyncClient, site: Site) -> None:
    await make(client)
    site.model.failing[b"text:bad"] = ValueError("odd")
    response = await add(client, {"id": "a", "text": "good"}, {"id": "b", "text": "bad"})
    assert error_of(response, 500) == ("model_failed", "items[1].text")
    assert (await done(await client.get(f"{ROOT}/shoes")))["count"] == 0


async def test_a_search_vector_that_the_store_refuses_is_blamed_by_its_own_name(
    client: httpx.AsyncClient, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(client, dimension=3)

    async def refuse(method: str, *args: Any, **kwargs: Any) -> Any:
        raise InvalidRequest("no", code="dimension_mismatch", param="queries[0]")

    monkeypatch.setattr(site.store, "call", refuse)
    response = await client.post(f"{ROOT}/shoes/search", json={"vector": [1.0, 2.0]})
    assert error_of(response, 400) == ("dimension_mismatch", "vector")


async def test_an_index_never_mixes_vectors_of_two_checkpoints() -> None:
    def site(revision: str) -> Site:
        clip = {"kind": "clip", "checkpoint": "hub/clip", "revision": revision}
        return Site(cluster(models={"clip": clip, "index": {"kind": "vector_index"}}))

    before, after = site("one"), site("two")
    async with before.client() as client:
        assert (await make(client))["checkpoint"] == "hub/clip@one"
        await done(await add(client, {"id": "a", "text": "red"}))
    after.store._indexes = before.store._indexes
    async with after.client() as client:
        for fields in ({"text": "red"}, {"image": BASE64}):
            found = await client.post(f"{ROOT}/shoes/search", json=fields)
            assert error_of(found, 409) == ("index_of_another_checkpoint", next(iter(fields)))
        refused = await add(client, {"id": "v", "vector": [1, 0, 0, 0]}, {"id": "b", "text": "blue"})
        assert error_of(refused, 409) == ("index_of_another_checkpoint", "items[1].text")
        await done(await add(client, {"id": "v", "vector": [1, 0, 0, 0]}))
        assert len(await search(client, vector=[1, 0, 0, 0])) == 2
        assert (await done(await client.delete(f"{ROOT}/shoes/items/a")))["deleted"] == 1
        assert after.model.requests("embed") == []


async def test_an_index_without_a_checkpoint_on_record_takes_everything(client: httpx.AsyncClient, site: Site) -> None:
    await make(client)
    spec, items = site.store._indexes["shoes"]
    site.store._indexes["shoes"] = replace(spec, checkpoint=None), items
    await done(await add(client, {"id": "a", "text": "red"}))
    assert [hit["id"] for hit in await search(client, text="red")] == ["a"]


async def test_the_document_tells_what_an_index_may_be_called(client: httpx.AsyncClient) -> None:
    paths = (await done(await client.get("/openapi.json")))["paths"]
    named = [operations for path, operations in paths.items() if path.startswith(f"{ROOT}/{{name}}")]
    parameters = [one for operations in named for operation in operations.values() for one in operation["parameters"]]
    patterns = {one["schema"].get("pattern") for one in parameters if one["name"] == "name"}
    assert patterns == {"^[a-z0-9][a-z0-9_-]{0,62}$"}
