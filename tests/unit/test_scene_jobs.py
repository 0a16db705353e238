"""Films of scenes as jobs: what is admitted, what each frame shows, and going on after an interruption."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deployments.jobs.types import Progress
from deployments.rendering.camera import Camera
from deployments.rendering.film import FilmWriter
from deployments.rendering.messages import FilmRequest, FilmSegment
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidRequest, ModelFailed, NotFound
from serve.media.source import MediaBytes
from serve.protocol import job_operations
from serve.scenes.cameras import placed
from tests.unit.scene_site import SceneSite

SMALL = {"scene": "room", "width": 32, "height": 16, "fps": 10, "seconds": 1.0}


def context() -> RequestContext:
    return RequestContext("job", "anonymous", time.monotonic() + 60)


class Reports:
    """Keeps what a job tells."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.parts: dict[str, Any] = {}

    async def __call__(self, progress: Progress, key: str | None = None, value: Any = None) -> None:
        self.progress.append(progress)
        if key is not None:
            self.parts[key] = value


@pytest.fixture
def site(scene_site: SceneSite) -> SceneSite:
    scene_site.scenes.put_scene("room", b"a room")
    scene_site.splat.segments = filmed
    return scene_site


def filmed(request: FilmRequest) -> FilmSegment:
    """A segment as a renderer encodes it, each frame of a grey of its own."""
    writer = FilmWriter(request.cameras[0].width, request.cameras[0].height, request.fps, len(request.cameras), 80)
    for number in range(len(request.cameras)):
        shape = request.cameras[0].height, request.cameras[0].width, 3
        writer.add(np.full(shape, 10 * number, np.uint8))
    return FilmSegment(writer.finish())


async def film(
    site: SceneSite, done: dict[str, Any] | None = None, reports: Reports | None = None, **fields: Any
) -> dict[str, Any]:
    operation = job_operations.operations(site.services)["scenes.film"]
    given = await operation.admit({**SMALL, **fields}, (), context())
    return await operation.run(given, context(), reports or Reports(), done or {})


def requests(site: SceneSite) -> list[FilmRequest]:
    return sorted((one for one in site.splat.requests), key=lambda one: one.times_s[0])


async def test_a_turntable(site: SceneSite) -> None:
    reports = Reports()
    made = await film(site, reports=reports, background="#fff", quality=60)
    assert {key: made[key] for key in ("object", "scene", "version", "frames", "fps", "width", "height")} == {
        "object": "scene.film",
        "scene": "room",
        "version": 1,
        "frames": 10,
        "fps": 10,
        "width": 32,
        "height": 16,
    }
    artifact, data = site.scenes.files[made["artifact"]["id"]]
    assert artifact.media_type == "video/mp4" and made["artifact"]["url"].endswith(artifact.id)
    assert data[4:8] == b"ftyp"
    assert [progress.done for progress in reports.progress if progress.stage == "drawing"] == [0, 4, 8, 10]
    assert (reports.progress[-1].stage, reports.progress[-1].total) == ("joining", 10)
    asked = requests(site)
    assert [len(one.cameras) for one in asked] == [4, 4, 2]  # as many as the renderer takes in one request
    assert {(one.fps, one.quality, one.options.background) for one in asked} == {(10, 60, (1, 1, 1))}
    places = np.stack([camera.position for one in asked for camera in one.cameras])
    steps = np.linalg.norm(places - np.roll(places, 1, axis=0), axis=1)
    np.testing.assert_allclose(steps, steps[0])  # a full turn, whose end meets its beginning
    assert site.splat.affinities == [asked[0].scene.digest] * 3


async def test_a_film_of_a_small_scene_shows_it(site: SceneSite) -> None:
    room = site.scenes.scenes["room"]
    bounds = replace(room.shown.bounds, radius=1e-4)
    site.scenes.scenes["room"] = replace(room, versions=(replace(room.shown, bounds=bounds),))
    await film(site)
    for one in requests(site):
        for camera in one.cameras:
            assert one.options.near < 0.1 * (np.linalg.norm(camera.position) - 1e-4)


async def test_keyframes(site: SceneSite) -> None:
    keys = [{"camera": {"orbit": {"azimuth_deg": angle}}, "at": at} for angle, at in ((0, 0), (90, 0.5), (180, 1))]
    await film(site, keyframes=keys, fps=9)
    cameras = [camera for one in requests(site) for camera in one.cameras]
    assert len(cameras) == 9
    first, middle, last = (cameras[index].position for index in (0, 4, 8))
    np.testing.assert_allclose(first, -last * [1, -1, 1], atol=1e-9)
    assert abs(first @ middle - first[1] ** 2) < 1e-9


async def test_time_goes_on_as_fast_as_is_said(site: SceneSite) -> None:
    await film(site, time_s=2.0, speed=0.5)
    moments = [moment for one in requests(site) for moment in one.times_s]
    np.testing.assert_allclose(moments, 2 + 0.5 * np.arange(10) / 10)


async def test_a_film_goes_on_where_it_was(site: SceneSite) -> None:
    whole, reports = await film(site), Reports()
    expected = site.scenes.files[whole["artifact"]["id"]][1]
    site.splat.reset()
    site.splat.segments = filmed

    def failing(request: FilmRequest) -> FilmSegment:
        if request.times_s[0] >= 0.8:
            raise ModelFailed("out of memory")
        return filmed(request)

    site.splat.segments = failing
    with pytest.raises(ModelFailed):
        await film(site, reports=reports)
    assert set(reports.parts) <= {"0", "4"} and reports.parts
    site.splat.reset()
    site.splat.segments = filmed
    again = await film(site, done=reports.parts)
    assert len(site.splat.requests) == 3 - len(reports.parts)
    assert site.scenes.files[again["artifact"]["id"]][1] == expected


async def test_the_cameras_of_a_long_film_are_not_worked_out_on_the_event_loop(
    site: SceneSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def noted(*args: Any) -> Camera:
        threads.append(threading.current_thread())
        return placed(*args)

    monkeypatch.setattr("serve.scenes.films.placed", noted)
    operation = job_operations.operations(site.services)["scenes.film"]
    await operation.admit({**SMALL, "seconds": 720, "turntable": {"turns": 3}}, (), context())
    assert len(threads) == 1, "where 7,200 frames begin is looked at when the film is asked for, and no more"
    threads.clear()
    await film(site, turntable={"turns": 3})
    assert len(threads) == 1 + 10 and threading.current_thread() not in threads[1:]


async def test_the_version_is_the_one_that_was_there_when_it_was_asked_for(site: SceneSite) -> None:
    operation = job_operations.operations(site.services)["scenes.film"]
    given = await operation.admit(SMALL, (), context())
    site.scenes._edit("room", ("one",), 1)
    made = await operation.run(given, context(), Reports(), {})
    assert made["version"] == 1


CAMERA: dict[str, Any] = {"orbit": {}}
WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("film", {"seconds": 0}, "seconds", "invalid_field"),
    ("film", {"seconds": 3000, "fps": 60}, "seconds", "film_too_long"),
    ("film", {"fps": 500}, "fps", "invalid_field"),
    ("film", {"fps": 0.0004, "seconds": 1}, "fps", "invalid_field"),
    ("film", {"speed": 1e308}, "speed", "invalid_field"),
    ("film", {"width": 20_000, "height": 2}, "width", "invalid_field"),
    ("film", {"width": 4000}, "width", "too_many_pixels"),
    ("film", {"keyframes": []}, "keyframes", "invalid_field"),
    ("film", {"keyframes": [{"camera": CAMERA}], "turntable": {}}, "body", "invalid_field"),
    ("film", {"keyframes": [{"camera": CAMERA, "at": 0}, {"camera": CAMERA}]}, "body", "invalid_field"),
    ("film", {"keyframes": [{"camera": CAMERA, "at": 0}, {"camera": CAMERA, "at": 0.5}]}, "body", "invalid_field"),
    ("film", {"keyframes": [{"camera": {}}]}, "keyframes[0].camera", "invalid_field"),
    (
        "film",
        {"keyframes": [{"camera": {"look_at": {"eye": [0, 0, 0], "target": [0, 0, 0]}}}]},
        "keyframes[0].camera",
        "invalid_camera",
    ),
    ("film", {"turntable": {"turns": 1000}}, "turntable.turns", "invalid_field"),
    ("film", {"scene": "../x"}, "name", "invalid_scene_name"),
    ("film", {"model": "nerf"}, "model", "task_not_supported"),
    ("mesh", {"resolution": 8}, "resolution", "invalid_field"),
    ("mesh", {"format": "obj"}, "format", "invalid_field"),
    ("mesh", {"box": {"min": [0, 0, 0], "max": [1, 0, 1]}}, "box", "invalid_mesh"),
    ("mesh", {"colour": 1}, "colour", "unknown_field"),
]


@pytest.mark.parametrize(("kind", "fields", "param", "code"), WRONG)
async def test_what_is_not_begun(site: SceneSite, kind: str, fields: dict[str, Any], param: str, code: str) -> None:
    operation = job_operations.operations(site.services)[f"scenes.{kind}"]
    given = {**(SMALL if kind == "film" else {"scene": "room"}), **fields}
    with pytest.raises(ArgusError) as refused:
        await operation.admit(given, (), context())
    assert (refused.value.param, refused.value.code) == (param, code)


@pytest.mark.parametrize("kind", ["film", "mesh"])
async def test_what_is_not_there(site: SceneSite, kind: str) -> None:
    operation = job_operations.operations(site.services)[f"scenes.{kind}"]
    with pytest.raises(NotFound):
        await operation.admit({"scene": "hall"}, (), context())
    with pytest.raises(InvalidRequest, match="file"):
        await operation.admit({"scene": "room"}, [("file", MediaBytes(b"1", None))], context())
