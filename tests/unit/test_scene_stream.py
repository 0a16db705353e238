"""`/v1/scenes/{name}/stream` with a real server and a real client, over a store and renderers that are stand-ins."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
import websockets
from websockets.asyncio.client import ClientConnection

from serve.errors import ModelFailed, NotFound, Overloaded
from serve.protocol import scene_stream
from tests.unit.fakes import KEYS
from tests.unit.scene_site import SceneSite

ORBIT = {"camera": {"orbit": {"azimuth_deg": 0}}, "width": 20, "height": 16}
JPEG = b"\xff\xd8"


class Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@asynccontextmanager
async def served(site: SceneSite) -> AsyncIterator[str]:
    """The address of the site behind a real server."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = Server(uvicorn.Config(site.app, port=0, lifespan="off", log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve())
    await server.listening.wait()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"ws://127.0.0.1:{port}/v1/scenes"
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
async def site(scene_site: SceneSite) -> SceneSite:
    scene_site.scenes.put_scene("room", b"a room")
    scene_site.scenes.put_scene("field", b"a field", "nerf")
    return scene_site


@pytest.fixture
async def address(site: SceneSite) -> AsyncIterator[str]:
    async with served(site) as where:
        yield where


async def tell(socket: ClientConnection, **message: Any) -> None:
    await socket.send(json.dumps(message))


async def picture(socket: ClientConnection) -> bytes:
    async with asyncio.timeout(60):
        message = await socket.recv()
    assert isinstance(message, bytes), message
    return message


async def error(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(60):
        message = await socket.recv()
    assert isinstance(message, str)
    body = json.loads(message)
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message", "param", "type", "request_id"}
    return dict(body["error"])


async def close_code(socket: ClientConnection) -> int:
    async with asyncio.timeout(60):
        await socket.wait_closed()
    assert socket.close_code is not None
    return socket.close_code


async def silent(socket: ClientConnection, seconds: float = 0.2) -> None:
    """Nothing comes for a while."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await socket.recv()


async def test_a_camera_is_answered_by_a_picture(address: str, site: SceneSite) -> None:
    async with websockets.connect(f"{address}/room/stream") as socket:
        await tell(socket, **ORBIT, quality=50)
        first = await picture(socket)
        assert first.startswith(JPEG)
        await tell(socket, camera={"orbit": {"azimuth_deg": 90}})  # the rest stays as it was
        second = await picture(socket)
        assert second != first
    before, after = site.splat.requests
    assert (before.quality, after.quality, after.cameras[0].width) == (50, 50, 20)
    assert before.encoding == "jpeg" and before.outputs == ("rgb",)
    assert site.splat.affinities[0] == before.scene.digest


async def test_open_views_are_counted(address: str, site: SceneSite) -> None:
    async with websockets.connect(f"{address}/room/stream") as first, websockets.connect(f"{address}/room/stream"):
        await tell(first, **ORBIT)
        await picture(first)
        assert site.recorder.viewers[-1] == 2
    for _ in range(500):
        if site.recorder.viewers[-1] == 0:
            break
        await asyncio.sleep(0.01)
    assert site.recorder.viewers == [1, 2, 1, 0]


async def test_a_picture_may_be_asked_for_again(address: str) -> None:
    async with websockets.connect(f"{address}/room/stream") as socket:
        await tell(socket, **ORBIT)
        first = await picture(socket)
        await tell(socket)
        assert await picture(socket) == first
        await silent(socket)


async def test_cameras_that_came_too_fast_are_left_out(address: str, site: SceneSite) -> None:
    site.splat.gate.clear()
    async with websockets.connect(f"{address}/room/stream") as socket:
        for angle in range(10):
            await tell(socket, camera={"orbit": {"azimuth_deg": angle}}, width=20, height=16)
        await asyncio.wait_for(site.splat.entered.wait(), 60)
        await tell(socket, camera={"orbit": {"azimuth_deg": 99}})
        await (await socket.ping())
        await asyncio.sleep(0.1)
        site.splat.gate.set()
        await picture(socket)
        await picture(socket)
        await silent(socket)
    assert len(site.splat.requests) == 2  # the one that was being drawn, and the last


async def test_the_next_picture_is_asked_for_while_one_is_presumably_on_its_way(address: str, site: SceneSite) -> None:
    site.splat.took_s = 0.05
    async with websockets.connect(f"{address}/room/stream") as socket:
        await tell(socket, **ORBIT)
        await picture(socket)
        site.splat.gate.clear()
        for angle in (1, 2, 3, 4):
            site.splat.entered.clear()
            await tell(socket, camera={"orbit": {"azimuth_deg": angle}})
            if angle < 3:
                await asyncio.wait_for(site.splat.entered.wait(), 60)
        await (await socket.ping())
        await asyncio.sleep(0.1)
        assert len(site.splat.requests) == 3  # two in work, and no third
        site.splat.gate.set()
        for _ in range(3):
            await picture(socket)
        await silent(socket)
    assert len(site.splat.requests) == 4  # the latest camera was drawn, the one before it was left out


async def test_a_wrong_message_is_told_and_the_view_goes_on(address: str) -> None:
    async with websockets.connect(f"{address}/room/stream") as socket:
        await socket.send("not JSON")
        assert (await error(socket))["code"] == "invalid_json"
        await socket.send(b"\x00")
        assert (await error(socket))["code"] == "invalid_json"
        await tell(socket, colour="red")
        assert (await error(socket))["param"] == "colour"
        await tell(socket, camera={"orbit": {"fov_deg": 0}})
        assert (await error(socket))["param"] == "camera.orbit.fov_deg"
        await tell(socket, seen=-1)
        assert (await error(socket))["param"] == "seen"
        await tell(socket, **ORBIT | {"camera": {"look_at": {"eye": [0, 0, 0], "target": [0, 0, 0]}}})
        assert (await error(socket))["code"] == "invalid_camera"
        await tell(socket, **ORBIT | {"width": 10_001})
        assert (await error(socket))["code"] == "too_many_pixels"
        await tell(socket, **ORBIT)
        assert (await picture(socket)).startswith(JPEG)


async def test_a_picture_that_fails_is_told_and_the_view_goes_on(address: str, site: SceneSite) -> None:
    site.splat.failing = {0: ModelFailed("out of memory")}
    async with websockets.connect(f"{address}/room/stream") as socket:
        await tell(socket, **ORBIT)
        assert (await error(socket))["code"] == "model_failed"
        site.splat.failing = {0: Overloaded("Busy.", retry_after_s=0.05)}
        await tell(socket, **ORBIT)
        assert (await error(socket))["code"] == "overloaded"
        site.splat.failing = {}
        assert (await picture(socket)).startswith(JPEG)  # tried again by itself


async def test_a_viewer_is_sent_no_more_than_it_has_seen(address: str, site: SceneSite) -> None:
    async with websockets.connect(f"{address}/room/stream?max_fps=60") as socket:
        await tell(socket, seen=0, **ORBIT)
        await picture(socket)
        for _ in range(2):
            await tell(socket)
            await picture(socket)
        await tell(socket)
        await silent(socket)
        await tell(socket, seen=1)
        await picture(socket)
        await silent(socket)


async def test_a_radiance_field_becomes_better_by_itself(address: str, site: SceneSite) -> None:
    async with websockets.connect(f"{address}/field/stream") as socket:
        await tell(socket, **ORBIT)
        for _ in range(3):
            await picture(socket)
        await silent(socket)
        assert [request.effort for request in site.nerf.requests] == [0.1, 0.4, 1.0]
        await tell(socket, **ORBIT, effort=0.3)
        await picture(socket)
        await silent(socket)
    assert [request.effort for request in site.nerf.requests][3:] == [0.3]


async def test_a_scene_that_changes_is_drawn_again(
    address: str, site: SceneSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene_stream, "_LOOK_S", 0.05)
    async with websockets.connect(f"{address}/room/stream") as socket:
        await tell(socket, **ORBIT)
        await picture(socket)
        site.scenes._edit("room", ("one",), 1)
        await picture(socket)
        site.scenes._delete("room")
        assert (await error(socket))["code"] == "scene_not_found"
        assert await close_code(socket) == 4404
    assert len({request.scene.digest for request in site.splat.requests}) == 2


@pytest.mark.parametrize(
    ("path", "code", "close"),
    [
        ("hall/stream", "scene_not_found", 4404),
        ("A/stream", "invalid_scene_name", 4400),
        ("room/stream?max_fps=0", "invalid_field", 4400),
        ("room/stream?fps=9", "unknown_field", 4400),
    ],
)
async def test_views_that_do_not_begin(address: str, path: str, code: str, close: int) -> None:
    async with websockets.connect(f"{address}/{path}") as socket:
        assert (await error(socket))["code"] == code
        assert await close_code(socket) == close


async def test_what_is_no_stream(address: str) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(f"{address}/room/nothing"):
            pass
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("message", ["x" * 70_000, b"x" * 70_000, "\N{GRINNING FACE}" * 20_000])
async def test_a_message_that_is_too_long(address: str, message: str | bytes) -> None:
    async with websockets.connect(f"{address}/room/stream") as socket:
        await socket.send(message)
        assert (await error(socket))["code"] == "payload_too_large"
        assert await close_code(socket) == 4413


async def test_views_are_bounded(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_stream, "MOST_VIEWERS", 1)
    async with websockets.connect(f"{address}/room/stream") as first:
        await tell(first, **ORBIT)
        await picture(first)
        async with websockets.connect(f"{address}/room/stream") as second:
            assert (await error(second))["code"] == "too_many_viewers"
            assert await close_code(second) == 4429
        await tell(first)
        await picture(first)
    for _ in range(100):  # the server notices the end in its own time
        async with websockets.connect(f"{address}/room/stream") as third:
            await tell(third, **ORBIT)
            if isinstance(await third.recv(), bytes):
                return
    raise AssertionError("the place was not given back")


async def test_a_viewer_who_says_nothing_is_sent_away(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_stream, "IDLE_S", 0.1)
    async with websockets.connect(f"{address}/room/stream") as socket:
        assert (await error(socket))["code"] == "viewer_idle"
        assert await close_code(socket) == 4504


async def test_a_viewer_who_does_not_read_delays_no_other(
    address: str, site: SceneSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.splat.padding = 4_000_000
    async with websockets.connect(
        f"{address}/room/stream?max_fps=60", max_size=None, max_queue=1, close_timeout=0.1, compression=None
    ) as slow:
        for _ in range(30):
            await tell(slow, **ORBIT)
            await asyncio.sleep(0.01)
        stuck = len(site.splat.requests)
        site.splat.padding = 0
        async with websockets.connect(f"{address}/room/stream") as quick:
            for _ in range(5):
                await tell(quick, **ORBIT)
                await picture(quick)
        assert stuck < 30 and len(site.splat.requests) - stuck <= 6


async def test_keys() -> None:
    site = SceneSite(keys=True)
    site.scenes.put_scene("room", b"a room")
    key = base64.urlsafe_b64encode(KEYS["alice"].encode()).decode().rstrip("=")
    async with served(site) as address:
        path = f"{address}/room/stream"
        async with websockets.connect(path, subprotocols=["argus"]) as socket:  # type: ignore[list-item]
            assert (await error(socket))["code"] == "unauthenticated"
            assert await close_code(socket) == 4401
        async with websockets.connect(path, subprotocols=["argus", "argus.key.%%%"]) as socket:  # type: ignore[list-item]
            assert (await error(socket))["code"] == "invalid_api_key"
        offers = ["argus", f"argus.key.{key}"]
        async with websockets.connect(path, subprotocols=offers, origin="http://elsewhere") as socket:  # type: ignore[arg-type]
            assert socket.subprotocol == "argus"
            await tell(socket, **ORBIT)
            assert (await picture(socket)).startswith(JPEG)
        async with websockets.connect(path, additional_headers={"x-api-key": KEYS["bob"]}) as socket:
            await tell(socket, **ORBIT)
            await picture(socket)
    ended = {(record.client, record.outcome, record.route) for record in site.recorder.requests}
    assert ("alice", "ok", scene_stream.PATH) in ended and ("bob", "ok", scene_stream.PATH) in ended
    assert KEYS["alice"] not in repr(site.recorder.requests)


async def test_pages_of_others_do_not_look_in_without_a_key(address: str) -> None:
    async with websockets.connect(f"{address}/room/stream", origin="http://evil.example") as socket:  # type: ignore[arg-type]
        assert (await error(socket))["code"] == "origin_not_allowed"
        assert await close_code(socket) == 4403
    own = address.replace("ws://", "http://").partition("/v1")[0]
    async with websockets.connect(f"{address}/room/stream", origin=own) as socket:  # type: ignore[arg-type]
        await tell(socket, **ORBIT)
        await picture(socket)


async def test_a_version_that_gave_way_is_told_and_the_view_goes_on(address: str, site: SceneSite) -> None:
    async with websockets.connect(f"{address}/room/stream") as socket:
        site.splat.failing = {0: NotFound("It is gone.", code="scene_gone")}
        await tell(socket, **ORBIT)
        assert (await error(socket))["code"] == "scene_gone"
        site.splat.failing = {}
        site.scenes._edit("room", ("one",), 1)
        await tell(socket)
        assert (await picture(socket)).startswith(JPEG)
    first, second = site.splat.requests
    assert first.scene.digest != second.scene.digest  # the newer one, at once
