"""The router's side of the video reader: what a video is, and its chunks as files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from deployments.video.messages import (
    Clip,
    CutClips,
    FindScenes,
    InspectVideo,
    SampledFrame,
    SampleFrames,
    VideoInfo,
)
from serve.calls import Calls
from serve.config.videos import Videos
from serve.context import RequestContext
from serve.errors import InvalidRequest
from serve.videos.plan import Chunk, chunk_count, plan
from serve.videos.types import Keyframes, VideoRequest

# Clips cut in one pass: the next ones are cut while these are watched.
_BATCH = 8


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a video that a request is about, in seconds."""

    info: VideoInfo
    start_s: float
    end_s: float

    @property
    def is_whole(self) -> bool:
        """It is the whole video."""
        return self.start_s == 0.0 and self.end_s == self.info.duration_s


class Reader:
    """Asks the cluster's video reader.

    Args:
        settings: its name, and how videos are cut.
    """

    def __init__(self, settings: Videos, calls: Calls) -> None:
        self._settings = settings
        self._calls = calls

    async def part(self, request: VideoRequest, context: RequestContext) -> Part:
        """What the request is about.

        Raises:
            InvalidRequest: `outside_video`: the part begins after the video's end.
            ArgusError: the video cannot be read; `param` is `video`.
        """
        try:
            info = (await self._calls.task(self._settings.reader, InspectVideo(request.video), context)).value
        except InvalidRequest as error:
            raise error.at("video") from error.__cause__
        check_inside(request.start_s, info, "start_s")
        end = info.duration_s if request.end_s is None else min(request.end_s, info.duration_s)
        return Part(info, request.start_s, end)

    def nominal(self, part: Part, chunk_s: float) -> tuple[Chunk, ...]:
        """The chunks that it is watched in, were there no cuts.

        Raises:
            InvalidRequest: `too_many_chunks`.
        """
        count, most = chunk_count(part.end_s - part.start_s, chunk_s), self._settings.max_chunks
        if count > most:
            raise InvalidRequest(
                f"{part.end_s - part.start_s:.0f} s of video are {count} chunks of {chunk_s:g} s; at most {most} are "
                "watched: choose longer chunks, or a part of the video.",
                code="too_many_chunks",
                param="chunk_s",
            )
        return plan(part.start_s, part.end_s, chunk_s, self._settings.overlap_s)

    async def chunks(
        self, request: VideoRequest, part: Part, chunk_s: float, context: RequestContext
    ) -> tuple[Chunk, ...]:
        """The chunks that it is watched in; see `nominal`."""
        settings = self._settings
        chunks = self.nominal(part, chunk_s)
        if len(chunks) == 1 or not settings.scene_aware:
            return chunks
        find = FindScenes(request.video, part.start_s, part.end_s)
        cuts = (await self._calls.task(settings.reader, find, context)).value
        return plan(part.start_s, part.end_s, chunk_s, settings.overlap_s, cuts)

    async def clips(
        self, video: bytes, chunks: Sequence[Chunk], context: RequestContext
    ) -> AsyncGenerator[tuple[Chunk, Clip], None]:
        """The chunks as files, in order; a few are cut at a time, in one pass over that part of the video."""
        settings = self._settings
        for first in range(0, len(chunks), _BATCH):
            group = chunks[first : first + _BATCH]
            spans = tuple((chunk.start_s, chunk.end_s) for chunk in group)
            cut = CutClips(video, spans, settings.clip_side, settings.clip_fps)
            clips = (await self._calls.task(settings.reader, cut, context)).value
            for chunk, clip in zip(group, clips, strict=True):
                yield chunk, clip

    async def pictures(self, request: Keyframes, part: Part, context: RequestContext) -> tuple[SampledFrame, ...]:
        """The pictures that are asked for."""
        wanted = SampleFrames(
            request.video,
            request.strategy,
            request.count,
            part.start_s,
            part.end_s,
            request.side,
            request.threshold,
            request.min_gap_s,
        )
        return (await self._calls.task(self._settings.reader, wanted, context)).value


def check_inside(at_s: float, info: VideoInfo, param: str) -> None:
    """Refuses a moment after the video's end.

    Raises:
        InvalidRequest: `outside_video`.
    """
    if at_s > 0 and at_s >= info.duration_s:
        raise InvalidRequest(
            f"The video lasts {info.duration_s:.3f} s; there is nothing at {at_s:g} s.",
            code="outside_video",
            param=param,
        )
