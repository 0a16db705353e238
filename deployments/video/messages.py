"""What the router asks of a video reader and what comes back; imports no decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from deployments.messages import TaskRequest

Strategy = Literal["uniform", "keyframe", "scene"]
Detector = Literal["adaptive", "content"]


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known of a video. Times are seconds from its first frame.

    Attributes:
        container: family of the file's format, see `serve.media.video.VideoFormat`.
        codec: FFmpeg's name.
        width: pixels, upright and made square.
        height: likewise.
        rotation: degrees by which the file says its pictures are to be turned, counter-clockwise: 0, 90, 180 or 270.
        duration_s: from the start of the first frame to the end of the last.
        frames: that are shown.
        fps: frames a second on average; 0 of a single frame.
        variable_rate: frames do not follow each other evenly.
    """

    container: str
    codec: str
    width: int
    height: int
    rotation: int
    duration_s: float
    frames: int
    fps: float
    variable_rate: bool


@dataclass(frozen=True, slots=True)
class SampledFrame:
    """A picture of a video.

    Attributes:
        at_s: when it is first shown.
        jpeg: the file, upright.
        change: how much it differs from what was before it, by the strategy's measure; None where none was taken.
    """

    at_s: float
    jpeg: bytes
    width: int
    height: int
    change: float | None = None


@dataclass(frozen=True, slots=True)
class Clip:
    """A part of a video as a file of its own, whose first frame has time 0.

    Attributes:
        start_s: of its first frame, in the video.
        end_s: of its last one, in the video.
        data: an MP4 with H.264, without sound.
    """

    start_s: float
    end_s: float
    frames: int
    data: bytes


@dataclass(frozen=True, slots=True)
class InspectVideo(TaskRequest[VideoInfo]):
    """What is this video?"""

    method: ClassVar[str] = "inspect"
    video: bytes


@dataclass(frozen=True, slots=True)
class SampleFrames(TaskRequest[tuple[SampledFrame, ...]]):
    """Pictures of a part of a video, in order.

    Attributes:
        strategy: `uniform`: evenly spaced in time, the first and the last among them; `keyframe`: the first, and those
            that differ most from the one before; `scene`: the middle of each shot, the longest shots first.
        count: most of them, at least 1. `uniform` gives fewer only where one frame stands at several of its moments.
        start_s: of the part.
        end_s: of the part, itself not in it; to the video's end when None.
        side: longest side in pixels.
        threshold: of `keyframe`: least mean difference of red, green and blue to the picture before, from 0 to 1.
        min_gap_s: of `keyframe`: least time between two of them.
    """

    method: ClassVar[str] = "sample"
    video: bytes
    strategy: Strategy = "uniform"
    count: int = 8
    start_s: float = 0.0
    end_s: float | None = None
    side: int = 512
    threshold: float = 0.01
    min_gap_s: float = 1.0


@dataclass(frozen=True, slots=True)
class FindScenes(TaskRequest[tuple[float, ...]]):
    """When another shot begins: the times of the cuts, in order.

    Attributes:
        detector: of PySceneDetect: `adaptive` (differences beside those around them; stands camera movement) or
            `content` (differences above a fixed threshold).
        min_scene_s: shots are no shorter.
    """

    method: ClassVar[str] = "scenes"
    video: bytes
    start_s: float = 0.0
    end_s: float | None = None
    detector: Detector = "adaptive"
    min_scene_s: float = 0.5


@dataclass(frozen=True, slots=True)
class CutClips(TaskRequest[tuple[Clip, ...]]):
    """Parts of a video as small files, one for each of `spans`; they may overlap, and are read in one pass.

    Attributes:
        spans: start and end of each in seconds; the end is not in it. Ordered by start.
        side: longest side in pixels.
        fps: most frames a second.
    """

    method: ClassVar[str] = "clips"
    video: bytes
    spans: tuple[tuple[float, float], ...]
    side: int = 448
    fps: float = 4.0
