"""What jobs can be: routes whose work may outlast a deadline, by name. One line of `operations` adds another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from deployments.jobs.types import Progress
from deployments.messages import EncodedImage
from serve.context import RequestContext
from serve.dataplane import CLASSIFY, DataPlane
from serve.errors import ArgusError, InvalidRequest
from serve.jobs.failures import kept, raise_if_all, retry_after_s
from serve.jobs.operation import JobInput, Operation, Report
from serve.media.admit import MediaSource, Reference
from serve.media.source import MediaBytes
from serve.protocol import reconstructions, scene_jobs
from serve.protocol.bodies import Fields, references, validate
from serve.protocol.document_bodies import OPERATIONS as DOCUMENT_OPERATIONS
from serve.protocol.document_jobs import ReadDocument
from serve.protocol.edge import error_fields
from serve.protocol.job_files import Files, accepted
from serve.protocol.native import ClassifyFields, classification
from serve.protocol.video_bodies import OPERATIONS as VIDEO_OPERATIONS
from serve.protocol.video_bodies import video_request
from serve.services import Services
from serve.videos import types as videos
from serve.videos.service import VideoService

# Images of one job at their model at once: enough for a batch, and little beside the requests that wait for an answer.
_AT_ONCE: Final = 8
_IMAGE_FILES: Final = ("image", "images", "image[]", "images[]", "file", "files")
_VIDEO_FILES: Final = ("video", "file")
LONG: Final = frozenset({reconstructions.OPERATION})
"""Those that take hours, most of which a router only waits: see `serve.jobs.runner`."""


def operations(services: Services) -> dict[str, Operation]:
    """Every operation of this cluster."""
    return {
        "classify": ClassifyImages(services.plane),
        **{f"documents.{name}": ReadDocument(services.documents, name) for name in DOCUMENT_OPERATIONS},
        **scene_jobs.operations(services.scenes),
        reconstructions.OPERATION: reconstructions.Reconstruct(services.reconstructions),
        **{f"videos.{name}": WatchVideo(services.videos, name) for name in VIDEO_OPERATIONS},
    }


class ClassifyImages:
    """`/v1/classify`, image by image."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def admit(self, fields: Mapping[str, Any], files: Files, context: RequestContext) -> JobInput:
        """See `Operation.admit`."""
        checked = validate(fields, ClassifyFields)
        images = [*accepted(files, _IMAGE_FILES), *references(checked.image, checked.images)]
        if not images:
            raise InvalidRequest("Send at least one image.", code="missing_field", param="image")
        self._plane.check_classify(images, checked.labels, checked.model, checked.templates)
        admitted = await self._plane.admit([image for _, image in images], context, [name for name, _ in images])
        media: list[bytes] = []
        for image in admitted:
            if isinstance(image, ArgusError):
                raise image
            assert isinstance(image, EncodedImage)
            media.append(image.data)
        return JobInput(checked.model_dump(exclude={"image", "images"}), tuple(media))

    async def run(
        self, given: JobInput, context: RequestContext, report: Report, done: Mapping[str, Any]
    ) -> dict[str, Any]:
        """See `Operation.run`. An image that fails where the others need not is an error in its place."""
        fields = validate(given.fields, ClassifyFields)
        total = len(given.media)
        finished = dict(done)

        async def one(position: int) -> None:
            part = await self._one(MediaBytes(given.media[position], None), f"images[{position}]", fields, context)
            finished[str(position)] = part
            await report(Progress("classifying", len(finished), total), str(position), part)

        await report(Progress("classifying", len(finished), total))
        await _each([position for position in range(total) if str(position) not in finished], one, _AT_ONCE)
        parts = [finished[str(position)] for position in range(total)]
        raise_if_all([part.get("failure") for part in parts])
        return {
            "object": "classification",
            "model": self._plane.pick(fields.model, CLASSIFY).name,
            "temperature": next((part["temperature"] for part in parts if "temperature" in part), None),
            "results": [{**part["result"], "index": position} for position, part in enumerate(parts)],
        }

    async def _one(
        self, image: MediaSource, param: str, fields: ClassifyFields, context: RequestContext
    ) -> dict[str, Any]:
        try:
            answer = await self._plane.classify(
                [image],
                fields.labels,
                context,
                model=fields.model,
                templates=fields.templates,
                multi_label=fields.multi_label,
                params=[param],
            )
            body = classification(answer, context, fields.top_k)
        except ArgusError as error:
            if retry_after_s(error, context.left_s()) is not None:
                raise
            return {"result": {"error": error_fields(error, context.request_id)}, "failure": kept(error)}
        return {"temperature": body["temperature"], "result": body["results"][0]}


class WatchVideo:
    """`/v1/videos/...`, chunk by chunk."""

    def __init__(self, service: VideoService, operation: videos.Operation) -> None:
        self._service = service
        self._operation = operation

    async def admit(self, fields: Mapping[str, Any], files: Files, context: RequestContext) -> JobInput:
        """See `Operation.admit`."""
        named = validate({"video": fields["video"]}, _Named).video if "video" in fields else None
        own = {name: value for name, value in fields.items() if name != "video"}
        checked = validate(own, VIDEO_OPERATIONS[self._operation]).model_dump()
        sources: list[tuple[str, MediaSource]] = [*accepted(files, _VIDEO_FILES)]
        if named is not None:
            sources.append(("video", Reference(named)))
        if len(sources) != 1:
            code = "too_many_videos" if sources else "missing_field"
            raise InvalidRequest("Send one video.", code=code, param="video")
        param, source = sources[0]
        video = await self._service.admit(source, context, param)
        self._service.check(video_request(self._operation, checked, video))
        return JobInput(checked, (video,))

    async def run(
        self, given: JobInput, context: RequestContext, report: Report, done: Mapping[str, Any]
    ) -> dict[str, Any]:
        """See `Operation.run`."""

        async def tell(progress: videos.Progress) -> None:
            # Here there is time: what may pass ends the attempt, and the next one goes on from the finished chunks.
            if progress.failure is not None and retry_after_s(progress.failure, context.left_s()) is not None:
                raise progress.failure
            told = Progress(progress.stage, progress.done, progress.total)
            if progress.chunk is None:
                await report(told)
            else:
                await report(told, progress.chunk.key, progress.chunk.value)

        request = video_request(self._operation, given.fields, given.media[0])
        return await self._service.run(request, context, tell, done)


class _Named(Fields):
    video: str


async def _each(items: Sequence[int], work: Callable[[int], Awaitable[None]], at_once: int) -> None:
    """Works on all of them, so many at a time. The first failure ends the rest."""
    places = asyncio.Semaphore(at_once)

    async def one(item: int) -> None:
        async with places:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for item in items:
                group.create_task(one(item))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
