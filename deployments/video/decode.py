"""A video file as numbered frames with exact times, decoded in bounded memory and time.

The file's packets are read once without decoding: they say when each frame is shown and where decoding may start. Only
what lies between a wanted frame and the key frame before it is then decoded, frame by frame, and only wanted frames
are scaled down and handed on, one at a time. FFmpeg (through PyAV) is told the container's format, may use common
codecs only, and cannot open anything beside the bytes it is given: playlists, references to other files and odd
decoders are most of its attack surface.

Times are the container's own (presentation time stamps, edit lists applied), counted from the first frame shown. They
are whole ticks of the stream's time base until they are handed out, so a variable frame rate costs no precision. A
frame that cannot be decoded makes the video invalid; damage that the decoder conceals by itself is passed on as it is.
"""

from __future__ import annotations

import io
import math
import struct
import time
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from deployments.video.checks import Watch, check_duration, check_frames, check_size, decoding, invalid
from deployments.video.geometry import Orientation, shown_size
from serve.errors import UnsupportedMedia
from serve.media.video import VideoFormat, VideoLimits, inspect_video

Frames = npt.NDArray[np.uint8]

_DEMUXERS: dict[VideoFormat, str] = {"MP4": "mov", "WEBM": "matroska", "AVI": "avi", "GIF": "gif"}
_CODECS = frozenset(
    {"h264", "hevc", "vp8", "vp9", "libvpx", "libvpx-vp9", "av1", "libdav1d", "mpeg4", "msmpeg4v2", "msmpeg4v3"}
    | {"mjpeg", "mpeg2video", "h263", "prores", "theora", "gif", "rawvideo", "ffv1"}
)
# Frames that are decoded in vain rather than jumped over: a jump costs a search and the group of frames it lands in.
_JUMP = 32


class Video(ABC):
    """An open video: see `open_video`.

    Attributes:
        container: family of its format.
        codec: FFmpeg's name.
        ticks: when each frame is shown, in units of `base` seconds, ascending and distinct; the first is 0.
        end: when the last one has been shown, in the same units.
    """

    container: VideoFormat
    codec: str
    ticks: Sequence[int]
    end: int
    base: Fraction

    @abstractmethod
    def frames(self, numbers: Iterable[int], side: int) -> Iterator[tuple[int, Frames]]:
        """Frames by their numbers: each distinct one once, in order, as (height, width, 3) uint8 RGB, upright.

        Args:
            numbers: from 0 to `len(ticks) - 1`.
            side: the longer side of the pictures at most, in pixels.

        Raises:
            InvalidMedia: `invalid_video`, `video_too_large`.
            DeadlineExceeded: the deadline passed meanwhile.
        """

    @abstractmethod
    def rotation(self) -> int:
        """Degrees that its pictures are turned by, counter-clockwise: 0, 90, 180 or 270."""

    @property
    def duration_s(self) -> float:
        """Seconds from the start of the first frame to the end of the last."""
        return float(self.end * self.base)

    def at_s(self, number: int) -> float:
        """When a frame is first shown, in seconds."""
        return float(self.ticks[number] * self.base)

    def even(self, count: int, numbers: Sequence[int] | None = None) -> list[int]:
        """Frames spread evenly in time, the first and the last among them: `count` numbers, some of them more than once
        where there are fewer frames.

        Args:
            numbers: which frames there are to choose from, ascending; all by default.
        """
        among = range(len(self.ticks)) if numbers is None else numbers
        ticks = self.ticks if numbers is None else [self.ticks[number] for number in numbers]
        first, length, parts = ticks[0], ticks[-1] - ticks[0], max(1, count - 1)
        return [among[bisect_right(ticks, first + length * k // parts) - 1] for k in range(count)]

    def between(self, start_s: float, end_s: float | None, fps: float = math.inf) -> list[int]:
        """The frames that are to be seen from `start_s` on, before `end_s` or to the end; at least one.

        Args:
            fps: most frames a second; then those that stand at the moments of that rate.
        """
        # What `at_s` gave out finds its frame again in spite of its rounding.
        first = max(0, bisect_right(self.ticks, start_s / self.base + 1e-6) - 1)
        end = math.inf if end_s is None else end_s
        last = max(first + 1, bisect_left(self.ticks, end / self.base - 1e-6))
        step = 0 if math.isinf(fps) else Fraction(fps).limit_denominator(1000) ** -1 / self.base
        ticks = self.ticks[first:last]
        if all(after - before > step - 1 for before, after in pairwise(ticks)):  # ticks are rounded times
            return list(range(first, last))
        moments = range(math.floor((ticks[-1] - ticks[0]) / step) + 1)
        return sorted({first + bisect_right(ticks, ticks[0] + math.floor(k * step)) - 1 for k in moments})


@contextmanager
def open_video(
    data: bytes,
    limits: VideoLimits | None = None,
    *,
    deadline: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Video]:
    """Opens a video and reads when its frames are shown.

    Args:
        data: an MP4, MOV, WebM, MKV, AVI, GIF or animated WebP file.
        limits: see `VideoLimits`; `decode_s` holds for everything that is done with the open video.
        deadline: on `clock`.

    Raises:
        InvalidMedia: `invalid_video` (damaged, cut, or without a picture), `video_too_long`, `video_too_large`.
        UnsupportedMedia: `unsupported_video_type`: container or codec.
        PayloadTooLarge: more bytes than allowed.
        DeadlineExceeded: the deadline passed meanwhile.
    """
    limits = limits or VideoLimits()
    watch = Watch(limits, deadline, clock)
    watch.check()
    kind = inspect_video(data, limits)
    if kind == "WEBP":  # FFmpeg reads no animated WebP
        from deployments.video.webp import WebpVideo

        with decoding():
            video = WebpVideo(data, limits, watch)
        yield video
        return
    if kind == "GIF":  # FFmpeg calls a canvas beyond its limit damaged
        with decoding():
            width, height = struct.unpack_from("<HH", data, 6)
            check_size(width, height, limits)
    with decoding():
        container = _open(data, _DEMUXERS[kind], limits)
    with container:
        with decoding():
            decoded = _FfmpegVideo(container, kind, limits, watch)
        yield decoded


def _open(data: bytes, demuxer: str, limits: VideoLimits) -> InputContainer:
    options = {
        "codec_whitelist": ",".join(sorted(_CODECS)),
        "protocol_whitelist": "none",
        "max_pixels": str(limits.max_pixels),
    }
    return av.open(io.BytesIO(data), "r", format=demuxer, options=options, io_open=_refuse)


def _refuse(url: str, flags: int, options: dict[str, str]) -> Any:
    raise invalid("the video refers to another file")


class _FfmpegVideo(Video):
    """What FFmpeg reads."""

    def __init__(self, container: InputContainer, kind: VideoFormat, limits: VideoLimits, watch: Watch) -> None:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:  # a song's cover
            raise invalid("the file has no video track")
        context = stream.codec_context
        if context.name not in _CODECS:
            raise UnsupportedMedia(f"the codec {context.name} is not read; send H.264", code="unsupported_video_type")
        check_size(context.width, context.height, limits)
        context.thread_count = 1  # the pool's threads are the parallelism; each decoder thread would hold frames
        # Sizes may change within a stream: what is too large then is refused before there is memory for it.
        context.options = {"max_pixels": str(limits.max_pixels)}
        self._file, self._stream, self._limits, self._watch = container, stream, limits, watch
        self.container, self.codec = kind, context.codec.canonical_name
        self.base = Fraction(stream.time_base or 0)
        # AVI says when frames are decoded, not when they are shown; of frames that are reordered FFmpeg guesses wrong.
        self._by_order = kind == "AVI" and context.has_b_frames
        self._shown, self._starts, last = self._timeline()
        first = self._shown[0]
        self.ticks = [shown - first for shown in self._shown]
        self.end = self.ticks[-1] + (last or (self.ticks[-1] // (len(self.ticks) - 1) if len(self.ticks) > 1 else 0))
        check_duration(float(self.end * self.base), limits)

    def _timeline(self) -> tuple[list[int], list[int], int]:
        """When frames are shown, when those are at which decoding can start, and how long the last one is shown, in the
        stream's time base."""
        shown: dict[int, int] = {}
        starts: list[int] = []
        for packet in self._file.demux(self._stream):
            self._watch.check()
            at = packet.pts if packet.pts is not None else packet.dts
            if at is None:
                continue
            if packet.is_keyframe:
                starts.append(at)
            # A recording may begin between two key frames, and an edit list cut off the first of the frames shown.
            if not starts or packet.is_discard or _is_hidden(packet, self.codec):
                continue
            shown[at] = packet.duration or 0
            check_frames(len(shown), self._limits)
        if not shown or not starts:
            raise invalid("the video track holds no frame")
        times = sorted(shown)
        return times, times[:1] if self._by_order else sorted(starts), shown[times[-1]]

    def rotation(self) -> int:
        with decoding():
            frame = next(self._restart(0), None)
        return 0 if frame is None else Orientation.of(frame).rotation

    def frames(self, numbers: Iterable[int], side: int) -> Iterator[tuple[int, Frames]]:
        scaler = _Scaler(side, self._stream.sample_aspect_ratio or Fraction(1))
        with decoding():
            for number, frame in self._decoded(sorted(set(numbers))):
                check_size(frame.width, frame.height, self._limits)
                yield number, scaler.pixels(frame)

    def _decoded(self, numbers: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Each wanted frame: the one shown from its time on."""
        shown, starts = self._shown, self._starts
        position: int | None = None  # time of the frame decoded last; None at the start of the file
        frames = self._restart(0)
        for number in numbers:
            time_ = shown[number]
            start = starts[max(0, bisect_right(starts, time_) - 1)]
            skipped = bisect_right(shown, start) - (0 if position is None else bisect_right(shown, position))
            if skipped > _JUMP:
                frames = self._restart(start)
                frame = next(frames, None)
                if frame is None or frame.pts is None or frame.pts > time_:
                    # The container's index is wrong; the file from its start is not.
                    frames = self._restart(0)
                elif frame.pts == time_:
                    position = time_
                    yield number, frame
                    continue
            for frame in frames:
                if frame.pts is not None and frame.pts >= time_:
                    break
            else:
                raise invalid("the video ends early, or its frames are damaged")
            # Another one in its place would be shown at a wrong time. Of two fields that came apart, one frame is made.
            if frame.pts != time_ and not frame.interlaced_frame:
                raise invalid(f"the frame at {self.at_s(number):.3f} s cannot be decoded")
            position = frame.pts
            yield number, frame

    def _restart(self, at: int) -> Iterator[VideoFrame]:
        self._file.seek(at, stream=self._stream)
        try:
            for number, frame in enumerate(self._file.decode(self._stream)):
                self._watch.check()
                if self._by_order:  # it is read from its start: there is one place to restart at
                    frame.pts = self._shown[min(number, len(self._shown) - 1)]
                yield frame
        except av.ArgumentError as error:  # what the decoder says of both
            most = self._limits.max_pixels
            raise invalid(f"a frame is damaged, or has more than {most:,} pixels as none before it") from error


def _is_hidden(packet: Packet[VideoStream], codec: str) -> bool:
    """No picture comes of it: VP8 has frames that others are only predicted from, in packets with times of their own
    (RFC 6386, section 9.1: `show_frame`)."""
    return codec == "vp8" and packet.size > 0 and not memoryview(packet)[0] & 0x10


class _Scaler:
    """Makes pictures of frames: one size for all, set by the first, since sizes may change within a stream.

    FFmpeg's scaler is kept between frames: to set it up takes longer than to scale a small one.

    Args:
        side: of the pictures at most, in pixels.
        aspect: width of a pixel, by its height.
    """

    def __init__(self, side: int, aspect: Fraction) -> None:
        self._side = side
        self._aspect = aspect
        self._size: tuple[int, int] | None = None
        self._reformatter = VideoReformatter()

    def pixels(self, frame: VideoFrame) -> Frames:
        """The frame's pixels, square and upright."""
        if self._size is None:
            self._size = shown_size(frame.width, frame.height, self._aspect, self._side)
        width, height = self._size
        small = self._reformatter.reformat(frame, width, height, "rgb24", interpolation=Interpolation.AREA)
        return Orientation.of(frame).upright(np.asarray(small.to_ndarray(), np.uint8))
