"""`/viewer`: the page and its files, as a browser gets them before it runs anything."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from serve.protocol import viewer
from tests.unit.fakes import Site, cluster
from tests.unit.test_http_skins import error_of

OWN = sorted(path for path in viewer.FOLDER.rglob("*") if path.suffix in {".html", ".css", ".js"})
OWN = [path for path in OWN if "vendor" not in path.relative_to(viewer.FOLDER).parts]
PAGE = (viewer.FOLDER / "index.html").read_text()


def directives(response: httpx.Response) -> dict[str, list[str]]:
    """The Content-Security-Policy by directive."""
    parts = [part.split() for part in response.headers["content-security-policy"].split(";")]
    return {name: values for name, *values in parts}


async def test_the_page_may_run_its_own_files_and_ask_its_own_server_only(client: httpx.AsyncClient) -> None:
    response = await client.get("/viewer/plant")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/html")
    policy = directives(response)
    assert policy["default-src"] == ["'none'"] and policy["connect-src"] == ["'self'"]
    assert policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == ["'none'"]
    [inline] = re.findall(r"<script(?![^>]*src)[^>]*>(.*?)</script>", response.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    assert set(policy["script-src"]) == {"'self'", "'wasm-unsafe-eval'", f"'sha256-{digest}'"}
    assert not any("unsafe-inline" in value for values in policy.values() for value in values)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


def test_the_page_has_nothing_that_its_policy_forbids() -> None:
    assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:", PAGE)


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_file_of_ours_names_another_server(path: Path) -> None:
    text = re.sub(r"//localhost|wss?://|blob:", "", path.read_text())
    assert not re.search(r"(?:https?:)?//[a-z0-9-]+\.[a-z]{2,}", text)


async def test_every_file_that_is_named_is_there(client: httpx.AsyncClient) -> None:
    named = set(re.findall(r'(?:src|href)="([^"]+)"', PAGE))
    for path in OWN:
        for module in re.findall(r"(?:from|import\() ?\"(\./[\w./]+)\"", path.read_text()):
            named.add(f"/viewer/assets/js/{module.removeprefix('./')}")
    assert len(named) > 8
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for name in named:
        response = await client.get(name)
        assert response.status_code == 200, name
        assert response.headers["content-type"].partition(";")[0] == types[Path(name).suffix]
        assert response.headers["x-content-type-options"] == "nosniff"


async def test_nothing_of_a_request_is_written_into_the_page(client: httpx.AsyncClient) -> None:
    plain = await client.get("/viewer/plant")
    hostile = await client.get("/viewer/%3Cscript%3Ealert(1)%3C%2Fscript%3E?render=%22%3E%3Cimg%3E")
    assert plain.content in (hostile.content, PAGE.encode())


@pytest.mark.parametrize("name", ["%ff", "%E0%A4", "%", "%zz", "Plant", "%3Cb%3E", "a" * 64])
async def test_what_no_scene_can_be_called_is_not_found_by_the_page_itself(
    client: httpx.AsyncClient, name: str
) -> None:
    plain = await client.get("/viewer/plant")
    request = client.build_request("GET", "/viewer/", headers={"if-none-match": plain.headers["etag"]})
    request.url = request.url.copy_with(raw_path=f"/viewer/{name}".encode())
    response = await client.send(request)
    assert (response.status_code, response.content) == (404, plain.content)
    assert response.headers["content-security-policy"] == plain.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "%2e%2e/%2e%2e/auth.py",
        "..%2f..%2fauth.py",
        "js/../../protocol/viewer.py",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "js/",
        "js",
        "index.html",
        ".ready",
        "vendor/.ready",
        "js/main.js%00.css",
        "js/nothing.js",
    ],
)
async def test_other_files_cannot_be_had(client: httpx.AsyncClient, path: str) -> None:
    request = client.build_request("GET", "/viewer/assets/")
    request.url = request.url.copy_with(raw_path=f"/viewer/assets/{path}".encode())
    assert error_of(await client.send(request), 404)["code"] in {"asset_not_found", "route_not_found"}


async def test_a_browser_keeps_what_has_not_changed(client: httpx.AsyncClient) -> None:
    first = await client.get("/viewer/assets/js/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = await client.get("/viewer/assets/js/main.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = await client.get("/viewer/assets/js/api.js", headers={"if-none-match": first.headers["etag"]})
    assert other.status_code == 200


def test_a_packed_file_is_sent_to_those_who_can_unpack_it(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "big.js").write_text("plain")
    (tmp_path / "big.js.gz").write_bytes(gzip.compress(b"packed"))
    app = FastAPI()
    app.include_router(viewer.build(tmp_path))
    client = TestClient(app)
    packed = client.get("/viewer/assets/big.js", headers={"accept-encoding": "gzip"})
    plain = client.get("/viewer/assets/big.js", headers={"accept-encoding": "identity"})
    assert (packed.text, packed.headers["content-encoding"]) == ("packed", "gzip")
    assert plain.text == "plain" and "content-encoding" not in plain.headers
    assert packed.headers["vary"] == plain.headers["vary"] == "accept-encoding"
    assert packed.headers["content-type"] == plain.headers["content-type"]


async def test_the_page_needs_no_key_and_the_scene_does() -> None:
    async with Site(cluster(keys=True)).client() as client:
        assert (await client.get("/viewer/plant")).status_code == 200
        assert (await client.get("/viewer/assets/js/main.js")).status_code == 200
        error_of(await client.get("/v1/scenes/plant"), 401)
