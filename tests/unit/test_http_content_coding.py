"""Bodies that come compressed: read on every route, within the limit of what they hold, and refused by code."""

from __future__ import annotations

import base64
import gzip
import io
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from tests.unit.fakes import MAX_BODY, Site, cluster, png

PNG = png()
CLASSIFY = {"labels": ["cat", "dog"], "image": base64.b64encode(PNG).decode()}
JSON = {"content-type": "application/json"}


def error_of(response: httpx.Response, status: int) -> tuple[str, str | None]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    return error["code"], error["param"]


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP", gzip.compress)],
)
async def test_json(client: httpx.AsyncClient, encoding: str, packed: Any) -> None:
    body = orjson.dumps(CLASSIFY)
    plain = await client.post("/v1/classify", content=body, headers=JSON)
    answer = await client.post("/v1/classify", content=packed(body), headers=JSON | {"content-encoding": encoding})
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"] == plain.json()["results"]


async def test_a_form_and_a_raw_image(client: httpx.AsyncClient) -> None:
    plain = await client.post("/v1/classify", json=CLASSIFY)
    form = client.build_request("POST", "/v1/classify", files={"image": PNG}, data={"labels": "cat,dog"})
    raw = client.build_request(
        "POST", "/v1/classify", params={"labels": "cat,dog"}, content=PNG, headers={"content-type": "image/png"}
    )
    for request in (form, raw):
        headers = {"content-type": request.headers["content-type"], "content-encoding": "gzip"}
        body = gzip.compress(await request.aread())
        answer = await client.post(request.url, content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["results"] == plain.json()["results"]


@pytest.mark.parametrize("encoding", ["identity", ""])
async def test_a_body_that_is_said_to_be_plain(client: httpx.AsyncClient, encoding: str) -> None:
    answer = await client.post("/v1/classify", json=CLASSIFY, headers={"content-encoding": encoding})
    assert answer.status_code == 200


# A route of each way in which bodies are read.
ROUTES = [
    ("POST", "/v1/classify", "application/json"),
    ("POST", "/v1/chat/completions", "application/json"),
    ("PUT", "/v1/indexes/shoes", "application/json"),
    ("POST", "/v1/jobs", "application/json"),
    ("POST", "/v1/sessions/s/messages", "application/json"),
    ("POST", "/v1/scenes/table/undo", "application/json"),
    ("POST", "/v1/scenes", "application/octet-stream"),
    ("POST", "/v1/reconstructions", "application/zip"),
    ("POST", "/v1/videos/describe", "video/mp4"),
    ("POST", "/v1/documents/text", "application/pdf"),
]


@pytest.mark.parametrize(("method", "path", "content_type"), ROUTES)
async def test_a_coding_that_is_not_read(client: httpx.AsyncClient, method: str, path: str, content_type: str) -> None:
    headers = {"content-type": content_type, "content-encoding": "br"}
    answer = await client.request(method, path, content=b"x", headers=headers)
    assert error_of(answer, 415) == ("unsupported_content_encoding", "content-encoding")
    assert answer.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(("method", "path", "content_type"), ROUTES)
async def test_a_body_that_is_cut_off(client: httpx.AsyncClient, method: str, path: str, content_type: str) -> None:
    headers = {"content-type": content_type, "content-encoding": "gzip"}
    answer = await client.request(method, path, content=gzip.compress(b"{}")[:-3], headers=headers)
    assert error_of(answer, 400) == ("invalid_content_encoding", "body")


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("gzip", b""),
        ("gzip", b"{}"),
        ("gzip", zlib.compress(b"{}")),
        ("deflate", gzip.compress(b"{}")),
        ("deflate", raw_deflate(b"{}")),
        ("gzip", gzip.compress(b"{}")[:-8] + bytes(8)),  # another checksum
        ("gzip", gzip.compress(b"{}") + b"junk"),
    ],
)
async def test_a_body_that_is_something_else(client: httpx.AsyncClient, encoding: str, content: bytes) -> None:
    headers = JSON | {"content-encoding": encoding}
    answer = await client.post("/v1/classify", content=content, headers=headers)
    assert error_of(answer, 400) == ("invalid_content_encoding", "body")


async def test_codings_on_top_of_each_other(client: httpx.AsyncClient) -> None:
    twice = gzip.compress(gzip.compress(orjson.dumps(CLASSIFY)))
    one_header = JSON | {"content-encoding": "gzip, gzip"}
    two_headers = [*JSON.items(), ("content-encoding", "gzip"), ("content-encoding", "gzip")]
    for headers in (one_header, two_headers):
        answer = await client.post("/v1/classify", content=twice, headers=headers)
        assert error_of(answer, 415)[0] == "unsupported_content_encoding"


async def test_the_limit_is_that_of_what_comes_out(client: httpx.AsyncClient) -> None:
    headers = JSON | {"content-encoding": "gzip"}
    body = orjson.dumps(CLASSIFY).ljust(MAX_BODY)
    fits = await client.post("/v1/classify", content=gzip.compress(body), headers=headers)
    assert fits.status_code == 200
    above = await client.post("/v1/classify", content=gzip.compress(body + b" "), headers=headers)
    assert error_of(above, 413) == ("payload_too_large", "body")


async def test_the_limit_is_that_of_what_comes_in_too(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(MAX_BODY // 2)

    answer = await client.post("/v1/classify", content=chunks(), headers=JSON | {"content-encoding": "gzip"})
    assert error_of(answer, 413) == ("payload_too_large", "body")


def bomb(megabytes: int) -> bytes:
    """So many MB of zeros, in a thousandth of that."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        for _ in range(megabytes):
            file.write(bytes(1_000_000))
    return packed.getvalue()


async def test_a_bomb_is_stopped_at_the_limit() -> None:
    limit, content = 1 << 20, bomb(200)
    assert len(content) < limit / 4
    async with Site(cluster(limits={"max_body_bytes": limit})).client() as client:
        tracemalloc.start()
        try:
            headers = JSON | {"content-encoding": "gzip"}
            answer = await client.post("/v1/classify", content=content, headers=headers)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert error_of(answer, 413) == ("payload_too_large", "body")
    assert peak < 8 * limit
