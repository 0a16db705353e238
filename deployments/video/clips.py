"""Parts of a video as files of their own, made in one pass over it.

Each clip is what a model that reads a whole video file can be given of a longer one: few frames a second, small, H.264.
A frame that lies in several clips is decoded once and encoded in each.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

from deployments.video.decode import Frames, Video
from deployments.video.messages import Clip, CutClips
from serve.errors import InvalidMedia, ModelFailed

_MILLISECOND = Fraction(1, 1000)
# Constant quality, made quickly; no B-frames, so that a clip's times begin at 0 without an edit list.
_OPTIONS = {"crf": "23", "preset": "veryfast", "bf": "0", "threads": "1"}


def cut_clips(video: Video, request: CutClips, max_bytes: int) -> tuple[Clip, ...]:
    """See `CutClips`; the video's bytes have been opened already.

    Args:
        max_bytes: of all clips together.

    Raises:
        InvalidMedia: `video_too_large`: they are larger.
        ModelFailed: the encoder failed.
    """
    wanted = [video.between(start, end, request.fps) for start, end in request.spans]
    writers: dict[int, _Writer] = {}
    clips: dict[int, Clip] = {}
    room = max_bytes
    for number, pixels in video.frames({number for numbers in wanted for number in numbers}, request.side):
        for place in _within(wanted, number):
            writer = writers.get(place) or writers.setdefault(place, _Writer(pixels))
            writer.add(pixels, video.at_s(number))
            if number == wanted[place][-1]:
                clips[place] = writers.pop(place).clip()
                room -= len(clips[place].data)
                if room < 0:
                    raise InvalidMedia(f"the clips take more than {max_bytes:,} bytes", code="video_too_large")
    return tuple(clips[place] for place in range(len(wanted)))


def _within(wanted: Sequence[Sequence[int]], number: int) -> Iterator[int]:
    """The clips that a frame belongs to."""
    for place, numbers in enumerate(wanted):
        at = int(np.searchsorted(numbers, number))
        if at < len(numbers) and numbers[at] == number:
            yield place


class _Writer:
    """An MP4 in the making; the first frame given sets its size and its time 0."""

    def __init__(self, pixels: Frames) -> None:
        self._buffer = io.BytesIO()
        self._file: Any = av.open(self._buffer, "w", format="mp4")
        self._stream: Any = self._file.add_stream("libx264", options=_OPTIONS)
        even = _even(pixels)
        self._stream.height, self._stream.width, self._stream.pix_fmt = *even.shape[:2], "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = _MILLISECOND
        self._first = self._last = 0.0
        self._frames = 0

    def add(self, pixels: Frames, at_s: float) -> None:
        """The next frame, as shown from `at_s` on in the whole video."""
        if not self._frames:
            self._first = at_s
        frame = av.VideoFrame.from_ndarray(_even(pixels), format="rgb24")
        frame.pts, frame.time_base = round((at_s - self._first) * 1000), _MILLISECOND
        self._mux(frame)
        self._last = at_s
        self._frames += 1

    def clip(self) -> Clip:
        """The finished file."""
        self._mux(None)
        self._file.close()
        return Clip(self._first, self._last, self._frames, self._buffer.getvalue())

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            self._file.mux(self._stream.encode(frame))
        except av.FFmpegError as error:
            raise ModelFailed(f"A clip cannot be encoded: {error}.") from error


def _even(pixels: Frames) -> Frames:
    """With even sides, since 4:2:0 halves the resolution of colours: the last row and column of odd ones twice."""
    odd = [(0, side % 2) for side in pixels.shape[:2]]
    return np.pad(pixels, (*odd, (0, 0)), mode="edge") if any(more for _, more in odd) else pixels
