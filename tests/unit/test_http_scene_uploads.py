"""`POST /v1/scenes`: what is put in, and what is refused, within bounded memory."""

from __future__ import annotations

import asyncio
import gzip
import random
import tracemalloc
from collections.abc import AsyncIterator

import httpx
import pytest

from deployments.splat.formats.names import MEDIA_TYPES
from tests.unit.fakes import MAX_BODY, MAX_UPLOAD
from tests.unit.scene_site import BOX, FILE, SceneSite, put
from tests.unit.test_http_skins import body_of, error_of


@pytest.fixture
def site(scene_site: SceneSite) -> SceneSite:
    return scene_site


async def test_a_scene_is_put_in(client: httpx.AsyncClient, site: SceneSite) -> None:
    response = await put(client, up="0, 0, 1", attribution="Us, CC0", format="splat")
    body = body_of(response, 201)
    assert response.headers["location"] == "/v1/scenes/room"
    assert body["object"] == "scene"
    assert (body["name"], body["kind"], body["version"], body["bytes"]) == ("room", "gaussians", 1, len(FILE))
    assert (body["up"], body["attribution"], body["source"]) == ([0, 0, 1], "Us, CC0", "splat")
    assert body["bounds"] == {"min": list(BOX.least), "max": list(BOX.most), "centre": [0, 0, 0], "radius": 2}
    assert [version["edit"] for version in body["versions"]] == ["uploaded"]
    assert body["created_at"] == "2001-09-09T01:46:40.000Z"
    [said] = site.scenes.puts
    assert said["data"] == FILE
    assert body_of(await client.get("/v1/scenes/room")) == body


async def test_a_raw_body_has_its_fields_in_the_query(client: httpx.AsyncClient, site: SceneSite) -> None:
    headers = {"content-type": "application/octet-stream"}
    response = await client.post("/v1/scenes", params={"name": "raw", "up": "[0,1,0]"}, content=FILE, headers=headers)
    assert body_of(response, 201)["up"] == [0, 1, 0]
    [said] = site.scenes.puts
    assert (said["data"], said["format"], said["replace"]) == (FILE, None, False)


@pytest.mark.parametrize("kind", [*MEDIA_TYPES.values(), "application/x-zip-compressed", "application/gzip"])
async def test_a_file_comes_back_in_under_the_type_that_it_went_out(client: httpx.AsyncClient, kind: str) -> None:
    headers = {"content-type": kind}
    response = await client.post("/v1/scenes", params={"name": "again"}, content=FILE, headers=headers)
    assert body_of(response, 201)["name"] == "again"


async def test_the_store_hears_how_a_file_ends_and_no_more_of_its_name(
    client: httpx.AsyncClient, site: SceneSite
) -> None:
    """Only its name tells a .splat file, which may be damaged, from any other bytes."""
    raw = {"content-type": "application/octet-stream"}
    files = {"file": ("my photos/Plant 1.SPLAT", FILE)}
    body_of(await client.post("/v1/scenes", data={"name": "form"}, files=files), 201)
    body_of(await client.post("/v1/scenes", params={"name": "plant.splat"}, content=FILE, headers=raw), 201)
    body_of(await client.post("/v1/scenes", params={"name": "plant"}, content=FILE, headers=raw), 201)
    assert [said["filename"] for said in site.scenes.puts] == [".SPLAT", ".splat", ""]


async def test_a_radiance_field_is_put_in_by_its_format(client: httpx.AsyncClient) -> None:
    assert body_of(await put(client, format="nerf"), 201)["kind"] == "nerf"


async def test_what_is_there_gives_way_when_it_is_told_to(client: httpx.AsyncClient) -> None:
    await put(client)
    assert error_of(await put(client), 409)["code"] == "scene_exists"
    assert body_of(await put(client, replace="true"), 201)["name"] == "room"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"name": "../etc"}, "name", "invalid_scene_name"),
        ({"name": "A"}, "name", "invalid_scene_name"),
        ({"name": ""}, "name", "invalid_scene_name"),
        ({"name": "a" * 64}, "name", "invalid_scene_name"),
        ({"name": "a\n"}, "name", "invalid_scene_name"),
        ({"format": "obj"}, "format", "invalid_field"),
        ({"up": "1,2"}, "up", "missing_field"),
        ({"up": "north"}, "up", "invalid_field"),
        ({"up": "0,0,nan"}, "up", "invalid_field"),
        ({"colour": "red"}, "colour", "unknown_field"),
        ({"attribution": "a" * 2001}, "attribution", "invalid_field"),
    ],
)
async def test_what_is_wrong_with_an_upload(
    client: httpx.AsyncClient, site: SceneSite, fields: dict[str, str], param: str, code: str
) -> None:
    error = error_of(await put(client, **fields), 400)
    assert (error["code"], error["param"].partition("[")[0]) == (code, param)
    assert site.scenes.puts == []


async def test_a_file_may_be_larger_than_other_bodies(client: httpx.AsyncClient, site: SceneSite) -> None:
    data = b"x" * (2 * MAX_BODY)
    raw = {"content-type": "application/octet-stream"}
    body_of(await client.post("/v1/scenes?name=raw", content=data, headers=raw), 201)
    body_of(await client.post("/v1/scenes", data={"name": "form"}, files={"file": ("a.splat", data)}), 201)
    assert [len(said["data"]) for said in site.scenes.puts] == [len(data)] * 2
    above = {"file": ("a.splat", b"x" * MAX_UPLOAD)}
    assert error_of(await client.post("/v1/scenes", data={"name": "b"}, files=above), 413)["param"] == "body"
    edits = await client.post("/v1/scenes/raw/edits", content=data, headers={"content-type": "application/json"})
    assert error_of(edits, 413)["code"] == "payload_too_large"


@pytest.mark.parametrize("coding", [None, "gzip"])
async def test_a_form_that_does_not_say_its_size_is_cut_off(client: httpx.AsyncClient, coding: str | None) -> None:
    head = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.splat"\r\n\r\n'
    sent = []

    async def chunks() -> AsyncIterator[bytes]:
        yield head
        for _ in range(100):
            sent.append(MAX_BODY)
            yield b"x" * MAX_BODY

    headers = {"content-type": "multipart/form-data; boundary=b"} | ({"content-encoding": coding} if coding else {})
    response = await client.post("/v1/scenes", content=chunks(), headers=headers)
    assert error_of(response, 413)["code"] == "payload_too_large"
    assert len(sent) < 10, "the whole body was read"


async def test_an_upload_is_taken_apart_as_it_comes() -> None:
    """A form is in memory once, and each of its files a second time while it is taken out."""
    size, piece = 8_000_000, 50_000
    head = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.splat"\r\n\r\n'

    async def chunks() -> AsyncIterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="name"\r\n\r\nlarge\r\n' + head
        for _ in range(size // piece):
            yield bytes(piece)
        yield b"\r\n--b--\r\n"

    site = SceneSite(limits={"max_upload_bytes": 2 * size})
    async with site.client() as client:
        tracemalloc.start()
        try:
            headers = {"content-type": "multipart/form-data; boundary=b"}
            answer = await client.post("/v1/scenes", content=chunks(), headers=headers)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert body_of(answer, 201)["bytes"] == size
    assert peak < 2.7 * size


async def test_uploads_hold_a_bounded_sum_of_bytes() -> None:
    site = SceneSite(limits={"max_upload_bytes": 10_000, "max_uploads_bytes": 20_000})
    raw = {"content-type": "application/octet-stream"}
    go = asyncio.Event()

    async def held(begun: asyncio.Event) -> AsyncIterator[bytes]:
        begun.set()
        await go.wait()
        yield bytes(9_000)

    async def chunks(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // 100):
            yield bytes(100)

    async with site.client(headers=raw) as client:
        begun = [asyncio.Event() for _ in range(2)]
        slow = [
            asyncio.create_task(
                client.post(f"/v1/scenes?name=slow{i}", content=held(event), headers={"content-length": "9000"})
            )
            for i, event in enumerate(begun)
        ]
        for event in begun:
            await asyncio.wait_for(event.wait(), 60)
        # Both have room for what they said, although not a byte of it is there.
        for content in (bytes(9_000), chunks(2_100)):
            refused = await client.post("/v1/scenes?name=more", content=content)
            assert error_of(refused, 429)["code"] == "uploads_full"
            assert refused.headers["retry-after"] == "5"
        body_of(await client.post("/v1/scenes?name=small", content=chunks(2_000)), 201)
        packed = await client.post(
            "/v1/scenes?name=packed", content=gzip.compress(bytes(900)), headers={"content-encoding": "gzip"}
        )
        assert error_of(packed, 429)["code"] == "uploads_full"  # it may become as large as any
        go.set()
        for answer in await asyncio.gather(*slow):
            body_of(answer, 201)
        body_of(await client.post("/v1/scenes?name=more", content=bytes(9_000)), 201)
        packed = await client.post(
            "/v1/scenes?name=packed", content=gzip.compress(bytes(900)), headers={"content-encoding": "gzip"}
        )
        body_of(packed, 201)


async def test_uploads_that_hold_no_scene(client: httpx.AsyncClient) -> None:
    raw = {"content-type": "application/octet-stream"}
    assert error_of(await client.post("/v1/scenes?name=a", content=b"bad", headers=raw), 400)["code"] == "invalid_scene"
    assert error_of(await client.post("/v1/scenes?name=a", headers=raw), 400)["param"] == "file"
    large = await client.post("/v1/scenes?name=a", content=b"x" * (MAX_UPLOAD + 1), headers=raw)
    assert error_of(large, 413)["code"] == "payload_too_large"
    other = await client.post("/v1/scenes?name=a", content=b"{}", headers={"content-type": "application/json"})
    assert error_of(other, 415)["param"] == "content-type"
    two = [("file", ("a", b"1")), ("file", ("b", b"2"))]
    assert error_of(await client.post("/v1/scenes", data={"name": "a"}, files=two), 400)["code"] == "too_many_files"
    wrong = await client.post("/v1/scenes", data={"name": "a"}, files={"image": ("a", b"1")})
    assert error_of(wrong, 400)["code"] == "unknown_field"


async def test_a_form_that_is_read_piece_by_piece_comes_whole(
    client: httpx.AsyncClient, site: SceneSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.protocol.forms._PIECE", 7)
    large = random.Random(1).randbytes(30_000)
    files = {"file": ("room.splat", large, "application/octet-stream")}
    body_of(await client.post("/v1/scenes", data={"name": "room", "attribution": "é" * 900}, files=files), 201)
    [said] = site.scenes.puts
    assert said["data"] == large and said["attribution"] == "é" * 900
