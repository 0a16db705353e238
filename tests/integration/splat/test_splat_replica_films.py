"""Films of the splat deployment's class."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from deployments.messages import Call
from deployments.rendering.camera import look_at
from deployments.rendering.film import join
from deployments.rendering.messages import (
    FilmRequest,
    RasterOptions,
    ViewFiles,
)
from serve.errors import (
    DeadlineExceeded,
    InvalidRequest,
)
from tests.support.gaussians import moving_scene, random_scene, sphere
from tests.support.splat_site import (
    CALL,
    UP,
    Site,
    Slow,
    alone,
    camera,
    raw,
    until,
)


def shown(film: bytes) -> list[Any]:
    with av.open(io.BytesIO(film)) as file:
        return [
            (frame.pts * frame.time_base, frame.to_ndarray(format="rgb24").astype(int))
            for frame in file.decode(video=0)
        ]


async def test_a_film_shows_the_views_of_its_cameras_in_order(site: Site) -> None:
    gaussians = sphere(rgb=(0.9, 0.2, 0.1), count=800)
    ref = site.put(gaussians)
    eyes = [(-0.9 + 0.15 * number, 0.0, -5.0) for number in range(13)]
    cameras = tuple(look_at(eye, (eye[0], 0, 0), UP, 60, 96, 64) for eye in eyes)
    pieces = [
        await site.replica.film(FilmRequest(ref, cameras[first : first + 5], 25.0, quality=95), CALL)
        for first in range(0, 13, 5)
    ]
    film = shown(join([piece.data for piece in pieces]))
    assert [float(at) for at, _ in film] == [number / 25 for number in range(13)]
    for (_, pixels), view in zip(film, cameras, strict=True):
        drawn = np.clip(alone(gaussians, view).rgb, 0, 1) * 255
        assert np.abs(pixels - drawn).mean() < 4


async def test_a_film_of_a_moving_scene_shows_its_moments(site: Site) -> None:
    gaussians = moving_scene(60, period_s=2.0)
    times_s = (0.0, 0.5, 1.0, 1.5, 2.0)
    request = FilmRequest(site.put(gaussians), (camera(),) * 5, 10.0, times_s, quality=95)
    film = shown((await site.replica.film(request, CALL)).data)
    for (_, pixels), time_s in zip(film, times_s, strict=True):
        drawn = np.clip(alone(gaussians, camera(), time_s=time_s).rgb, 0, 1) * 255
        others = [np.clip(alone(gaussians, camera(), time_s=other).rgb, 0, 1) * 255 for other in times_s[:4]]
        errors = [np.abs(pixels - other).mean() for other in others]
        assert np.abs(pixels - drawn).mean() == min(errors)


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"cameras": ()}, "invalid_field", "cameras"),
        ({"cameras": (camera(),) * 65}, "too_many_inputs", "cameras"),
        ({"cameras": (camera(), camera(width=50))}, "invalid_field", "cameras"),
        ({"cameras": (camera(), replace(camera(), fx=0.0))}, "invalid_camera", "cameras[1]"),
        ({"cameras": (camera(width=5000, height=5000),)}, "too_many_pixels", "cameras[0]"),
        ({"times_s": (1.0,)}, "invalid_field", "times_s"),
        ({"fps": 0.0}, "invalid_field", "fps"),
        ({"options": RasterOptions(near=2.0, far=1.0)}, "invalid_field", "near"),
    ],
)
async def test_films_that_cannot_be_made_are_refused(
    site: Site, changes: dict[str, Any], code: str, param: str
) -> None:
    good = FilmRequest(site.put(random_scene(10)), (camera(),) * 2, 25.0)
    with pytest.raises(InvalidRequest) as refused:
        await site.replica.film(replace(good, **changes), CALL)
    assert (refused.value.code, refused.value.param) == (code, param)


async def test_a_film_ends_at_its_deadline_and_pictures_go_on(slow: Slow, site: Site) -> None:
    ref = site.put(random_scene(20))
    slow.go.set()
    await site.replica.render(raw(ref, camera()), CALL)
    slow.go.clear()
    slow.batches.clear()
    with pytest.raises(DeadlineExceeded):
        await site.replica.film(FilmRequest(ref, (camera(),) * 20, 25.0), Call("film", 0.1))
    slow.go.set()
    assert isinstance((await site.replica.render(raw(ref, camera(width=40)), CALL)).views[0], ViewFiles)
    assert len(slow.batches) <= 2


async def test_a_film_that_waits_for_another_ends_at_its_deadline(slow: Slow, tmp_path: Path) -> None:
    site = Site(tmp_path, placement={"preprocess_workers": 1})
    request = FilmRequest(site.put(random_scene(20)), (camera(),) * 3, 25.0)
    first = asyncio.create_task(site.replica.film(request, CALL))
    await until(lambda: slow.batches)
    # Drawing alone would refuse it, but it has not come to drawing.
    with pytest.raises(DeadlineExceeded, match="film"):
        await site.replica.film(request, Call("late", 0.2))
    slow.go.set()
    assert len(shown((await first).data)) == 3
