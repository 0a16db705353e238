"""What a video classifier says: classes and features of a part, and which actions happen when."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from deployments.messages import TaskRequest
from deployments.video_classifier.actions import Action
from deployments.video_classifier.messages import ClassifyClips, ClipFeatures, DetectActions
from serve.calls import Calls
from serve.config.videos import Videos
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidMedia, ModelFailed
from serve.videos.merge import joined
from serve.videos.plan import Chunk, plan
from serve.videos.reader import Part, Reader
from serve.videos.types import Actions, Body, Classify, Done, Features, OnProgress, Progress, clock, seconds
from serve.videos.watch import at_a_time, error_object
from serve.videos.work import work


class ClipClassifier:
    """See the module's text.

    Args:
        settings: of longer videos; None when the cluster has no `videos` section: then actions are found in one piece.
        reader: None without that section.
    """

    def __init__(self, settings: Videos | None, reader: Reader | None, calls: Calls) -> None:
        self._settings = settings
        self._reader = reader
        self._calls = calls

    async def classify(self, request: Classify, name: str, context: RequestContext) -> Body:
        """The likeliest classes of the part."""
        asked = ClassifyClips((request.video,), request.top_k, request.start_s, request.end_s)
        (found,) = (await self._calls.task(name, asked, context)).value.videos
        if isinstance(found, Exception):
            raise _of_video(found)
        scores = [{"label": each.label, "probability": each.probability} for each in found.labels]
        return {"object": "video.classification", "model": name, "label": scores[0]["label"], "scores": scores}

    async def features(self, request: Features, name: str, context: RequestContext) -> Body:
        """The features of the part."""
        asked = ClipFeatures((request.video,), request.normalize, request.start_s, request.end_s)
        (found,) = (await self._calls.task(name, asked, context)).value.vectors
        if isinstance(found, Exception):
            raise _of_video(found)
        return {"object": "video.features", "model": name, "dimension": len(found), "vector": found.tolist()}

    async def actions(
        self, request: Actions, name: str, context: RequestContext, on_progress: OnProgress, done: Done
    ) -> Body:
        """The actions of the part, found in chunks side by side and put together at their borders. A chunk that fails
        is named in `errors`."""
        await on_progress(Progress("reading", 0, 0))
        chunks = await self._chunks(request, context)

        async def inputs(left: Sequence[Chunk]) -> AsyncGenerator[tuple[Chunk, TaskRequest[object]], None]:
            for chunk in left:
                yield chunk, _detect(request, chunk)

        async def one(chunk: Chunk, asked: TaskRequest[object]) -> Body:
            assert isinstance(asked, DetectActions)
            found = (await self._calls.task(name, asked, context)).value
            return {
                "index": chunk.index,
                "start_s": seconds(chunk.start_s),
                "end_s": seconds(chunk.end_s),
                "windows": found.windows,
                "actions": [_action(action) for action in found.actions],
            }

        concurrency = 1 if self._settings is None else at_a_time(request, self._settings)
        results = await work(chunks, inputs, one, concurrency, on_progress, done)
        await on_progress(Progress("merging", len(chunks), len(chunks)))
        good = [result for result in results if not isinstance(result, ArgusError)]
        actions = [
            Action(each["label"], each["start_s"], each["end_s"], each["score"])
            for result in good
            for each in result["actions"]
        ]
        return {
            "object": "video.actions",
            "model": name,
            "actions": [_action(action) for action in joined(actions, request.merge_gap_s)],
            "windows": sum(result["windows"] for result in good),
            "chunks": len(chunks),
            "errors": [
                {
                    "index": chunk.index,
                    "start_s": seconds(chunk.start_s),
                    "end_s": seconds(chunk.end_s),
                    "error": error_object(result),
                }
                for chunk, result in zip(chunks, results, strict=True)
                if isinstance(result, ArgusError)
            ],
        }

    async def _chunks(self, request: Actions, context: RequestContext) -> tuple[Chunk, ...]:
        if self._reader is None or self._settings is None:
            return (Chunk(0, request.start_s, float("inf") if request.end_s is None else request.end_s),)
        return self.planned(request, await self._reader.part(request, context))

    def planned(self, request: Actions, part: Part) -> tuple[Chunk, ...]:
        """The chunks in which actions are looked for; there is a `videos` section."""
        assert self._settings is not None, "without it, nothing is cut"
        overlap = self._settings.overlap_s if request.window_s is None else request.window_s
        return plan(part.start_s, part.end_s, self._settings.chunk_s, overlap)


def _detect(request: Actions, chunk: Chunk) -> DetectActions:
    return DetectActions(
        request.video,
        chunk.start_s,
        None if chunk.end_s == float("inf") else chunk.end_s,
        request.window_s,
        request.stride_s,
        request.enter,
        request.leave,
        request.merge_gap_s,
        request.min_action_s,
    )


def _action(action: Action) -> Body:
    return {
        "label": action.label,
        "start_s": seconds(action.start_s),
        "end_s": seconds(action.end_s),
        "start": clock(action.start_s),
        "end": clock(action.end_s),
        "score": action.score,
    }


def _of_video(error: Exception) -> ArgusError:
    if not isinstance(error, ArgusError):
        return ModelFailed(str(error), param="video")
    return error.at("video") if isinstance(error, InvalidMedia) and error.param is None else error
