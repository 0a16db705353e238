"""When another shot begins, by PySceneDetect's detectors over frames that our own decoder hands them.

PySceneDetect's own readers open files through OpenCV, past our bounds and our list of codecs, so only its detectors are
used: they take one picture after the other with its time.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode
from scenedetect.common import Timecode

from deployments.video.decode import Video
from deployments.video.messages import Detector, FindScenes

# As PySceneDetect scales pictures down before it compares them (its DEFAULT_MIN_WIDTH).
_SIDE = 256


def find_cuts(video: Video, request: FindScenes) -> tuple[float, ...]:
    """See `FindScenes`; the video's bytes have been opened already."""
    numbers = video.between(request.start_s, request.end_s)
    return tuple(video.at_s(number) for number in cut_numbers(video, numbers, request.detector, request.min_scene_s))


def cut_numbers(
    video: Video, numbers: Sequence[int], detector: Detector = "adaptive", min_scene_s: float = 0.5
) -> list[int]:
    """The frames, of those numbered, at which another shot begins."""
    found: list[int] = []
    looking = _detector(detector, min_scene_s)
    rate = _rate(video)
    for number, pixels in video.frames(numbers, _SIDE):
        shown = Timecode(pts=video.ticks[number], time_base=video.base)
        picture = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        found += [cut.pts for cut in looking.process_frame(FrameTimecode(shown, rate), picture)]
    at = {video.ticks[number]: number for number in numbers}
    return [at[tick] for tick in found]


def _detector(name: Detector, min_scene_s: float) -> ContentDetector:
    if name == "adaptive":
        return AdaptiveDetector(min_scene_len=min_scene_s)
    return ContentDetector(min_scene_len=min_scene_s)


def _rate(video: Video) -> float:
    """Frames a second on average; the detectors measure time by ticks and want one all the same."""
    seconds = video.at_s(len(video.ticks) - 1)
    return (len(video.ticks) - 1) / seconds if seconds else 1.0
