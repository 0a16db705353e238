"""What a video classifier says: classes and features of a part, and which actions happen when."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace

from deployments.messages import TaskRequest
from deployments.video_classifier.actions import (
    Action,
    ActionRule,
    WindowScores,
    detect,
    put_together,
    window_and_stride,
)
from deployments.video_classifier.messages import ClassifyClips, ClipFeatures, DetectActions
from serve.calls import Calls
from serve.config.models import Model, VideoClassifierModel
from serve.config.videos import Videos
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidMedia, ModelFailed
from serve.videos.plan import Chunk, window_chunks
from serve.videos.reader import Part, Reader
from serve.videos.types import Actions, Body, Classify, Done, Features, OnProgress, Progress, clock, seconds
from serve.videos.watch import at_a_time, error_object
from serve.videos.work import work


class ClipClassifier:
    """See the module's text.

    Args:
        settings: of longer videos; None when the cluster has no `videos` section: then actions are found in one piece.
        reader: None without that section.
        models: of the cluster.
    """

    def __init__(
        self, settings: Videos | None, reader: Reader | None, calls: Calls, models: Mapping[str, Model]
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._models = models
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
        """The actions of the part. Its windows are looked at in chunks side by side; the actions are those that one
        look at all of them finds. A chunk that fails is named in `errors`: they end before it and begin after it."""
        await on_progress(Progress("reading", 0, 0))
        window_s, stride_s = self._windows(request, name)
        # Told to each replica, so that all have the same, whatever a replica's own are by now.
        request = replace(request, window_s=window_s, stride_s=stride_s)
        chunks = await self._chunks(request, name, context)
        # What an older version has kept of a job is of chunks that cannot be put together so.
        done = {key: value for key, value in done.items() if "seen" in value}

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
                "seen": {"spans": list(found.seen.spans), "scores": dict(found.seen.scores)},
            }

        concurrency = 1 if self._settings is None else at_a_time(request, self._settings)
        results = await work(chunks, inputs, one, concurrency, on_progress, done)
        await on_progress(Progress("merging", len(chunks), len(chunks)))
        good = [result for result in results if not isinstance(result, ArgusError)]
        rule = ActionRule(request.enter, request.leave, request.merge_gap_s, request.min_action_s)
        seen = put_together([_seen(result["seen"]) for result in good])
        return {
            "object": "video.actions",
            "model": name,
            "actions": [_action(action) for whole in seen for action in detect(whole, rule)],
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

    async def _chunks(self, request: Actions, name: str, context: RequestContext) -> tuple[Chunk, ...]:
        if self._reader is None or self._settings is None:
            return (Chunk(0, request.start_s, float("inf") if request.end_s is None else request.end_s),)
        return self.planned(request, name, await self._reader.part(request, context))

    def planned(self, request: Actions, name: str, part: Part) -> tuple[Chunk, ...]:
        """The chunks in which a classifier looks for actions; there is a `videos` section.

        Raises:
            InvalidRequest: see `window_and_stride`.
        """
        assert self._settings is not None, "without it, nothing is cut"
        return window_chunks(part.start_s, part.end_s, self._settings.chunk_s, *self._windows(request, name))

    def _windows(self, request: Actions, name: str) -> tuple[float, float]:
        model = self._models[name]
        assert isinstance(model, VideoClassifierModel), "others have no such task"
        return window_and_stride(model, request.window_s, request.stride_s)


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


def _seen(value: Body) -> WindowScores:
    return WindowScores([(start, end) for start, end in value["spans"]], value["scores"])


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
