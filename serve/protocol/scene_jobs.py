"""Work on scenes that outlasts a request: films (`scenes.film`) and meshes (`scenes.mesh`), as jobs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from pydantic import Field, FiniteFloat, model_validator

from deployments.scenes.types import SceneInfo, Version
from serve.context import RequestContext
from serve.jobs.operation import JobInput, Operation, Report
from serve.protocol.bodies import Fields, validate
from serve.protocol.job_files import Files, accepted
from serve.protocol.scene_bodies import artifact_object
from serve.protocol.scene_cameras import CameraFields, DrawingFields, OrbitFields, Triple
from serve.scenes.cameras import Orbit
from serve.scenes.films import Film, Turn, Way
from serve.scenes.meshes import Wanted
from serve.scenes.paths import rising
from serve.scenes.service import SceneService

_MOST_KEYFRAMES: Final = 256


class KeyframeFields(Fields):
    """Where the camera is at a moment."""

    camera: CameraFields = Field(description="One camera.")
    at: float | None = Field(
        None, ge=0, le=1, description="When, from 0 (first frame) to 1 (last); for all or none, rising from 0 to 1."
    )


class TurntableFields(OrbitFields):
    """Around the scene on an orbit."""

    turns: FiniteFloat = Field(1.0, ge=-100, le=100, description="Around it; negative ones go clockwise.")


class FilmFields(DrawingFields):
    """A film of a scene, along keyframes or around it."""

    scene: str = Field(description="Name of the scene.")
    keyframes: list[KeyframeFields] | None = Field(
        None, min_length=1, max_length=_MOST_KEYFRAMES, description="Cameras that are passed one after the other."
    )
    closed: bool = Field(False, description="The way goes on to the first keyframe, so that the film can be repeated.")
    turntable: TurntableFields | None = Field(
        None, description="Around the scene; what is done when there are no keyframes."
    )
    seconds: Annotated[float, Field(gt=0, le=3600)] = Field(6.0, description="Length of the film.")
    fps: Annotated[float, Field(ge=0.01, le=120)] = Field(30.0, description="Frames a second.")
    speed: Annotated[float, Field(ge=-1000, le=1000)] = Field(
        1.0, description="Seconds of a moving scene's time in a second of the film."
    )
    quality: int = Field(80, ge=1, le=100, description="Of the video.")
    effort: float = Field(1.0, ge=0, le=1, description="Of a radiance field: from coarse at once to every sample.")

    @model_validator(mode="after")
    def _one_way(self) -> FilmFields:
        if self.keyframes is not None and self.turntable is not None:
            raise ValueError("send either keyframes or turntable")
        times = [one.at for one in self.keyframes or ()]
        stated = [at for at in times if at is not None]
        if stated and (len(stated) < len(times) or len(times) < 2 or not rising(stated)):
            raise ValueError("the times of keyframes rise from 0 to 1, and are stated for all or none")
        return self

    def film(self) -> Film:
        """What they mean.

        Raises:
            InvalidRequest: `invalid_camera`.
        """
        path: Turn | Way
        if self.keyframes is None:
            given = self.turntable or TurntableFields()
            start = Orbit(given.azimuth_deg, given.elevation_deg, given.radius, given.target, given.fov_deg)
            path = Turn(start, given.turns)
        else:
            named = [(f"keyframes[{index}].camera", one) for index, one in enumerate(self.keyframes)]
            at = tuple(one.at for one in self.keyframes if one.at is not None)
            path = Way(tuple((param, one.camera.view(param)) for param, one in named), at or None, self.closed)
        return Film(
            path,
            self.seconds,
            self.fps,
            self.width,
            self.height,
            self.time_s,
            self.speed,
            self.quality,
            self.effort,
            self.options,
            self.model,
        )


class BoxFields(Fields):
    """A box along the axes."""

    min: Triple = Field(description="Its least corner.")
    max: Triple = Field(description="Its other corner.")


class MeshFields(Fields):
    """A surface mesh of a scene with colours at its vertices, from pictures with depth all around it."""

    scene: str = Field(description="Name of the scene.")
    version: int | None = Field(None, ge=1, description="Of the scene; the current one when left out.")
    format: Literal["glb", "mesh_ply"] = Field("glb", description="Of the file.")
    box: BoxFields | None = Field(None, description="What is made a mesh of; the whole scene when left out.")
    resolution: int = Field(128, ge=16, le=256, description="Voxels along the longest side.")
    time_s: FiniteFloat = Field(0.0, description="A moving scene's moment, in seconds.")
    model: str | None = Field(None, description="A renderer; the first that draws this scene when left out.")

    def wanted(self) -> Wanted:
        """What they mean."""
        least, most = (None, None) if self.box is None else (self.box.min, self.box.max)
        return Wanted("glb" if self.format == "glb" else "ply", least, most, self.resolution, self.time_s, self.model)


def operations(scenes: SceneService) -> dict[str, Operation]:
    """By name."""
    return {"scenes.film": MakeFilm(scenes), "scenes.mesh": MakeMesh(scenes)}


class MakeFilm:
    """A film, segment by segment."""

    def __init__(self, scenes: SceneService) -> None:
        self._scenes = scenes

    async def admit(self, fields: Mapping[str, Any], files: Files, context: RequestContext) -> JobInput:
        """See `Operation.admit`. The version is the one that is current now."""
        list(accepted(files, ()))
        given = validate(fields, FilmFields)
        info, version = await self._scenes.version(given.scene, given.version, context)
        self._scenes.films.check(given.film(), info, version)
        return _pinned(given, version)

    async def run(
        self, given: JobInput, context: RequestContext, report: Report, done: Mapping[str, Any]
    ) -> dict[str, Any]:
        """See `Operation.run`."""
        fields = validate(given.fields, FilmFields)
        film = fields.film()
        info, version = await self._scenes.version(fields.scene, fields.version, _soon(self._scenes, context))
        data = await self._scenes.films.make(
            film, info, version, context, report, done, lambda of: _soon(self._scenes, of)
        )
        made = _made("scene.film", info, version)
        made |= {"frames": film.frames, "fps": film.fps, "width": film.width, "height": film.height}
        filename = f"{info.name}-v{version.number}.mp4"
        artifact = await self._scenes.keep(info.name, filename, "video/mp4", data, _soon(self._scenes, context))
        return made | {"artifact": artifact_object(artifact)}


class MakeMesh:
    """A mesh."""

    def __init__(self, scenes: SceneService) -> None:
        self._scenes = scenes

    async def admit(self, fields: Mapping[str, Any], files: Files, context: RequestContext) -> JobInput:
        """See `Operation.admit`. The version is the one that is current now."""
        list(accepted(files, ()))
        given = validate(fields, MeshFields)
        info, version = await self._scenes.version(given.scene, given.version, context)
        self._scenes.meshes.check(given.wanted(), info)
        return _pinned(given, version)

    async def run(
        self, given: JobInput, context: RequestContext, report: Report, done: Mapping[str, Any]
    ) -> dict[str, Any]:
        """See `Operation.run`. It has no parts that could be kept: a minute's work."""
        fields = validate(given.fields, MeshFields)
        info, version = await self._scenes.version(fields.scene, fields.version, _soon(self._scenes, context))
        data, media_type = await self._scenes.meshes.make(
            fields.wanted(), info, version, context, report, lambda of: _soon(self._scenes, of)
        )
        extension = "glb" if fields.format == "glb" else "ply"
        filename = f"{info.name}-v{version.number}.mesh.{extension}"
        artifact = await self._scenes.keep(info.name, filename, media_type, data, _soon(self._scenes, context))
        return _made("scene.mesh", info, version) | {"artifact": artifact_object(artifact)}


def _pinned(fields: FilmFields | MeshFields, version: Version) -> JobInput:
    """The request about this version, whatever becomes of the scene until the job runs."""
    return JobInput({**fields.model_dump(mode="json", exclude_unset=True), "version": version.number})


def _made(kind: str, info: SceneInfo, version: Version) -> dict[str, Any]:
    return {"object": kind, "scene": info.name, "version": version.number, "digest": version.ref.digest}


def _soon(scenes: SceneService, context: RequestContext) -> RequestContext:
    """Of one call below a job, which has the time that a request may have, and no more than is left of the job's."""
    return replace(context, deadline=min(context.deadline, time.monotonic() + scenes.limits.max_timeout_s))
