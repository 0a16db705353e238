"""`/v1/knowledge`: documents in, passages out."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from serve.errors import ModelFailed
from tests.support import support_site
from tests.support.support_site import ROOT, SHIPPING, TEXT, WARRANTY, SupportSite, done, error_of, put, search

# pytest finds fixtures by the names of a module.
built = support_site.built
site = support_site.site
client = support_site.client


async def vectors(site: SupportSite) -> int:
    """Chunks in the vector index."""
    infos = await site.stores["index"].replica.list_indexes()
    return sum(info.count for info in infos)


async def test_documents_are_stored_found_and_deleted(client: httpx.AsyncClient, site: SupportSite) -> None:
    made = await put(client, title="Terms")
    assert (made["object"], made["knowledge"], made["id"], made["title"]) == ("document", "shop", "terms", "Terms")
    assert (made["chunks"], made["characters"]) == (3, len(TEXT)) and await vectors(site) == 3
    assert await done(await client.get(f"{ROOT}/shop/documents/terms")) == {**made, "text": TEXT}
    assert (await done(await client.get(f"{ROOT}/shop/documents")))["data"] == [made]
    base = {"object": "knowledge", "name": "shop", "documents": 1, "chunks": 3}
    assert await done(await client.get(f"{ROOT}/shop")) == base
    assert (await done(await client.get(ROOT)))["data"] == [base]
    assert (await done(await client.delete(f"{ROOT}/shop/documents/terms")))["deleted"] is True
    assert await vectors(site) == 0
    for response in (
        await client.get(f"{ROOT}/shop/documents/terms"),
        await client.delete(f"{ROOT}/shop/documents/terms"),
    ):
        assert error_of(response, 404) == ("document_not_found", "id")
    assert error_of(await client.get(f"{ROOT}/shop"), 404) == ("knowledge_not_found", "knowledge")
    await put(client)
    assert (await done(await client.delete(f"{ROOT}/shop")))["documents"] == 1
    assert (await done(await client.delete(f"{ROOT}/shop")))["deleted"] is False
    assert (await done(await client.get(ROOT)))["data"] == [] and await vectors(site) == 0


async def test_a_replaced_document_leaves_nothing_behind(client: httpx.AsyncClient, site: SupportSite) -> None:
    first = await put(client)
    assert await put(client) == first and await vectors(site) == 3
    await put(client, text=f"{WARRANTY}\n\nNothing else.")
    await put(client, "other", text=SHIPPING)
    found = await search(client, "warranty shoes shipping", 10)
    assert sorted(chunk["text"] for chunk in found["chunks"]) == sorted([WARRANTY, "Nothing else.", SHIPPING])
    assert await vectors(site) == 3


async def test_many_chunks_are_embedded_in_steps(client: httpx.AsyncClient, site: SupportSite) -> None:
    text = "\n\n".join(f"Paragraph number {i} speaks about subject {i}." for i in range(11))
    assert (await put(client, text=text))["chunks"] == 11 and await vectors(site) == 11


async def test_words_and_vectors_find_together(client: httpx.AsyncClient, site: SupportSite) -> None:
    await put(client)
    by_words = await search(client, "warranty watches")
    assert by_words["chunks"][0]["text"] == WARRANTY and by_words["coverage"] == pytest.approx(1)
    # No word in common, so the vectors alone: the fake embeds equal texts alike, and these are all there are.
    by_vector = await search(client, "zebra")
    assert by_vector["coverage"] == 0 and len(by_vector["chunks"]) == 3
    assert -1 <= by_vector["similarity"] <= 1
    exact = await search(client, SHIPPING, 1)
    assert exact["chunks"][0]["text"] == SHIPPING and exact["similarity"] == pytest.approx(1, abs=1e-5)


async def test_titles_are_found_by_words_and_by_vectors(client: httpx.AsyncClient, site: SupportSite) -> None:
    await put(client, text=SHIPPING, title="Delivery")
    found = await search(client, "delivery", 1)
    assert found["chunks"][0]["title"] == "Delivery" and found["coverage"] == pytest.approx(1)
    exact = await search(client, f"Delivery\n{SHIPPING}", 1)
    assert exact["similarity"] == pytest.approx(1, abs=1e-5)
    # A title gives way where both together would be longer than texts may be (200 characters here).
    await put(client, text=WARRANTY, title="t" * 300)
    longest = "t" * (199 - len(WARRANTY))
    assert (await search(client, f"{longest}\n{WARRANTY}", 1))["similarity"] == pytest.approx(1, abs=1e-5)


async def test_a_vector_without_its_chunk_is_not_found(client: httpx.AsyncClient, site: SupportSite) -> None:
    await put(client)
    site.stores["docs"].failing["put"] = [ModelFailed("disk")]
    failed = await client.put(f"{ROOT}/shop/documents/new", json={"text": "An orphan."})
    assert error_of(failed, 500)[0] == "model_failed" and await vectors(site) == 4
    found = await search(client, "An orphan.", 10)
    assert {chunk["document"] for chunk in found["chunks"]} == {"terms"}
    await put(client, "new", "Another text.")
    assert await vectors(site) == 4  # swept with the document's next change


@pytest.mark.parametrize(
    ("path", "fields", "status", "code", "param"),
    [
        ("Shop/documents/a", {"text": "x"}, 400, "invalid_name", "name"),
        ("x" * 61 + "/documents/a", {"text": "x"}, 400, "invalid_name", "name"),
        ("shop/documents/a%20b", {"text": "x"}, 400, "invalid_name", "id"),
        ("shop/documents/a", {}, 400, "missing_field", "text"),
        ("shop/documents/a", {"text": ""}, 400, "invalid_field", "text"),
        ("shop/documents/a", {"text": " \n"}, 400, "empty_text", "text"),
        ("shop/documents/a", {"text": "x" * 2001}, 400, "text_too_long", "text"),
        ("shop/documents/a", {"text": "x", "title": ""}, 400, "invalid_field", "title"),
        ("shop/documents/a", {"text": "x", "name": "y"}, 400, "unknown_field", "name"),
    ],
)
async def test_a_document_that_cannot_be(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    assert error_of(await client.put(f"{ROOT}/{path}", json=fields), status) == (code, param)
    assert (await done(await client.get(ROOT)))["data"] == []


async def test_searches_and_lists_that_cannot_be(client: httpx.AsyncClient) -> None:
    await put(client)
    for body, code, param in (
        ({"query": " "}, "empty_text", "query"),
        ({"query": "x" * 201}, "text_too_long", "query"),
        ({"query": "x", "k": 0}, "invalid_field", "k"),
        ({"query": "x", "k": 51}, "invalid_field", "k"),
        ({}, "missing_field", "query"),
    ):
        assert error_of(await client.post(f"{ROOT}/shop/search", json=body), 400) == (code, param)
    for name in ("nothing", "No%20name"):
        response = await client.post(f"{ROOT}/{name}/search", json={"query": "x"})
        assert error_of(response, 404) == ("knowledge_not_found", "knowledge")
    assert error_of(await client.get(f"{ROOT}/shop/documents?limit=0"), 400) == ("invalid_field", "limit")
    assert (await done(await client.get(f"{ROOT}/shop/documents?after=terms")))["data"] == []
