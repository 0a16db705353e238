"""The viewer's page in a real browser, over a real store and a real renderer."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pytest
from playwright.async_api import WebSocketRoute, expect
from skimage.metrics import structural_similarity

from deployments.splat import formats
from deployments.splat.motion import Motion
from tests.e2e.cluster import KEY, Cluster
from tests.support.browser import NO_WEBGL, Tab, UInt8, needs_browser, needs_vendored, pixels, tab
from tests.support.splat_scenes import cloud

pytestmark = [needs_browser, pytest.mark.timeout(400)]

WIDTH, HEIGHT = 320, 240
SCENE: Final = "viewed"
VIEWS: Final[list[dict[str, Any]]] = [
    {"eye": [0.5, -1.0, 4.0], "target": [0, 0, 0], "up": [0, -1, 0], "fov_deg": 50},
    {"eye": [3.2, 1.0, -1.5], "target": [0.2, -0.1, 0], "up": [0, -1, 0], "fov_deg": 40},
    {"eye": [-1.0, -3.0, 1.0], "target": [0, 0.2, 0.1], "up": [0.5, -1, 0.3], "fov_deg": 65},
]
# What two right pictures have at least, and what a wrong pose or a blank page never reaches: see the first test.
ALIKE, OTHER = 0.96, 0.75
# The key is there before the page's scripts are.
WITH_KEY: Final = f"sessionStorage.setItem('argus-api-key', {json.dumps(KEY)})"


@pytest.fixture(scope="module")
def scene(cluster: Cluster) -> Iterator[str]:
    """Gaussians of many shapes, coloured by the direction they are seen from: no two views of them are alike."""
    gaussians = cloud(1500, degree=3, size=0.08, seed=7)
    scale = np.where(np.arange(16) == 0, 0.6, 0.2).astype(np.float32)
    file = formats.write(replace(gaussians, sh=gaussians.sh * scale[:, None]), "ply")
    fields = {"name": SCENE, "attribution": "Argus' own tests, CC0", "replace": "true"}
    with cluster.client() as client:
        client.post("/v1/scenes", data=fields, files={"file": ("cloud.ply", file)}).raise_for_status()
        yield SCENE
        client.delete(f"/v1/scenes/{SCENE}").raise_for_status()


@pytest.fixture(scope="module")
def moving(cluster: Cluster) -> Iterator[str]:
    """A scene that is elsewhere after each tenth of its four seconds."""
    still = cloud(300, size=0.15, seed=3)
    waves = np.zeros((300, 1, 2, 3), np.float32)
    waves[:, 0, 0, 0] = 1.5
    file = formats.write(replace(still, motion=Motion(4.0, waves, np.zeros((300, 3), np.float32))), "argus")
    with cluster.client() as client:
        put = client.post("/v1/scenes", data={"name": "moving"}, files={"file": ("moving.safetensors", file)})
        put.raise_for_status()
        yield "moving"
        client.delete("/v1/scenes/moving").raise_for_status()


@pytest.fixture
async def viewer(cluster: Cluster, scene: str) -> AsyncIterator[Tab]:
    """The scene's page in a browser with WebGL, its key known."""
    async with tab(WIDTH, HEIGHT) as opened:
        await opened.page.add_init_script(WITH_KEY)
        await opened.open(f"{cluster.http}/viewer/{scene}")
        yield opened
        assert opened.errors == []


def rendered(cluster: Cluster, view: dict[str, Any] | None, name: str = SCENE) -> UInt8:
    """The server's own picture."""
    size = {"width": WIDTH, "height": HEIGHT, "format": "png"}
    body = size if view is None else {**size, "camera": {"look_at": view}}
    with cluster.client() as client:
        return pixels(client.post(f"/v1/scenes/{name}/render", json=body).raise_for_status().content)


def likeness(left: UInt8, right: UInt8) -> float:
    """Structural similarity (Wang et al. 2004), 1 for the same picture."""
    assert left.shape == right.shape == (HEIGHT, WIDTH, 3)
    return float(structural_similarity(left, right, channel_axis=2))


@needs_vendored
async def test_the_browser_draws_what_the_server_draws(cluster: Cluster, viewer: Tab) -> None:
    assert await viewer.mode() == "browser"
    first = await viewer.picture()
    shown = [await viewer.look(view) for view in VIEWS]
    expected = [rendered(cluster, view) for view in VIEWS]
    for i, picture in enumerate(shown):
        scores = [likeness(picture, other) for other in expected]
        assert scores[i] > ALIKE
        assert max(score for j, score in enumerate(scores) if j != i) < OTHER
        assert likeness(np.zeros_like(picture), expected[i]) < OTHER
        assert likeness(picture[:, ::-1], expected[i]) < OTHER
    assert likeness(first, rendered(cluster, None)) > ALIKE, "the page begins where the server does"


@needs_vendored
async def test_the_page_asks_no_other_server(cluster: Cluster, viewer: Tab) -> None:
    await viewer.look(VIEWS[0])
    assert any("/export?" in address for address in viewer.requests)
    assert any("spark.module" in address for address in viewer.requests)
    own = (cluster.http, "blob:" + cluster.http)
    assert [address for address in viewer.requests if not address.startswith(own)] == []


@needs_vendored
async def test_a_shared_link_leads_to_the_same_view(cluster: Cluster, viewer: Tab) -> None:
    page = viewer.page
    before = await viewer.picture()
    await page.mouse.move(WIDTH / 2, HEIGHT / 2)
    await page.mouse.down()
    await page.mouse.move(WIDTH / 2 + 60, HEIGHT / 2 - 20, steps=3)
    await page.mouse.up()
    turned = await viewer.picture()
    assert likeness(before, turned) < OTHER
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.get_by_role("button", name="Share").click()
    await expect(page.locator("#note")).to_contain_text("copied")
    link = await page.evaluate("navigator.clipboard.readText()")
    assert "#eye=" in link and KEY not in link
    async with tab(WIDTH, HEIGHT) as other:
        await other.page.add_init_script(WITH_KEY)
        await other.open(link)
        assert likeness(await other.picture(), turned) > 0.99
        await other.page.keyboard.press("0")
        assert likeness(await other.picture(), before) > 0.99


@needs_vendored
async def test_a_screenshot_is_the_picture(viewer: Tab) -> None:
    shown = await viewer.look(VIEWS[1])
    async with viewer.page.expect_download() as started:
        await viewer.page.get_by_role("button", name="Screenshot").click()
    download = await started.value
    assert download.suggested_filename == f"{SCENE}.png"
    path = await download.path()
    assert np.array_equal(pixels(path.read_bytes()), shown)


@needs_vendored
async def test_keys_move_the_camera_and_buttons_say_their_state(viewer: Tab) -> None:
    page = viewer.page
    await expect(page.get_by_text("Argus' own tests, CC0")).to_be_visible()
    await expect(page.get_by_role("button", name="Orbit")).to_have_attribute("aria-pressed", "true")
    await page.keyboard.press("f")
    await expect(page.get_by_role("button", name="Fly")).to_have_attribute("aria-pressed", "true")
    await expect(page.get_by_role("button", name="Orbit")).to_have_attribute("aria-pressed", "false")
    before = await viewer.look(VIEWS[0])
    await page.keyboard.press("ArrowRight")
    looked = await viewer.picture()
    assert likeness(before, looked) < 0.97
    await expect(page).to_have_url(re.compile("#eye=0.5,-1,4&"))
    await page.keyboard.down("w")
    await expect(page).not_to_have_url(re.compile("#eye=0.5,-1,4&"))
    await page.keyboard.up("w")
    await page.get_by_role("button", name="Help").click()
    await expect(page.get_by_role("heading", name="Keys and gestures")).to_be_visible()


async def test_a_key_is_asked_for_until_it_is_right(cluster: Cluster, scene: str) -> None:
    async with tab(WIDTH, HEIGHT) as opened:
        page = opened.page
        await page.goto(f"{cluster.http}/viewer/{scene}?render=server")
        dialog = page.get_by_role("dialog", name="This server wants an API key")
        for key, reason in [("wrong", "Send an API key"), (KEY, "not known")]:
            await expect(dialog).to_contain_text(reason)
            await dialog.get_by_label("Key").fill(key)
            await dialog.get_by_role("button").click()
        await page.evaluate("window.argus.ready")
        await expect(dialog).to_be_hidden()
        assert all(KEY not in address for address in [page.url, *opened.requests])
        await page.reload()
        await page.evaluate("window.argus.ready")
        await expect(dialog).to_be_hidden()


async def test_a_scene_that_is_not_there_is_said_to_be_missing(cluster: Cluster) -> None:
    async with tab(WIDTH, HEIGHT) as opened:
        await opened.page.add_init_script(WITH_KEY)
        await opened.page.goto(f"{cluster.http}/viewer/nothing-of-that-name")
        alert = opened.page.get_by_role("alert")
        await expect(alert).to_have_text("There is no scene named “nothing-of-that-name” here.")
        await expect(opened.page.get_by_role("button", name="Orbit")).to_be_hidden()


@pytest.mark.parametrize("name", ["%ff", "%E0%A4", "Upper"])
async def test_what_no_scene_can_be_called_is_said_to_be_no_name(cluster: Cluster, name: str) -> None:
    async with tab(WIDTH, HEIGHT) as opened:
        await opened.page.add_init_script(WITH_KEY)
        response = await opened.page.goto(f"{cluster.http}/viewer/{name}")
        assert response is not None and response.status == 404
        await expect(opened.page.get_by_role("alert")).to_contain_text("A scene's name has at most 63")
        assert opened.errors == []


async def test_without_webgl_the_server_draws(cluster: Cluster, scene: str) -> None:
    async with tab(WIDTH, HEIGHT, NO_WEBGL) as opened:
        await opened.page.add_init_script(WITH_KEY)
        await opened.open(f"{cluster.http}/viewer/{scene}")
        assert await opened.mode() == "server"
        await _shows_what_the_server_draws(cluster, opened)
        assert any(address.startswith("ws:") and address.endswith("/stream") for address in opened.requests)
        assert not any("/render" in address or "/export" in address for address in opened.requests)


async def test_without_sockets_single_pictures_are_asked_for(cluster: Cluster, scene: str) -> None:
    async def refused(socket: WebSocketRoute) -> None:
        await socket.close()

    async with tab(WIDTH, HEIGHT, NO_WEBGL) as opened:
        await opened.page.add_init_script(WITH_KEY)
        await opened.page.route_web_socket(re.compile("/stream"), refused)
        await opened.open(f"{cluster.http}/viewer/{scene}")
        await _shows_what_the_server_draws(cluster, opened)
        assert any(address.endswith("/render") for address in opened.requests)


async def test_without_the_libraries_the_server_draws(cluster: Cluster, scene: str) -> None:
    async with tab(WIDTH, HEIGHT) as opened:
        await opened.page.add_init_script(WITH_KEY)
        await opened.page.route("**/vendor/**", lambda route: route.fulfill(status=404))
        await opened.open(f"{cluster.http}/viewer/{scene}")
        assert await opened.mode() == "server"
        await _shows_what_the_server_draws(cluster, opened)


@needs_vendored
async def test_the_server_takes_over_when_the_browser_loses_its_surface(cluster: Cluster, viewer: Tab) -> None:
    surface = "document.querySelector('#view canvas').getContext('webgl2')"
    await viewer.page.evaluate(f"{surface}.getExtension('WEBGL_lose_context').loseContext()")
    await _shows_what_the_server_draws(cluster, viewer)
    assert await viewer.mode() == "server"


async def test_a_moving_scene_plays_until_it_is_paused(cluster: Cluster, moving: str) -> None:
    async with tab(WIDTH, HEIGHT) as opened:
        await opened.page.add_init_script(WITH_KEY)
        await opened.open(f"{cluster.http}/viewer/{moving}")
        assert await opened.mode() == "server"
        first = await opened.picture()
        while likeness(first, await opened.picture()) > 0.9:
            pass  # the test's own time-out ends a scene that stands still
        play = opened.page.get_by_role("button", name="Play")
        await expect(play).to_have_attribute("aria-pressed", "true")
        await play.click()
        await expect(play).to_have_attribute("aria-pressed", "false")
        paused = await opened.picture()
        assert likeness(paused, await opened.picture()) > 0.99


async def test_a_radiance_field_is_drawn_by_the_server(cluster: Cluster) -> None:
    with cluster.client() as client:
        if client.get("/v1/scenes/ring").status_code == 404:
            pytest.skip("this cluster has no radiance field")
    async with tab(WIDTH, HEIGHT) as opened:
        await opened.page.add_init_script(WITH_KEY)
        await opened.open(f"{cluster.http}/viewer/ring")
        assert await opened.mode() == "server"
        assert likeness(await opened.picture(), rendered(cluster, None, "ring")) > ALIKE


@needs_vendored
async def test_a_browser_without_a_gpu_draws_large_scenes_only_when_told_to(cluster: Cluster) -> None:
    file = formats.write(cloud(50_001, size=0.01), "splat")
    with cluster.client() as client:
        put = client.post("/v1/scenes", data={"name": "large"}, files={"file": ("large.splat", file)})
        put.raise_for_status()
        try:
            for wish, mode in [("", "server"), ("?render=browser", "browser")]:
                async with tab(64, 48) as opened:
                    await opened.page.add_init_script(WITH_KEY)
                    await opened.open(f"{cluster.http}/viewer/large{wish}")
                    assert await opened.mode() == mode
        finally:
            client.delete("/v1/scenes/large").raise_for_status()


async def _shows_what_the_server_draws(cluster: Cluster, opened: Tab) -> None:
    for view in VIEWS[:2]:
        shown = await opened.look(view)
        assert likeness(shown, rendered(cluster, view)) > ALIKE
        assert likeness(shown, rendered(cluster, VIEWS[2])) < OTHER
    await expect(opened.page.get_by_text("Drawn by the server")).to_be_visible()
    assert opened.errors == []
