"""An animated WebP as a video, read by Pillow frame after frame."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from PIL import Image
from PIL.WebPImagePlugin import WebPImageFile

from deployments.video.checks import Watch, check_duration, check_frames, check_size, decoding, invalid
from deployments.video.decode import Frames, Video
from serve.media.video import VideoLimits

_MILLISECOND = Fraction(1, 1000)


class WebpVideo(Video):
    """Its times are in milliseconds; a frame that states no duration is shown for one."""

    def __init__(self, data: bytes, limits: VideoLimits, watch: Watch) -> None:
        self._data, self._watch = data, watch
        with WebPImageFile(io.BytesIO(data)) as image:
            check_size(*image.size, limits)
            count = image.n_frames
        check_frames(count, limits)
        self.container, self.codec, self.base = "WEBP", "webp", _MILLISECOND
        at, ticks = 0, []
        for duration in [*_durations(data), *[1] * count][:count]:
            ticks.append(at)
            at += max(1, duration)
        self.ticks, self.end = ticks, at
        check_duration(float(at * _MILLISECOND), limits)

    def rotation(self) -> int:
        return 0

    def frames(self, numbers: Iterable[int], side: int) -> Iterator[tuple[int, Frames]]:
        wanted = set(numbers)
        with decoding(), WebPImageFile(io.BytesIO(self._data)) as image:
            for number in range(max(wanted, default=-1) + 1):
                self._watch.check()
                image.seek(number)
                if number in wanted:
                    frame: Image.Image = image.convert("RGB")
                    frame.thumbnail((side, side))
                    yield number, np.asarray(frame)


def _durations(data: bytes) -> list[int]:
    """Milliseconds of each frame (WebP Container Specification, "Animation": bytes 12 to 14 of an ANMF chunk)."""
    found = []
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"ANMF":
            if size < 16:
                raise invalid("a frame of the animation is damaged")
            found.append(int.from_bytes(data[at + 20 : at + 23], "little"))
        at += 8 + size + size % 2
    return found
