"""The edge: keys, deadlines, admission, and one shape for whatever goes wrong."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve.errors import DeadlineExceeded, Overloaded, Unavailable
from tests.unit.fakes import KEYS, Site, bodies_of_head, cluster, png

IMAGE = base64.b64encode(png()).decode()
FIELDS = {"labels": ["a", "b"], "image": IMAGE}
OPEN = ["/v1/healthz", "/v1/readyz", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"]
GUARDED = ["/v1/models", "/v1/models/clip", "/v1/indexes", "/v2", "/v2/models/clip.classify", "/nowhere"]


async def classify(client: httpx.AsyncClient, **options: Any) -> httpx.Response:
    return await client.post("/v1/classify", json=FIELDS, **options)


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error's fields, from either shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()
    if response.request.url.path.startswith("/v2"):
        assert isinstance(body["error"], str)
        assert body["error"] == body["message"]
        return {key: value for key, value in body.items() if key != "error"}
    assert set(body) == {"error"}
    return dict(body["error"])


@pytest.fixture(scope="module")
def _locked() -> Site:
    return Site(cluster(keys=True))


@pytest.fixture
def locked(_locked: Site) -> Site:
    _locked.reset()
    return _locked


@pytest.mark.parametrize("path", GUARDED)
async def test_without_a_key(locked: Site, path: str) -> None:
    async with locked.client() as client:
        response = await client.get(path)
        assert error_of(response, 401)["code"] == "unauthenticated"
        assert response.headers["www-authenticate"] == "Bearer"
        wrong = await client.get(path, headers={"authorization": "Bearer nope"})
        assert error_of(wrong, 401)["code"] == "invalid_api_key"
        assert wrong.headers["www-authenticate"] == "Bearer"
    assert locked.model.calls == []


@pytest.mark.parametrize("path", OPEN)
async def test_open_without_a_key(locked: Site, path: str) -> None:
    async with locked.client() as client:
        assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize("name", KEYS)
async def test_with_a_key(locked: Site, name: str) -> None:
    async with locked.client() as client:
        for headers in ({"authorization": f"Bearer {KEYS[name]}"}, {"x-api-key": KEYS[name]}):
            assert (await classify(client, headers=headers)).status_code == 200
    assert [record.client for record in locked.recorder.requests] == [name, name]


async def test_no_secret_in_what_is_recorded(locked: Site) -> None:
    async with locked.client(headers={"x-api-key": KEYS["alice"]}) as client:
        await client.get("/v1/models", params={"token": KEYS["bob"]})
    assert not any(key in repr(locked.recorder.requests) for key in KEYS.values())


@pytest.mark.parametrize("stated", ["soon", "0", "-1", "nan", "inf", ""])
@pytest.mark.parametrize("path", ["/v1/models", "/v2/models/clip.classify"])
async def test_a_deadline_that_is_none(client: httpx.AsyncClient, stated: str, path: str) -> None:
    error = error_of(await client.get(path, headers={"x-argus-timeout-ms": stated}), 400)
    assert error["param"] == "x-argus-timeout-ms"


async def test_a_deadline_that_passes(client: httpx.AsyncClient, site: Site) -> None:
    response = await classify(client, headers={"x-argus-timeout-ms": "0.0001"})
    assert error_of(response, 504)["code"] == "deadline_exceeded"
    assert site.model.calls == []


async def test_a_body_that_does_not_end_is_not_waited_for(client: httpx.AsyncClient, site: Site) -> None:
    async def drops() -> AsyncIterator[bytes]:
        yield b'{"labels": ["a", "b"], "image": "'
        await asyncio.Event().wait()

    headers = {"content-type": "application/json", "x-argus-timeout-ms": "2000"}
    response = await client.post("/v1/classify", content=drops(), headers=headers)
    error = error_of(response, 408)
    assert (error["code"], error["param"]) == ("request_too_slow", "body")
    assert response.headers["connection"] == "close"
    assert site.recorder.requests[-1].fault == "client"
    assert site.model.calls == []


async def test_a_deadline_that_suffices(client: httpx.AsyncClient) -> None:
    assert (await classify(client, headers={"x-argus-timeout-ms": "60000"})).status_code == 200


@pytest.mark.parametrize("given", ["req-1", "0af7651916cd43dd8448eb211c80319c"])
async def test_a_request_id_is_kept(client: httpx.AsyncClient, site: Site, given: str) -> None:
    error = error_of(await client.get("/nowhere", headers={"x-request-id": given}), 404)
    assert error["request_id"] == given
    assert site.recorder.requests[-1].request_id == given


async def test_a_request_id_that_is_not_harmless_is_replaced(client: httpx.AsyncClient) -> None:
    error = error_of(await client.get("/nowhere", headers={"x-request-id": "x" * 300}), 404)
    assert error["request_id"] not in ("", "x" * 300)


@pytest.mark.parametrize("path", ["/nowhere", "/v1", "/v1/nope", "/v2/nope", "/v2/models/clip.classify/nope"])
async def test_no_such_route(client: httpx.AsyncClient, site: Site, path: str) -> None:
    error = error_of(await client.get(path), 404)
    assert (error["code"], error["type"]) == ("route_not_found", "not_found_error")
    assert site.recorder.requests[-1].route == "unmatched"


@pytest.mark.parametrize("path", [*OPEN, "/v1/models", "/v1/models/clip", "/v1/models/nope", "/v2", "/nowhere"])
async def test_head_is_get_without_the_body(client: httpx.AsyncClient, site: Site, path: str) -> None:
    got = await client.get(path, headers={"x-request-id": "r-1"})
    head = await client.head(path, headers={"x-request-id": "r-1"})
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers == got.headers
    assert await bodies_of_head(site.app, path) == [b""] or path in ("/docs", "/openapi.json"), "left to the server"
    first, second = site.recorder.requests[:2]
    assert (first.route, first.outcome, first.status) == (second.route, second.outcome, second.status)


async def test_head_needs_the_key_that_get_needs(locked: Site) -> None:
    async with locked.client() as client:
        assert (await client.head("/v1/models")).status_code == 401
        assert (await client.head("/v1/models", headers={"x-api-key": KEYS["alice"]})).status_code == 200


async def test_head_of_what_is_only_posted(client: httpx.AsyncClient, site: Site) -> None:
    assert await bodies_of_head(site.app, "/v1/classify") == [b""]
    response = await client.head("/v1/classify")
    assert (response.status_code, response.content) == (405, b"")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/classify", "POST"),
        ("PUT", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v2/models/clip.classify/infer", "POST"),
        ("POST", "/v2/health/live", "GET, HEAD"),
    ],
)
async def test_another_method(client: httpx.AsyncClient, method: str, path: str, allowed: str) -> None:
    response = await client.request(method, path)
    error = error_of(response, 405)
    assert error["code"] == "method_not_allowed"
    assert allowed in error["message"]
    assert response.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/v1/classify", "/v2/models/clip.classify/infer"])
async def test_an_exception_is_said_without_its_text(client: httpx.AsyncClient, site: Site, path: str) -> None:
    site.model.raises = RuntimeError("password=hunter2 at /srv/secret.py")
    inputs = [
        {"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [IMAGE]},
        {"name": "LABELS", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]},
    ]
    response = await client.post(path, json={"inputs": inputs} if path.startswith("/v2") else FIELDS)
    error = error_of(response, 500)
    assert error["code"] == "internal"
    assert error["request_id"] in response.text
    assert "hunter2" not in response.text
    assert "RuntimeError" not in response.text
    assert site.recorder.requests[-1].outcome == "internal"
    site.model.raises = None
    assert (await classify(client)).status_code == 200


@pytest.mark.parametrize(
    ("raised", "status", "retry_after"),
    [
        (Overloaded("Full.", retry_after_s=7.4), 429, "7"),
        (Overloaded("Full.", retry_after_s=0.01), 429, "1"),
        (Overloaded("Full."), 429, None),
        (Unavailable("Loading.", retry_after_s=30), 503, "30"),
        (DeadlineExceeded("Late."), 504, None),
    ],
)
async def test_what_the_model_says_is_passed_on(
    client: httpx.AsyncClient, site: Site, raised: Any, status: int, retry_after: str | None
) -> None:
    site.model.raises = raised
    response = await classify(client)
    assert error_of(response, status)["code"] == raised.code
    assert response.headers.get("retry-after") == retry_after


async def test_a_full_router_says_so_and_still_lives() -> None:
    site = Site(slots=1)
    site.model.gate.clear()
    async with site.client() as client:
        first = asyncio.create_task(classify(client))
        await site.model.entered.wait()
        refused = await classify(client)
        assert error_of(refused, 429)["code"] == "overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        for path in ("/v1/healthz", "/v2/health/live"):
            assert (await client.get(path)).status_code == 200
        site.model.gate.set()
        assert (await first).status_code == 200
        assert (await classify(client)).status_code == 200
    assert max(site.recorder.counts) == 1
    assert site.recorder.counts[-1] == 0


async def test_a_client_that_leaves_gives_its_place_back() -> None:
    site = Site(slots=1)
    site.model.gate.clear()
    async with site.client() as client:
        first = asyncio.create_task(classify(client))
        await site.model.entered.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert (site.recorder.requests[-1].outcome, site.recorder.requests[-1].fault) == ("cancelled", "gone")
        site.model.gate.set()
        assert (await classify(client)).status_code == 200


async def test_a_client_that_leaves_in_the_middle_of_its_body(site: Site) -> None:
    messages = [
        {"type": "http.request", "body": b'{"labels":', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/classify",
        "raw_path": b"/v1/classify",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "scheme": "http",
        "server": ("argus", 80),
    }
    await site.app(scope, receive, send)
    assert sent[0]["status"] == 499
    assert site.recorder.requests[-1].outcome == "cancelled"


async def test_alive_and_ready(client: httpx.AsyncClient, site: Site) -> None:
    assert (await client.get("/v1/healthz")).json() == {"status": "alive"}
    assert (await client.get("/v1/readyz")).json() == {"status": "ready"}
    assert (await client.get("/v2/health/ready")).json() == {"ready": True}
    site.judge.raises = Unavailable("Loading.", retry_after_s=2)
    assert (await client.get("/v1/healthz")).status_code == 200
    assert error_of(await client.get("/v1/readyz"), 503)["code"] == "unavailable"
    not_ready = await client.get("/v2/health/ready")
    assert (not_ready.status_code, not_ready.json()) == (503, {"ready": False})


async def test_what_is_recorded(client: httpx.AsyncClient, site: Site) -> None:
    await classify(client)
    await client.get("/v1/models/clip")
    await client.get("/v1/models/nope")
    records = [(r.protocol, r.route, r.client, r.outcome, r.status) for r in site.recorder.requests]
    assert records == [
        ("http", "/v1/classify", "anonymous", "ok", 200),
        ("http", "/v1/models/{name}", "anonymous", "ok", 200),
        ("http", "/v1/models/{name}", "anonymous", "model_not_found", 404),
    ]
    assert all(record.seconds >= 0 for record in site.recorder.requests)


async def test_the_api_is_documented(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["info"]["version"] == "1.2.3"
    assert {"/v1/classify", "/v1/embeddings", "/v1/indexes/{name}/search", "/v2/models/{model}/infer"} <= set(
        document["paths"]
    )
    content = document["paths"]["/v1/classify"]["post"]["requestBody"]["content"]
    assert {"application/json", "multipart/form-data", "image/jpeg"} <= set(content)
    assert "labels" in content["application/json"]["schema"]["properties"]
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
