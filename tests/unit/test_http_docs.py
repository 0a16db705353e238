"""The OpenAPI document and the page that shows it, which must work without any other server."""

from __future__ import annotations

import re

from tests.unit.fakes import Site


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
