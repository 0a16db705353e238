"""Films of scenes: a camera's way, segment by segment, so that one that was interrupted goes on where it was."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from deployments.jobs.types import Progress
from deployments.rendering.camera import Camera
from deployments.rendering.messages import LONGEST_FILM_SIDE, FilmRequest, RasterOptions
from deployments.scenes.types import SceneInfo, Version
from serve.context import RequestContext
from serve.errors import InvalidRequest
from serve.jobs.operation import Report
from serve.scenes.cameras import Orbit, View, placed
from serve.scenes.paths import Keyframe, interpolated
from serve.scenes.rendering import SceneRenderer, Shot, sized

MOST_FRAMES: Final = 7200
# Segments in work at once, and what one holds at most: enough to be worth a call, little enough to be lost.
_AT_ONCE: Final = 2
_SEGMENT_FRAMES: Final = 30
_SEGMENT_PIXELS: Final = 30_000_000
_PLAIN: Final = RasterOptions()


@dataclass(frozen=True, slots=True)
class Turn:
    """A way around the scene on an orbit, from its azimuth on; its end meets its beginning.

    Attributes:
        turns: around it; negative ones go clockwise.
    """

    start: Orbit
    turns: float = 1.0


@dataclass(frozen=True, slots=True)
class Way:
    """A way along keyframes.

    Attributes:
        at: when each is passed, from 0 to 1; evenly when None.
        closed: see `serve.scenes.paths.interpolated`.
    """

    views: tuple[tuple[str, View], ...]
    at: tuple[float, ...] | None = None
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Film:
    """A film that a client wants.

    Attributes:
        fps: frames a second.
        time_s: a moving scene's moment at the first frame.
        speed: seconds of the scene's motion in a second of the film.
        quality, effort, options: see `deployments.rendering.messages.FilmRequest`.
    """

    path: Turn | Way
    seconds: float
    fps: float
    width: int
    height: int
    time_s: float = 0.0
    speed: float = 1.0
    quality: int = 80
    effort: float = 1.0
    options: RasterOptions = _PLAIN
    model: str | None = None

    @property
    def frames(self) -> int:
        """At least one."""
        return max(1, round(self.seconds * self.fps))


class FilmMaker:
    """See the module's text."""

    def __init__(self, renderer: SceneRenderer) -> None:
        self._renderer = renderer

    def check(self, film: Film, info: SceneInfo, version: Version) -> None:
        """Refuses what could not be made.

        Raises:
            InvalidRequest: `film_too_long`, `too_many_pixels`, `invalid_camera`.
            NotFound: see `SceneRenderer.pick`.
        """
        if film.frames > MOST_FRAMES:
            message = f"The film has {film.frames:,} frames; at most {MOST_FRAMES:,} are made in one."
            raise InvalidRequest(message, code="film_too_long", param="seconds")
        for side, name in ((film.width, "width"), (film.height, "height")):
            if side > LONGEST_FILM_SIDE:
                message = f"A film's frames have at most {LONGEST_FILM_SIDE:,} pixels a side."
                raise InvalidRequest(message, code="invalid_field", param=name)
        model = self._renderer.pick(info.kind, film.model)
        self._renderer.check(Shot((("path", Orbit()),), film.width, film.height), model)
        stops_of(film, info, version)

    async def make(
        self,
        film: Film,
        info: SceneInfo,
        version: Version,
        context: RequestContext,
        report: Report,
        done: Mapping[str, Any],
        soon: Callable[[RequestContext], RequestContext],
    ) -> bytes:
        """An MP4 file (H.264).

        Args:
            report: is given each segment to keep, in base64.
            done: segments that an earlier attempt kept.
            soon: the context of one segment, which has the time that a request may have.

        Raises:
            ArgusError: a frame could not be drawn.
        """
        model = self._renderer.pick(info.kind, film.model)
        options = sized(film.options, version.bounds.radius)
        # In threads: thousands of cameras, and the files of as many frames.
        cameras = await asyncio.to_thread(cameras_of, film, info, version)
        step = max(
            1, min(_SEGMENT_FRAMES, self._renderer.most_views(model), _SEGMENT_PIXELS // (film.width * film.height))
        )
        starts = range(0, len(cameras), step)
        finished = await asyncio.to_thread(_decoded, done)

        async def tell(key: str | None = None, value: str | None = None) -> None:
            frames = min(len(finished) * step, len(cameras))
            await report(Progress("drawing", frames, len(cameras)), key, value)

        async def one(start: int) -> None:
            some = tuple(cameras[start : start + step])
            moments = tuple(film.time_s + film.speed * number / film.fps for number in range(start, start + len(some)))
            request = FilmRequest(version.ref, some, film.fps, moments, options, film.quality, film.effort)
            segment = (await self._renderer.film(model, request, soon(context))).data
            finished[str(start)] = segment
            await tell(str(start), base64.b64encode(segment).decode())

        await tell()
        await _each([start for start in starts if str(start) not in finished], one)
        await report(Progress("joining", len(cameras), len(cameras)))
        return await asyncio.to_thread(_join, [finished[str(start)] for start in starts])


def stops_of(film: Film, info: SceneInfo, version: Version) -> list[Camera]:
    """What the client has said of the way: its keyframes, or where it begins. If these can stand, so can all between.

    Raises:
        InvalidRequest: `invalid_camera`.
    """
    path = film.path
    views = (("turntable", path.start),) if isinstance(path, Turn) else path.views
    return [_standing(view, film, info, version, param) for param, view in views]


def cameras_of(film: Film, info: SceneInfo, version: Version) -> list[Camera]:
    """One a frame; a tenth of a millisecond each.

    Raises:
        InvalidRequest: `invalid_camera`.
    """
    path = film.path
    if isinstance(path, Turn):
        start, turn = path.start, 360 * path.turns / film.frames
        orbits = (replace(start, azimuth_deg=start.azimuth_deg + turn * frame) for frame in range(film.frames))
        return [_standing(orbit, film, info, version, "turntable") for orbit in orbits]
    last = max(1, len(path.views) - 1)
    at = path.at or tuple(index / last for index in range(len(path.views)))
    stops = stops_of(film, info, version)
    keyframes = [Keyframe(moment, stop) for moment, stop in zip(at, stops, strict=True)]
    return interpolated(keyframes, film.frames, closed=path.closed)


def _standing(view: View, film: Film, info: SceneInfo, version: Version, param: str) -> Camera:
    return placed(view, version.bounds, info.up, film.width, film.height, param)


def _decoded(parts: Mapping[str, str]) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in parts.items()}


def _join(segments: list[bytes]) -> bytes:
    # Imported here: FFmpeg's libraries are large, and most routers make no film.
    from deployments.rendering.film import join

    return join(segments)


async def _each(starts: Sequence[int], work: Callable[[int], Awaitable[None]]) -> None:
    """The first failure ends the rest."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(start: int) -> None:
        async with places:
            await work(start)

    try:
        async with asyncio.TaskGroup() as group:
            for start in starts:
                group.create_task(one(start))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
