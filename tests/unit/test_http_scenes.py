"""`/v1/scenes`: scenes listed, drawn and edited, over a store and renderers that are stand-ins."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.rendering.camera import orbit
from serve.errors import InvalidMedia, ModelFailed
from tests.unit.fakes import KEYS, Site
from tests.unit.scene_site import BOX, MODELS, SceneSite, put
from tests.unit.test_http_skins import body_of, error_of


@pytest.fixture
def site(scene_site: SceneSite) -> SceneSite:
    return scene_site


async def draw(client: httpx.AsyncClient, name: str = "room", **fields: Any) -> httpx.Response:
    return await client.post(f"/v1/scenes/{name}/render", json={"width": 40, "height": 30} | fields)


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


@pytest.mark.parametrize("way", ["world_to_camera", "camera_to_world"])
async def test_a_pose_of_few_digits_is_a_camera(client: httpx.AsyncClient, site: SceneSite, way: str) -> None:
    """Far from the origin, what three digits leave out of a rotation is more than a pixel."""
    exact = orbit((70.0, -40.0, 25.0), 4.0, 33.0, 20.0, (0.0, -1.0, 0.0), 50.0, 40, 30)
    pose = exact.world_to_camera if way == "world_to_camera" else np.linalg.inv(exact.world_to_camera)
    pose[:3, :3] = pose[:3, :3].round(3)
    body_of(await put(client), 201)
    response = await draw(client, camera={"intrinsics": exact.intrinsics.tolist(), way: pose.tolist()})
    assert response.status_code == 200
    [camera] = site.splat.requests[0].cameras
    rotation = camera.world_to_camera[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rotation, exact.world_to_camera[:3, :3], atol=1e-3)
    # The place that was said, in whichever way, stays as it was said.
    said = camera.world_to_camera if way == "world_to_camera" else np.linalg.inv(camera.world_to_camera)
    np.testing.assert_allclose(said[:3, 3], pose[:3, 3], atol=1e-9)


@pytest.mark.parametrize("radius", [1e-4, 0.3, 50.0])
async def test_the_near_plane_is_before_the_scene(client: httpx.AsyncClient, site: SceneSite, radius: float) -> None:
    await put(client)
    room = site.scenes.scenes["room"]
    bounds = replace(BOX, radius=radius)
    site.scenes.scenes["room"] = replace(room, versions=(replace(room.shown, bounds=bounds),))
    await draw(client)
    [request] = site.splat.requests
    [camera] = request.cameras
    distance = float(np.linalg.norm(camera.position - bounds.centre))
    assert 0 < request.options.near < 0.1 * (distance - radius)
    assert request.options.near == pytest.approx(0.01 * min(1, radius))


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


async def test_a_side_that_a_format_cannot_hold() -> None:
    site = SceneSite(models={**MODELS, "splat": {"kind": "splat", "scenes": "scenes", "max_pixels": 100_000}})
    async with site.client() as client:
        await put(client)
        error = error_of(await draw(client, width=16_384, height=1, format="webp"), 400)
    assert (error["param"], error["code"]) == ("format", "invalid_field")
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
