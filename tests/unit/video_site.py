"""A router with a real video reader in this process and scripted models that watch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

from deployments.generation.messages import ChatEvent, ChatRequest, ImagePart, Text, TokenLogprob, VideoPart
from deployments.messages import Call, ModelInfo
from deployments.video.decode import open_video
from deployments.video.reader import VideoReader
from deployments.video_classifier.actions import ActionRule, detect, window_scores, windows
from deployments.video_classifier.messages import (
    ClassifiedClip,
    ClassifiedClips,
    ClassifyClips,
    ClipFeatures,
    ClipLabel,
    ClipVectors,
    DetectActions,
    DetectedActions,
)
from serve.config.models import VideoReaderModel
from serve.context import RequestContext
from serve.errors import ModelFailed
from tests.unit.fakes import FakeGenerator, Site, cluster, numbers
from tests.unit.video_files import number_of

MODELS: dict[str, Any] = {
    "reader": {"kind": "video_reader"},
    "watcher": {"kind": "video_llava", "checkpoint": "LanguageBind/Video-LLaVA-7B-hf"},
    "other": {"kind": "video_llava", "checkpoint": "LanguageBind/Video-LLaVA-7B-hf"},
    "looker": {"kind": "llava", "checkpoint": "llava-hf/llava-1.5-7b-hf"},
    "blip2": {"kind": "blip2", "checkpoint": "Salesforce/blip2-opt-2.7b"},
    "clips": {"kind": "video_classifier", "checkpoint": "MCG-NJU/videomae-base-finetuned-kinetics"},
}
VIDEOS: dict[str, Any] = {
    "reader": "reader",
    "backends": ["watcher", "other"],
    "captioner": "looker",
    "chunk_s": 1.0,
    "overlap_s": 0.2,
    "scene_aware": False,
    "concurrency": 2,
    "clip_fps": 10,
    "max_tokens": 20,
}


class FakeWatcher(FakeGenerator):
    """Says which grey frames a video holds (see `video_files.greys`), as `says` puts it.

    Attributes:
        fails: whether a request, by the first and last frame of its video, is refused with this error.
        running: calls in progress; `most`: at any time.
        released: calls wait until it is set.
    """

    def reset(self) -> None:
        super().reset()
        self.says: Callable[[int, int, str], str] = lambda first, last, prompt: f"Frames {first} to {last}."
        self.fails: Callable[[int, int], Exception | None] = lambda first, last: None
        self.running = self.most = 0
        self.released = asyncio.Event()
        self.released.set()
        self.entered = asyncio.Event()
        self.seen: list[tuple[int, int]] = []

    async def call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        if method == "info":
            return ModelInfo("cpu", 1.0)
        request: ChatRequest = args[0]
        first, last = _frames_of(request)
        self.running += 1
        self.most = max(self.most, self.running)
        self.entered.set()
        try:
            await self.released.wait()
            # The earlier a chunk, the later its answer: order must not come from who finishes first.
            await asyncio.sleep(0.02 / (1 + max(0, first)))
            if (error := self.fails(first, last)) is not None:
                raise error
            self.seen.append((first, last))
            return await super().call(method, context, *args, **kwargs)
        finally:
            self.running -= 1

    def events(self, request: ChatRequest) -> list[ChatEvent]:
        prompt = " ".join(part.text for part in request.messages[-1].parts if isinstance(part, Text))
        text = self.says(*_frames_of(request), prompt)
        return [ChatEvent(0, text, (1, 2, 3), (TokenLogprob("x", -0.1),), "stop", prompt_tokens=100)]


def _frames_of(request: ChatRequest) -> tuple[int, int]:
    for part in request.messages[-1].parts:
        if isinstance(part, VideoPart):
            with open_video(part.data) as video:
                shown = [number_of(pixels) for _, pixels in video.frames(range(len(video.ticks)), 64)]
            return shown[0], shown[-1]
    images = sum(isinstance(part, ImagePart) for part in request.messages[-1].parts)
    return (-images, -images)


class FakeClassifier:
    """Sees someone jump in each window, as surely as it is of `jumps`, and remembers the parts.

    Attributes:
        jumps: start and end of each jump in seconds.
        breaks: whether a part fails, by its start.
    """

    def __init__(self) -> None:
        self.parts: list[tuple[float, float | None]] = []
        self.jumps: list[tuple[float, float]] = []
        self.fails: Exception | None = None
        self.breaks: Callable[[float], bool] = lambda start_s: False

    async def call(self, method: str, context: RequestContext, request: Any, call: Call, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        if isinstance(request, ClassifyClips):
            labels = tuple(ClipLabel(f"class {i}", 0.5 / (i + 1)) for i in range(request.top_k))
            return ClassifiedClips((self.fails or ClassifiedClip(labels),))
        if isinstance(request, ClipFeatures):
            return ClipVectors((numbers(4, request.normalize),))
        assert isinstance(request, DetectActions)
        self.parts.append((request.start_s, request.end_s))
        if self.breaks(request.start_s):
            raise ModelFailed("broken")
        spans = windows(request.start_s, request.end_s or 3.0, request.window_s or 2.0, request.stride_s or 0.5)
        shares = np.array([[self._share(*span)] for span in spans], np.float32)
        seen = window_scores(spans, shares, ("jump",), request.leave)
        rule = ActionRule(request.enter, request.leave, request.merge_gap_s, request.min_action_s)
        return DetectedActions(tuple(detect(seen, rule)), 3.0, seen)

    def _share(self, start: float, end: float) -> float:
        return sum(max(0.0, min(end, last) - max(start, first)) for first, last in self.jumps) / (end - start)


class VideoSite(Site):
    """A site that watches videos; its reader is real."""

    def __init__(self, videos: dict[str, Any] | None = None, **sections: Any) -> None:
        self.watcher, self.other, self.looker = FakeWatcher(), FakeWatcher(), FakeWatcher()
        self.classifier = FakeClassifier()
        handles = {"watcher": self.watcher, "other": self.other, "looker": self.looker, "clips": self.classifier}
        self.reading = LocalReader()
        config = cluster(
            **{"models": MODELS} | sections, videos=VIDEOS | (videos or {}), limits={"max_body_bytes": 4_000_000}
        )
        super().__init__(config, more={**handles, "reader": self.reading}, providers=sections.pop("hosted", {}))


class LocalReader:
    """A `ModelHandle` of a video reader.

    Attributes:
        calls: names of the methods called.
    """

    def __init__(self) -> None:
        self._replica: VideoReader | None = None
        self.calls: list[str] = []

    async def call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        if self._replica is None:
            self._replica = VideoReader(VideoReaderModel(kind="video_reader"), 4_000_000)
        self.calls.append(method)
        return await getattr(self._replica, method)(*args)
