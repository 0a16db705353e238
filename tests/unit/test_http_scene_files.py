"""Scenes given out: exports, parts of files, artifacts."""

from __future__ import annotations

import httpx
import pytest

from tests.unit.scene_site import SceneSite, put
from tests.unit.test_http_skins import body_of, error_of


@pytest.fixture
def site(scene_site: SceneSite) -> SceneSite:
    return scene_site


async def test_an_export(client: httpx.AsyncClient, site: SceneSite) -> None:
    digest = body_of(await put(client), 201)["digest"]
    whole = await client.get("/v1/scenes/room/export", params={"format": "spz"})
    assert whole.status_code == 200
    assert whole.content == f"spz {digest}".encode() * 7
    assert whole.headers["content-length"] == str(len(whole.content))
    assert whole.headers["content-disposition"] == 'attachment; filename="room.spz"'
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["cache-control"] == "private, no-cache"
    by_digest = await client.get("/v1/scenes/room/export", params={"format": "spz", "digest": digest})
    assert "immutable" in by_digest.headers["cache-control"]
    made = len(site.scenes.files)
    known = {"if-none-match": whole.headers["etag"]}
    assert (await client.get("/v1/scenes/room/export", params={"format": "spz"}, headers=known)).status_code == 304
    assert len(site.scenes.files) == made
    assert error_of(await client.get("/v1/scenes/room/export?format=obj"), 400)["param"] == "format"
    assert error_of(await client.get("/v1/scenes/room/export?digest=00"), 404)["param"] == "digest"
    assert error_of(await client.get("/v1/scenes/room/export?version=7"), 404)["code"] == "version_not_found"


async def test_a_large_file_comes_in_pieces(
    client: httpx.AsyncClient, site: SceneSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.scenes.service.CHUNK", 100)
    await put(client)
    whole = (await client.get("/v1/scenes/room/export")).content
    assert len(site.scenes.reads) > 1 and max(length for _, length in site.scenes.reads) == 100
    assert sum(length for _, length in site.scenes.reads) == len(whole)


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-9", 0, 10), ("bytes=5-", 5, None), ("bytes=-7", -7, None), ("bytes=10-99999", 10, None)],
)
async def test_a_part_of_a_file(client: httpx.AsyncClient, asked: str, start: int, end: int | None) -> None:
    await put(client)
    whole = (await client.get("/v1/scenes/room/export")).content
    part = await client.get("/v1/scenes/room/export", headers={"range": asked})
    assert part.status_code == 206
    assert part.content == whole[start:end]
    first = len(whole) + start if start < 0 else start
    assert part.headers["content-range"] == f"bytes {first}-{first + len(part.content) - 1}/{len(whole)}"
    assert part.headers["content-length"] == str(len(part.content))


@pytest.mark.parametrize("asked", ["bytes=99999-", "bytes=-0"])
async def test_a_part_that_is_not_there(client: httpx.AsyncClient, asked: str) -> None:
    await put(client)
    whole = (await client.get("/v1/scenes/room/export")).content
    response = await client.get("/v1/scenes/room/export", headers={"range": asked})
    assert error_of(response, 416)["code"] == "invalid_range"
    assert response.headers["content-range"] == f"bytes */{len(whole)}"


@pytest.mark.parametrize("asked", ["bytes=9-5", "bytes=0-1,4-5", "lines=0-1", "bytes=-", "bytes=x-y"])
async def test_ranges_that_are_none_give_the_whole(client: httpx.AsyncClient, asked: str) -> None:
    await put(client)
    whole = (await client.get("/v1/scenes/room/export")).content
    response = await client.get("/v1/scenes/room/export", headers={"range": asked})
    assert (response.status_code, response.content) == (200, whole)


async def test_a_range_of_what_has_changed_gives_the_whole(client: httpx.AsyncClient) -> None:
    await put(client)
    whole = await client.get("/v1/scenes/room/export")
    headers = {"range": "bytes=0-3", "if-range": whole.headers["etag"]}
    assert (await client.get("/v1/scenes/room/export", headers=headers)).status_code == 206
    headers["if-range"] = '"another"'
    assert (await client.get("/v1/scenes/room/export", headers=headers)).content == whole.content


async def test_an_artifact(client: httpx.AsyncClient, site: SceneSite) -> None:
    made = site.scenes._add_artifact("room", "turn.mp4", "video/mp4", b"a film")
    response = await client.get(f"/v1/scenes/room/artifacts/{made.id}")
    assert (response.content, response.headers["content-type"]) == (b"a film", "video/mp4")
    for other in ("room/artifacts/art_nope", f"hall/artifacts/{made.id}"):
        assert error_of(await client.get(f"/v1/scenes/{other}"), 404)["code"] == "artifact_not_found"
    assert error_of(await client.get(f"/v1/scenes/Room/artifacts/{made.id}"), 400)["code"] == "invalid_scene_name"
