"""3D scenes in a real cluster: every protocol draws the same, and what was drawn is right."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import websockets
from PIL import Image

from demo.scenes3d import UP, World, build
from deployments.rendering.camera import Camera, look_at
from deployments.rendering.messages import RasterOptions
from deployments.splat import formats
from deployments.splat.rasteriser import make_rasteriser
from deployments.splat.scene_file import write
from tests.e2e.cluster import KEY, Cluster

pytestmark = pytest.mark.cluster

WIDTH, HEIGHT = 96, 64
EYE, TARGET = (1.5, -1.2, 2.0), (0.0, -0.2, 0.0)
CAMERA: Camera = look_at(EYE, TARGET, UP, 50.0, WIDTH, HEIGHT)
WHERE = {"camera": {"look_at": {"eye": EYE, "target": TARGET, "up": UP}}, "width": WIDTH, "height": HEIGHT}
JOB_S = 120
TABLE, CAROUSEL = "built-table", "built-carousel"


@pytest.fixture(scope="module")
def world() -> World:
    return build("table")


@pytest.fixture(scope="module")
def scenes(cluster: Cluster, world: World) -> Iterator[Cluster]:
    """The session's cluster, with scenes as they were built: what it is started with went through a lossy format."""
    with cluster.client() as client:
        put(client, TABLE, write(world.gaussians))
        put(client, CAROUSEL, write(build("carousel").gaussians))
        yield cluster
        for name in (TABLE, CAROUSEL):
            good(client.delete(f"/v1/scenes/{name}"))


def put(client: httpx.Client, name: str, data: bytes, **fields: str) -> dict[str, Any]:
    response = client.post("/v1/scenes", data={"name": name, **fields}, files={"file": ("scene", data)})
    return good(response, 201)


def good(response: httpx.Response, status: int = 200) -> dict[str, Any]:
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


def pixels(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB"))


def expected(world: World) -> npt.NDArray[np.uint8]:
    rasteriser = make_rasteriser("cpu")
    [view] = rasteriser.render(rasteriser.load(world.gaussians), [CAMERA], RasterOptions())
    return (np.clip(view.rgb, 0, 1) * 255 + 0.5).astype(np.uint8)


def test_the_picture_is_the_rasterisers(scenes: Cluster, world: World) -> None:
    with scenes.client() as client:
        response = client.post(f"/v1/scenes/{TABLE}/render", json=WHERE)
        assert response.headers["content-type"] == "image/png"
        drawn = pixels(response.content)
        depth = client.post(f"/v1/scenes/{TABLE}/render", json=WHERE | {"outputs": ["depth"], "format": "npy"})
    assert np.abs(drawn.astype(int) - expected(world)).max() <= 1
    distances = np.load(io.BytesIO(depth.content), allow_pickle=False)
    assert distances.shape == (HEIGHT, WIDTH) and 1 < distances[HEIGHT // 2, WIDTH // 2] < 4


def test_every_protocol_draws_the_same(scenes: Cluster) -> None:
    with scenes.client() as client:
        native = pixels(client.post(f"/v1/scenes/{TABLE}/render", json=WHERE).content)

    def fill(module: Any) -> list[Any]:
        given = []
        for name, array, datatype in (
            ("SCENE", np.array([TABLE.encode()], object), "BYTES"),
            ("WORLD_TO_CAMERA", CAMERA.world_to_camera[None], "FP64"),
            ("INTRINSICS", CAMERA.intrinsics[None], "FP64"),
            ("WIDTH", np.array([WIDTH], np.int32), "INT32"),
            ("HEIGHT", np.array([HEIGHT], np.int32), "INT32"),
        ):
            given.append(module.InferInput(name, list(array.shape), datatype))
            given[-1].set_data_from_numpy(array)
        return given

    def key() -> dict[str, str]:
        """A new one for each call: tritonclient writes into it."""
        return {"x-api-key": KEY}

    with triton_http.InferenceServerClient(scenes.http.removeprefix("http://")) as http:
        by_http = http.infer("splat.render", fill(triton_http), headers=key())
        assert http.is_model_ready("splat.render", headers=key())
    with triton_grpc.InferenceServerClient(scenes.grpc) as grpc:
        by_grpc = grpc.infer("splat.render", fill(triton_grpc), headers=key())
    for answer in (by_http, by_grpc):
        np.testing.assert_array_equal(answer.as_numpy("RGB")[0], native)
        assert answer.as_numpy("DEPTH").dtype == np.float32
    np.testing.assert_array_equal(by_http.as_numpy("ALPHA"), by_grpc.as_numpy("ALPHA"))


def test_a_live_view(scenes: Cluster) -> None:
    async def look() -> tuple[list[bytes], dict[str, Any], int | None]:
        address = f"{scenes.http.replace('http', 'ws')}/v1/scenes"
        key = base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("=")
        offers: Any = ["argus", f"argus.key.{key}"]
        async with asyncio.timeout(60):
            async with websockets.connect(f"{address}/{TABLE}/stream", subprotocols=offers) as socket:
                await socket.send(json.dumps(WHERE | {"format": "png"}))
                pictures = [await socket.recv()]
                for azimuth in range(5):
                    await socket.send(json.dumps({"camera": {"orbit": {"azimuth_deg": azimuth}}}))
                    pictures.append(await socket.recv())
            async with websockets.connect(f"{address}/{TABLE}/stream") as socket:
                error = json.loads(await socket.recv())["error"]
                await socket.wait_closed()
                return [bytes(one) for one in pictures if isinstance(one, bytes)], error, socket.close_code

    pictures, error, code = asyncio.run(look())
    assert len(pictures) == 6
    with scenes.client() as client:
        native = client.post(f"/v1/scenes/{TABLE}/render", json=WHERE).content
    np.testing.assert_array_equal(pixels(pictures[0]), pixels(native))
    assert (error["code"], code) == ("unauthenticated", 4401)


def test_an_export_is_the_scene(scenes: Cluster, world: World) -> None:
    with scenes.client() as client:
        whole = client.get(f"/v1/scenes/{TABLE}/export", params={"format": "ply"})
        assert whole.status_code == 200, whole.text
        headers = {"range": "bytes=100-199"}
        part = client.get(f"/v1/scenes/{TABLE}/export", params={"format": "ply"}, headers=headers)
        known = {"if-none-match": whole.headers["etag"]}
        assert client.get(f"/v1/scenes/{TABLE}/export", params={"format": "ply"}, headers=known).status_code == 304
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    read = formats.read(whole.content, max_gaussians=10**6)
    np.testing.assert_array_equal(read.means, world.gaussians.means)


def test_edits_undo_and_conflicts(scenes: Cluster, world: World) -> None:
    [cube] = [thing for thing in world.things if thing.solid == "cube"]
    place = {"sphere": {"centre": cube.centre, "radius": cube.size}}
    with scenes.client() as client:
        put(client, "edited", write(world.gaussians), replace="true")
        before = pixels(client.post("/v1/scenes/edited/render", json=WHERE).content)
        looked = good(client.post("/v1/scenes/edited/select", json={"where": place}))
        assert cube.members.stop - cube.members.start <= looked["gaussians"] < len(world.gaussians) / 2
        step: dict[str, Any] = {
            "edits": [{"op": "recolour", "where": place, "rgb": "#ff00ff", "flat": True}],
            "base_version": 1,
        }
        edited = good(client.post("/v1/scenes/edited/edits", json=step))
        assert edited["version"] == 2
        after = pixels(client.post("/v1/scenes/edited/render", json=WHERE).content)
        assert (after != before).any(axis=2).mean() > 0.001
        assert client.post("/v1/scenes/edited/edits", json=step | {"edits": step["edits"] * 2}).status_code == 409
        assert good(client.post("/v1/scenes/edited/undo"))["version"] == 1
        np.testing.assert_array_equal(pixels(client.post("/v1/scenes/edited/render", json=WHERE).content), before)
        good(client.delete("/v1/scenes/edited"))
        assert client.get("/v1/scenes/edited").status_code == 404


def test_a_text_selects(scenes: Cluster, world: World) -> None:
    """The demo checkpoint learnt plane shapes; it knows the cone from the side for one of them."""
    [cone] = [thing for thing in world.things if thing.label == "green triangle"]
    with scenes.client() as client:
        body = {"where": {"text": cone.label}, "mask": True}
        found = good(client.post(f"/v1/scenes/{TABLE}/select", json=body))
        nothing = client.post(f"/v1/scenes/{TABLE}/select", json={"where": {"text": "green star"}})
    bits = np.frombuffer(base64.b64decode(found["mask"]["bits"]), np.uint8)
    selected = np.unpackbits(bits, bitorder="little", count=found["mask"]["count"]).astype(bool)
    assert selected[cone.members].mean() > 0.5
    assert selected.mean() < 0.5
    assert nothing.status_code == 404 and nothing.json()["error"]["code"] == "nothing_found"


def test_a_film_and_a_mesh(scenes: Cluster) -> None:
    film = {"scene": CAROUSEL, "width": 64, "height": 48, "seconds": 2, "fps": 10, "background": "#ffffff"}
    with scenes.client() as client:
        made = job(client, "scenes.film", film)
        video = client.get(made["artifact"]["url"])
        mesh = job(client, "scenes.mesh", {"scene": TABLE, "resolution": 32})
        solid = client.get(mesh["artifact"]["url"])
    assert video.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(video.content), "r") as opened:
        frames = [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]
    assert len(frames) == made["frames"] == 20 and frames[0].shape == (48, 64, 3)
    assert np.abs(frames[0].astype(int) - frames[10]).mean() > 1
    assert solid.content[:4] == b"glTF"


def job(client: httpx.Client, operation: str, request: dict[str, Any]) -> dict[str, Any]:
    """The result of a job."""
    made = good(client.post("/v1/jobs", json={"operation": operation, "request": request}), 202)
    until = time.monotonic() + JOB_S
    while time.monotonic() < until:
        now = good(client.get(f"/v1/jobs/{made['id']}"))
        assert now["status"] in ("queued", "running", "succeeded"), now
        if now["status"] == "succeeded":
            return dict(now["result"])
        time.sleep(0.2)
    raise AssertionError(f"{operation} did not end: {now}")


def test_the_command_line_draws(scenes: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "table.png"
    done = scenes.argus("call", "render", TABLE, str(out), "--url", scenes.http, "--width", "64", "--height", "48")
    assert done.returncode == 0, done.stderr
    assert pixels(out.read_bytes()).shape == (48, 64, 3)
    assert scenes.argus("call", "render", "hall", str(out), "--url", scenes.http).returncode != 0
