"""Scenes from photos: a job of the reconstruction model's, whose scene goes into the scene store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from deployments.jobs.types import Progress
from deployments.reconstruction.archive import photo_names
from deployments.reconstruction.given import check_count, kind_of
from deployments.reconstruction.messages import Result, Spec, Status
from deployments.scenes.types import Artifact, SceneInfo
from serve.config.cluster import ClusterFile
from serve.config.scene_models import ReconstructionModel
from serve.context import RequestContext
from serve.errors import ArgusError, Conflict, InvalidRequest, NotFound
from serve.handles import ModelHandle
from serve.jobs.failures import restored
from serve.jobs.operation import Report
from serve.scenes.service import check_name
from serve.stores import StoreClient

# Seconds between looks at a job's progress, and those that one call may take.
_LOOK_S: Final = 1.0
_CALL_S: Final = 60.0
_FAREWELL_S: Final = 5.0
# Names that are tried for a finished scene, and how much of the one that was wanted is in the others.
_NAMES, _STEM = 9, 60


@dataclass(frozen=True, slots=True)
class Wanted:
    """What shall come of photos.

    Attributes:
        name: of the scene.
        attribution: who took the photos, and under which licence.
        replace: a scene of that name gives way, also one that comes while the photos are worked on.
        photo_names: as their owner knows them, in their order; those in an archive have their own.
    """

    name: str
    spec: Spec
    attribution: str = ""
    replace: bool = False
    photo_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Reconstructed:
    """What came of a job.

    Attributes:
        scene: of the name that was wanted or, where that was taken meanwhile, one like it: `room-2`.
        turntable: a film around the scene.
    """

    scene: SceneInfo
    turntable: Artifact
    report: Mapping[str, Any]


class ReconstructionService:
    """See the module's text.

    Args:
        handles: one for each served model, by name.
    """

    def __init__(self, cluster: ClusterFile, handles: Mapping[str, ModelHandle]) -> None:
        name = next((n for n in handles if isinstance(cluster.models[n], ReconstructionModel)), None)
        self._settings: ReconstructionModel | None = None
        model = scenes = None
        if name is not None:
            settings = cluster.models[name]
            assert isinstance(settings, ReconstructionModel)
            self._settings, model, scenes = settings, handles[name], handles[settings.scenes]
        self._model = StoreClient(model, "reconstruction")
        self._scenes = StoreClient(scenes, "scene_store")

    async def admit(self, wanted: Wanted, media: Sequence[bytes], context: RequestContext) -> None:
        """Checks a request before it is a job.

        Raises:
            NotFound: `not_configured`.
            Conflict: `scene_exists`.
            InvalidRequest: `no_photos`, `too_few_photos`, `too_many_photos`, `mixed_media`, a name that is none, as
                many names as there are no photos, or a file that is no photo.
        """
        check_name(wanted.name)
        if self._settings is None:
            raise NotFound("This cluster has no model of kind reconstruction.", code="not_configured")
        kind = kind_of(media)
        if kind == "photos" and wanted.photo_names and len(wanted.photo_names) != len(media):
            raise InvalidRequest(
                f"There are {len(wanted.photo_names)} names for {len(media)} photos.",
                code="invalid_field",
                param="photo_names",
            )
        if kind != "video":
            # In a thread: the list of an archive may be long.
            count = len(await asyncio.to_thread(photo_names, media[0])) if kind == "archive" else len(media)
            check_count(count)
            if count > self._settings.max_photos:
                raise InvalidRequest(
                    f"There are {count} photos; at most {self._settings.max_photos} are used.",
                    code="too_many_photos",
                    param="photos",
                )
        if not wanted.replace and await self._exists(wanted.name, context):
            raise Conflict(f"There is a scene {wanted.name!r} already.", code="scene_exists", param="name")

    async def run(
        self, wanted: Wanted, media: Sequence[bytes], context: RequestContext, report: Report
    ) -> Reconstructed:
        """Reconstructs; called again for the same job (by its id, which is the context's), it goes on.

        Raises:
            ArgusError: why there is no scene.
        """
        job_id = context.request_id
        try:
            status: Status = await self._model.call(
                "start", _soon(context), job_id, wanted.spec, media, wanted.photo_names
            )
            stage = status.stage
            while not status.ended:
                # Each finished stage is a part that is kept, so that a job that gets on is not given up.
                finished, stage = (None if status.stage == stage else stage), status.stage
                await report(_progress(status), finished, {})
                await asyncio.sleep(_LOOK_S)
                status = await self._model.call("follow", _soon(context), job_id)
        except asyncio.CancelledError:
            await self._pause(job_id, context)
            raise
        if status.failure is not None:
            raise restored(status.failure)
        await report(replace(_progress(status), stage="storing"))
        result: Result = await self._model.call("result", _soon(context), job_id)
        return await self._keep(wanted, result, context)

    async def status(self, job_id: str, context: RequestContext) -> Status | None:
        """How far a job's work is; None when none has begun, or its folder is gone."""
        try:
            status: Status = await self._model.call("status", context, job_id)
        except NotFound:
            return None
        return status

    async def preview(self, job_id: str, context: RequestContext) -> bytes:
        """The scene in the making, a JPEG.

        Raises:
            NotFound: `no_preview_yet`, `reconstruction_not_found`.
        """
        picture: bytes = await self._model.call("preview", context, job_id)
        return picture

    async def _keep(self, wanted: Wanted, result: Result, context: RequestContext) -> Reconstructed:
        info = await self._put(wanted, result, context)
        film: Artifact = await self._scenes.call(
            "add_artifact", _soon(context), info.name, f"{info.name}.mp4", "video/mp4", result.turntable
        )
        return Reconstructed(info, film, result.report)

    async def _put(self, wanted: Wanted, result: Result, context: RequestContext) -> SceneInfo:
        """The scene in the store. That somebody took its name while it was made is no reason to throw hours away."""
        for name in (wanted.name, *(f"{wanted.name[:_STEM]}-{number}" for number in range(2, _NAMES + 1))):
            try:
                info: SceneInfo = await self._scenes.call(
                    "put",
                    _soon(context),
                    name,
                    result.scene,
                    format="argus" if result.kind == "gaussians" else None,
                    up=result.up,
                    attribution=wanted.attribution,
                    replace=wanted.replace,
                    source="reconstruction",
                )
                return info
            except Conflict as error:
                if error.code != "scene_exists":
                    raise
                taken = error
        raise taken

    async def _pause(self, job_id: str, context: RequestContext) -> None:
        """Nobody waits for the job here any more; whoever takes it up goes on where it stopped."""
        soon = replace(context, deadline=time.monotonic() + _FAREWELL_S)
        with suppress(ArgusError):
            await self._model.call("cancel", soon, job_id)

    async def _exists(self, name: str, context: RequestContext) -> bool:
        try:
            await self._scenes.call("get", context, name)
        except NotFound:
            return False
        return True


def _soon(context: RequestContext) -> RequestContext:
    return replace(context, deadline=min(context.deadline, time.monotonic() + _CALL_S))


def _progress(status: Status) -> Progress:
    """In parts of a hundred over all stages."""
    return Progress(status.stage, int(100 * status.fraction), 100)
