"""How `argus bench perception` asks a running cluster: Florence-2's tasks, classes of clips and actions in videos."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx
from PIL import Image

from demo.evaluate_video_classifier import CLIP_FPS, STORY_FPS, Frames
from demo.florence2_cases import Answer, Case, Result
from demo.scenes.story import Story
from demo.scenes.video_file import write_video
from demo.video_classifier_scores import Watched
from deployments.florence2.tasks import Task, find_task
from deployments.video_classifier.actions import Action
from serve.errors import ModelFailed

T = TypeVar("T")
U = TypeVar("U")

IN_PROGRESS = 8
TIMEOUT_S = 600.0
# Little is lost: what is measured is the model, not the codec.
_H264 = {"crf": "10", "preset": "veryfast"}
_BINS = 1000
_BIN = re.compile(r"<loc_(\d+)>")


def vision(client: httpx.Client, model: str) -> Answer:
    """Answers cases by `/v1/vision/{task}`, as many at once as `IN_PROGRESS`."""

    def answer(case: Case) -> Result:
        task = find_task(case.task)
        assert task is not None, "the cases are of the published processor's tasks"
        files = {"image": ("scene.png", _png(case.picture), "image/png")}
        body = _post(client, f"/v1/vision/{task.name}", {"model": model, **given(task, case)}, files)
        return as_processor(task, body["results"][0])

    return lambda cases: _side_by_side(answer, cases)


def given(task: Task, case: Case) -> dict[str, str]:
    """What a case gives beside its picture, as fields of the API: places are tokens there, and pixels here."""
    match task.needs:
        case "text":
            return {"text": case.given}
        case "region":
            centres = [(int(number) + 0.5) * case.size / _BINS for number in _BIN.findall(case.given)]
            return {"region": ",".join(map(str, centres))}
        case "nothing":
            return {}


def as_processor(task: Task, fields: Mapping[str, Any]) -> Result:
    """The API's answer as `Florence2Processor.post_process_generation` gives it.

    Raises:
        ModelFailed: the answer is an error.
    """
    if "error" in fields:
        raise ModelFailed(f"{task.name} failed: {fields['error']}")
    if task.answers == "text":
        return fields["text"]
    boxes, polygons = fields.get("boxes", ()), fields.get("polygons", ())
    corners, names = [found["box"] for found in boxes], [found["label"] for found in boxes]
    outlines = [[_flat(ring) for ring in found["rings"]] for found in polygons]
    labels = [found["label"] for found in polygons]
    match task.answers:
        case "boxes":
            return {"bboxes": corners, "labels": names}
        case "quads":
            quads = fields["quads"]
            return {"quad_boxes": [_flat(quad["points"]) for quad in quads], "labels": [quad["text"] for quad in quads]}
        case "polygons":
            return {"polygons": outlines, "labels": labels}
        case "boxes_or_polygons":
            return {"bboxes": corners, "bboxes_labels": names, "polygons": outlines, "polygons_labels": labels}


def classified(client: httpx.Client, model: str, clips: Sequence[Frames]) -> list[str]:
    """The likeliest class of each clip, by `/v1/videos/classify`."""

    def label(clip: Frames) -> str:
        body = _post(client, "/v1/videos/classify", {"model": model, "top_k": "1"}, _mp4(clip, CLIP_FPS))
        return str(body["label"])

    return _side_by_side(label, clips)


def watched(client: httpx.Client, model: str, stories: Sequence[tuple[Story, Frames]]) -> list[Watched]:
    """The actions found in each video, by `/v1/videos/actions`, beside those that happen.

    Raises:
        ModelFailed: a chunk was not watched.
    """

    def actions(told: tuple[Story, Frames]) -> Watched:
        story, frames = told
        body = _post(client, "/v1/videos/actions", {"model": model}, _mp4(frames, STORY_FPS))
        if body["errors"]:
            raise ModelFailed(f"{model} left out a part of a video: {body['errors'][0]}")
        found = [Action(each["label"], each["start_s"], each["end_s"], each["score"]) for each in body["actions"]]
        return Watched(story.segments, found)

    return _side_by_side(actions, stories)


def _side_by_side(ask: Callable[[T], U], items: Sequence[T]) -> list[U]:
    with ThreadPoolExecutor(IN_PROGRESS) as pool:
        return list(pool.map(ask, items))


def _post(client: httpx.Client, route: str, fields: Mapping[str, str], files: Mapping[str, Any]) -> dict[str, Any]:
    response = client.post(route, data=fields, files=files)
    if not response.is_success:
        raise ModelFailed(f"{route} answered {response.status_code}: {response.text[:500]}")
    body: dict[str, Any] = response.json()
    return body


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _mp4(frames: Frames, fps: float) -> dict[str, Any]:
    buffer = io.BytesIO()
    write_video(buffer, frames, fps, options=_H264)
    return {"video": ("video.mp4", buffer.getvalue(), "video/mp4")}


def _flat(points: Sequence[Sequence[float]]) -> list[float]:
    return [number for point in points for number in point]
