"""`/v1/scenes`: scenes put in, listed, drawn and given out, over a store and renderers that are stand-ins."""

from __future__ import annotations

import asyncio
import base64
import gzip
import random
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.splat.formats.names import MEDIA_TYPES
from serve.errors import InvalidMedia, ModelFailed
from tests.unit.fakes import KEYS, MAX_BODY, MAX_UPLOAD, Site
from tests.unit.scene_site import BOX, SceneSite
from tests.unit.test_http_skins import body_of, error_of

FILE = b"a scene, as far as the store is concerned"


@pytest.fixture(scope="module")
def made() -> SceneSite:
    return SceneSite()


@pytest.fixture
def site(made: SceneSite) -> SceneSite:
    made.reset()
    return made


@pytest.fixture
async def client(site: SceneSite) -> AsyncIterator[httpx.AsyncClient]:
    async with site.client() as opened:
        yield opened


async def put(client: httpx.AsyncClient, name: str = "room", **fields: Any) -> httpx.Response:
    data = {"name": name, **fields}
    return await client.post("/v1/scenes", data=data, files={"file": ("room.splat", FILE, "application/octet-stream")})


async def draw(client: httpx.AsyncClient, name: str = "room", **fields: Any) -> httpx.Response:
    return await client.post(f"/v1/scenes/{name}/render", json={"width": 40, "height": 30} | fields)


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


async def test_scenes_are_listed_in_pages(client: httpx.AsyncClient) -> None:
    for name in ("c", "a", "b"):
        await put(client, name)
    first = body_of(await client.get("/v1/scenes", params={"limit": 2}))
    assert ([scene["name"] for scene in first["data"]], first["has_more"]) == (["a", "b"], True)
    rest = body_of(await client.get("/v1/scenes", params={"limit": 2, "after": "b"}))
    assert ([scene["name"] for scene in rest["data"]], rest["has_more"]) == (["c"], False)
    assert error_of(await client.get("/v1/scenes?limit=0"), 400)["param"] == "limit"


async def test_a_scene_is_deleted(client: httpx.AsyncClient) -> None:
    await put(client)
    assert body_of(await client.delete("/v1/scenes/room")) == {"object": "scene", "name": "room", "deleted": True}
    assert error_of(await client.get("/v1/scenes/room"), 404)["code"] == "scene_not_found"
    assert error_of(await client.delete("/v1/scenes/room"), 404)["code"] == "scene_not_found"


@pytest.mark.parametrize("name", ["%2e%2e", "a%00b", "Ä", "%27%3b--", "a" * 64, "..%2f..%2fetc"])
async def test_names_that_are_none(client: httpx.AsyncClient, name: str) -> None:
    for response in (
        await client.get(f"/v1/scenes/{name}"),
        await draw(client, name),
        await client.get(f"/v1/scenes/{name}/export"),
        await client.delete(f"/v1/scenes/{name}"),
    ):
        assert 400 <= response.status_code < 500


async def test_one_picture_is_the_answer_itself(client: httpx.AsyncClient, site: SceneSite) -> None:
    scene = body_of(await put(client), 201)
    response = await draw(client, camera={"orbit": {"azimuth_deg": 10, "elevation_deg": 5}}, format="jpeg", quality=70)
    assert response.headers["content-type"] == "image/jpeg"
    assert response.content.startswith(b"\xff\xd8")
    assert response.headers["x-argus-scene-version"] == "1"
    assert response.headers["x-argus-scene-digest"] == scene["digest"]
    [request] = site.splat.requests
    assert (request.scene.digest, request.encoding, request.quality) == (scene["digest"], "jpeg", 70)
    assert site.splat.affinities == [scene["digest"]]
    [camera] = request.cameras
    assert (camera.width, camera.height) == (40, 30)


async def test_several_pictures_are_json(client: httpx.AsyncClient, site: SceneSite) -> None:
    await put(client)
    cameras = [{"orbit": {"azimuth_deg": 0}}, {"orbit": {"azimuth_deg": 90}}]
    body = body_of(await draw(client, cameras=cameras, outputs=["depth", "rgb"]))
    assert (body["object"], body["scene"], body["version"], body["model"]) == ("render", "room", 1, "splat")
    assert [set(view["pictures"]) for view in body["views"]] == [{"rgb", "depth"}, {"rgb", "depth"}]
    pictures = [base64.b64decode(view["pictures"]["rgb"]) for view in body["views"]]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures) and pictures[0] != pictures[1]


async def test_a_view_that_fails_stands_in_its_place(client: httpx.AsyncClient, site: SceneSite) -> None:
    await put(client)
    site.splat.failing = {1: ModelFailed("out of memory")}
    cameras = [{"orbit": {"azimuth_deg": angle}} for angle in (0, 90)]
    views = body_of(await draw(client, cameras=cameras))["views"]
    assert "pictures" in views[0]
    assert (views[1]["error"]["code"], views[1]["error"]["param"]) == ("model_failed", "cameras[1]")
    site.splat.failing = {0: InvalidMedia("It is gone.", code="scene_gone")}
    assert error_of(await draw(client), 400)["code"] == "scene_gone"


async def test_the_same_camera_however_it_is_said(client: httpx.AsyncClient, site: SceneSite) -> None:
    await put(client, up="0,1,0")
    eye = [0.0, 0.0, 4.0]
    k = [[30, 0, 20], [0, 30, 15], [0, 0, 1]]
    to_camera = [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 4], [0, 0, 0, 1]]
    to_world = np.linalg.inv(to_camera).tolist()
    fov = float(np.degrees(2 * np.arctan(15 / 30)))
    cameras = [
        {"look_at": {"eye": eye, "target": [0, 0, 0], "fov_deg": fov}},
        {"orbit": {"azimuth_deg": 0, "elevation_deg": 0, "radius": 4, "fov_deg": fov}},
        {"intrinsics": k, "world_to_camera": to_camera},
        {"intrinsics": k, "camera_to_world": to_world},
    ]
    body_of(await draw(client, cameras=cameras))
    drawn = site.splat.requests[0].cameras
    for camera in drawn:
        np.testing.assert_allclose(camera.world_to_camera, to_camera, atol=1e-9)
        np.testing.assert_allclose(camera.intrinsics, k, atol=1e-9)


async def test_the_camera_that_is_not_said_sees_all_of_it(client: httpx.AsyncClient, site: SceneSite) -> None:
    await put(client)
    await draw(client)
    [camera] = site.splat.requests[0].cameras
    corners = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
    seen = corners @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3]
    pixels = seen @ camera.intrinsics.T
    at = pixels[:, :2] / pixels[:, 2:]
    assert (seen[:, 2] > 0).all()
    assert ((at >= 0) & (at <= [camera.width, camera.height])).all()
    assert camera.world_to_camera[1, :3] @ np.array([0.0, -1.0, 0.0]) < 0  # the scene's up is up in the picture


CAMERAS: list[tuple[dict[str, Any], str]] = [
    ({}, "camera"),
    ({"orbit": {}, "look_at": {"eye": [0, 0, 1], "target": [0, 0, 0]}}, "camera"),
    ({"look_at": {"eye": [0, 0, 0], "target": [0, 0, 0]}}, "camera"),
    ({"look_at": {"eye": [0, 1, 0], "target": [0, 0, 0], "up": [0, 1, 0]}}, "camera"),
    ({"look_at": {"eye": [0, 0, 1]}}, "camera.look_at.target"),
    ({"orbit": {"radius": 0}}, "camera.orbit.radius"),
    ({"orbit": {"fov_deg": 180}}, "camera.orbit.fov_deg"),
    ({"orbit": {"elevation_deg": 90}}, "camera.orbit.elevation_deg"),
    ({"orbit": {"tilt": 1}}, "camera.orbit.tilt"),
    ({"intrinsics": [[1, 0, 1], [0, 1, 1], [0, 0, 1]]}, "camera"),
    ({"world_to_camera": np.eye(4).tolist()}, "camera"),
    ({"intrinsics": [[0, 0, 1], [0, 1, 1], [0, 0, 1]], "world_to_camera": np.eye(4).tolist()}, "camera.intrinsics"),
    ({"intrinsics": [[1, 5, 1], [0, 1, 1], [0, 0, 1]], "world_to_camera": np.eye(4).tolist()}, "camera.intrinsics"),
    (
        {"intrinsics": [[1, 0, 1], [0, 1, 1], [0, 0, 1]], "world_to_camera": (2 * np.eye(4)).tolist()},
        "camera.world_to_camera",
    ),
    (
        {"intrinsics": [[1, 0, 1], [0, 1, 1], [0, 0, 1]], "camera_to_world": np.diag([1, 1, -1, 1]).tolist()},
        "camera.camera_to_world",
    ),
]


@pytest.mark.parametrize(("camera", "param"), CAMERAS)
async def test_cameras_that_are_none(
    client: httpx.AsyncClient, site: SceneSite, camera: dict[str, Any], param: str
) -> None:
    await put(client)
    assert error_of(await draw(client, camera=camera), 400)["param"] == param
    assert site.splat.requests == []


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"width": 0}, "width", "invalid_field"),
        ({"width": 101, "height": 100}, "width", "too_many_pixels"),
        ({"cameras": [{"orbit": {}}] * 5}, "cameras", "too_many_inputs"),
        ({"cameras": []}, "cameras", "invalid_field"),
        ({"camera": {"orbit": {}}, "cameras": [{"orbit": {}}]}, "camera", "invalid_field"),
        ({"outputs": ["rgb", "rgb"]}, "outputs", "invalid_field"),
        ({"outputs": []}, "outputs", "invalid_field"),
        ({"outputs": ["normals"]}, "outputs", "invalid_field"),
        ({"outputs": ["depth"], "format": "jpeg"}, "format", "invalid_field"),
        ({"format": "bmp"}, "format", "invalid_field"),
        ({"background": "blue"}, "background", "invalid_field"),
        ({"background": [0, 0, 2]}, "background[2]", "invalid_field"),
        ({"quality": 0}, "quality", "invalid_field"),
        ({"sh_degree": 4}, "sh_degree", "invalid_field"),
        ({"effort": 1.5}, "effort", "invalid_field"),
        ({"time_s": "soon"}, "time_s", "invalid_field"),
        ({"model": "nerf"}, "model", "task_not_supported"),
        ({"colour": 1}, "colour", "unknown_field"),
    ],
)
async def test_pictures_that_are_not_drawn(
    client: httpx.AsyncClient, site: SceneSite, fields: dict[str, Any], param: str, code: str
) -> None:
    await put(client)
    error = error_of(await draw(client, **fields), 400)
    assert (error["param"], error["code"]) == (param, code)
    assert site.splat.requests == []


async def test_what_is_not_there_is_not_drawn(client: httpx.AsyncClient) -> None:
    await put(client)
    assert error_of(await draw(client, "hall"), 404)["code"] == "scene_not_found"
    assert error_of(await draw(client, version=2), 404)["code"] == "version_not_found"
    assert error_of(await draw(client, model="clip"), 404)["code"] == "model_not_found"


async def test_how_it_is_drawn(client: httpx.AsyncClient, site: SceneSite) -> None:
    await put(client)
    how: dict[str, Any] = {
        "sh_degree": 1,
        "antialiased": True,
        "radius_clip": 2,
        "time_s": 1.5,
        "background": "#ff8000",
    }
    await draw(client, **how)
    await draw(client, background="f80")
    first, second = site.splat.requests
    assert (first.options.sh_degree, first.options.antialiased, first.options.radius_clip) == (1, True, 2)
    assert first.time_s == 1.5
    assert first.options.background == pytest.approx((1, 128 / 255, 0))
    assert second.options.background == pytest.approx((1, 136 / 255, 0))


async def test_a_radiance_field_goes_to_its_renderer(client: httpx.AsyncClient, site: SceneSite) -> None:
    await put(client, format="nerf")
    await draw(client, effort=0.25)
    assert site.splat.requests == []
    assert [request.effort for request in site.nerf.requests] == [0.25]


async def test_a_link_to_a_picture(client: httpx.AsyncClient, site: SceneSite) -> None:
    await put(client)
    where: dict[str, Any] = {"width": 20, "height": 20, "azimuth_deg": 30, "background": "#fff", "format": "webp"}
    first = await client.get("/v1/scenes/room/render", params=where)
    assert first.status_code == 200
    etag = first.headers["etag"]
    again = await client.get("/v1/scenes/room/render", params=where, headers={"if-none-match": f'"x", W/{etag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    other = await client.get("/v1/scenes/room/render", params=where | {"azimuth_deg": 31})
    assert other.headers["etag"] != etag
    assert len(site.splat.requests) == 2
    await put(client, replace="true", up="0,0,1")
    assert (await client.get("/v1/scenes/room/render", params=where)).headers["etag"] != etag
    assert error_of(await client.get("/v1/scenes/room/render?fov_deg=0"), 400)["param"] == "fov_deg"


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


async def test_a_form_that_is_read_piece_by_piece_comes_whole(
    client: httpx.AsyncClient, site: SceneSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.protocol.forms._PIECE", 7)
    large = random.Random(1).randbytes(30_000)
    files = {"file": ("room.splat", large, "application/octet-stream")}
    body_of(await client.post("/v1/scenes", data={"name": "room", "attribution": "é" * 900}, files=files), 201)
    [said] = site.scenes.puts
    assert said["data"] == large and said["attribution"] == "é" * 900


async def test_an_artifact(client: httpx.AsyncClient, site: SceneSite) -> None:
    made = site.scenes._add_artifact("room", "turn.mp4", "video/mp4", b"a film")
    response = await client.get(f"/v1/scenes/room/artifacts/{made.id}")
    assert (response.content, response.headers["content-type"]) == (b"a film", "video/mp4")
    for other in ("room/artifacts/art_nope", f"hall/artifacts/{made.id}"):
        assert error_of(await client.get(f"/v1/scenes/{other}"), 404)["code"] == "artifact_not_found"
    assert error_of(await client.get(f"/v1/scenes/Room/artifacts/{made.id}"), 400)["code"] == "invalid_scene_name"


async def test_undo_and_redo(client: httpx.AsyncClient, site: SceneSite) -> None:
    await put(client)
    assert error_of(await client.post("/v1/scenes/room/undo"), 409)["code"] == "nothing_to_undo"
    site.scenes._edit("room", ("one",), 1)
    assert body_of(await client.post("/v1/scenes/room/undo"))["version"] == 1
    assert body_of(await client.post("/v1/scenes/room/redo", json={"base_version": 1}))["version"] == 2
    listed = body_of(await client.get("/v1/scenes/room/versions"))["data"]
    assert [(version["version"], version["current"]) for version in listed] == [(1, False), (2, True)]
    assert error_of(await client.post("/v1/scenes/room/redo", json={"base": 1}), 400)["code"] == "unknown_field"


async def test_a_cluster_without_scenes(site: SceneSite) -> None:
    async with Site().client() as client:
        for response in (await client.get("/v1/scenes"), await put(client), await draw(client)):
            assert error_of(response, 404)["code"] == "not_configured"


async def test_a_cluster_that_draws_no_scenes_of_a_kind() -> None:
    site = SceneSite(models={"scenes": {"kind": "scene_store"}})
    async with site.client() as client:
        await put(client)
        assert error_of(await draw(client), 404)["code"] == "not_configured"


async def test_keys_are_asked_for() -> None:
    site = SceneSite(keys=True)
    async with site.client() as client:
        assert error_of(await client.get("/v1/scenes"), 401)["code"] == "unauthenticated"
        client.headers["x-api-key"] = KEYS["alice"]
        assert (await put(client)).status_code == 201


async def test_the_routes_are_documented(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert set(paths["/v1/scenes"]["post"]["requestBody"]["content"]) >= {"multipart/form-data", "model/ply"}
    assert set(paths["/v1/scenes/{name}/render"]["post"]["responses"]["200"]["content"]) >= {"image/png", "image/webp"}
    names = {one["name"] for one in paths["/v1/scenes/{name}/export"]["get"]["parameters"]}
    assert names == {"name", "format", "version", "digest"}
