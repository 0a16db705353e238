"""Frames sampled evenly from a video file, in bounded memory and time.

The file's packets are read once without decoding: they say when each frame is shown and where decoding may start. Only
what lies between a wanted frame and the key frame before it is then decoded, frame by frame, and only wanted frames are
kept, scaled down. FFmpeg (through PyAV) is told the container's format, may use common codecs only, and cannot open
anything beside the bytes it is given: playlists, references to other files and odd decoders are most of its attack
surface.
"""

from __future__ import annotations

import io
import struct
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from PIL import Image
from PIL.WebPImagePlugin import WebPImageFile

from serve.errors import ArgusError, DeadlineExceeded, InvalidMedia, UnsupportedMedia
from serve.media.video import VideoFormat, VideoLimits, inspect_video

Frames = npt.NDArray[np.uint8]

_DEMUXERS: dict[VideoFormat, str] = {"MP4": "mov", "WEBM": "matroska", "AVI": "avi", "GIF": "gif"}
_CODECS = frozenset(
    {"h264", "hevc", "vp8", "vp9", "libvpx", "libvpx-vp9", "av1", "libdav1d", "mpeg4", "msmpeg4v2", "msmpeg4v3"}
    | {"mjpeg", "mpeg2video", "h263", "prores", "theora", "gif", "rawvideo", "ffv1"}
)
# Frames that are decoded in vain rather than jumped over: a jump costs a search and the group of frames it lands in.
_JUMP = 32


class _Clock:
    """Time that one video may take."""

    def __init__(self, limits: VideoLimits, deadline: float, now: Callable[[], float]) -> None:
        self._now, self._deadline, self._own = now, deadline, now() + limits.decode_s
        self._seconds = limits.decode_s

    def check(self) -> None:
        now = self._now()
        if now >= self._deadline:
            raise DeadlineExceeded("The deadline passed while the video was being decoded.")
        if now >= self._own:
            raise InvalidMedia(f"the video takes longer than {self._seconds:g} s to decode", code="video_too_large")


def sample_frames(
    data: bytes,
    count: int,
    limits: VideoLimits | None = None,
    *,
    deadline: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
) -> Frames:
    """`count` frames, the first and the last of the video among them, evenly spaced in time.

    At a constant frame rate these are the frames `linspace(0, total - 1, count)`, rounded down, as Video-LLaVA samples
    them (Lin et al. 2023). A video with fewer frames gives some of them twice. An animated WebP is sampled by number.

    Args:
        data: an MP4, MOV, WebM, MKV, AVI, GIF or WebP file.
        count: at least 1.
        limits: see `VideoLimits`.
        deadline: on `clock`.

    Returns:
        (count, height, width, 3) uint8 RGB, upright, the longer side at most `limits.frame_side`.

    Raises:
        InvalidMedia: `invalid_video` (damaged, cut, or without a picture), `video_too_long`, `video_too_large`.
        UnsupportedMedia: `unsupported_video_type`: container or codec.
        PayloadTooLarge: more bytes than allowed.
        DeadlineExceeded: the deadline passed meanwhile.
    """
    limits = limits or VideoLimits()
    watch = _Clock(limits, deadline, clock)
    watch.check()
    kind = inspect_video(data, limits)
    try:
        if kind == "WEBP":
            return _sample_webp(data, count, limits, watch)
        if kind == "GIF":  # FFmpeg calls a canvas beyond its limit damaged
            width, height = struct.unpack_from("<HH", data, 6)
            _check_size(width, height, limits)
        with _open(data, _DEMUXERS[kind], limits) as container:
            return _sample(container, count, limits, watch)
    except ArgusError:
        raise
    except MemoryError:
        raise InvalidMedia("the video needs more memory than there is", code="video_too_large") from None
    except Exception as error:  # PyAV raises FFmpeg's errors under many built-in types
        raise _invalid(f"the video cannot be decoded: {str(error)[:200] or type(error).__name__}") from error


def _open(data: bytes, demuxer: str, limits: VideoLimits) -> InputContainer:
    options = {
        "codec_whitelist": ",".join(sorted(_CODECS)),
        "protocol_whitelist": "none",
        "max_pixels": str(limits.max_pixels),
    }
    return av.open(io.BytesIO(data), "r", format=demuxer, options=options, io_open=_refuse)


def _refuse(url: str, flags: int, options: dict[str, str]) -> Any:
    raise _invalid("the video refers to another file")


def _sample(container: InputContainer, count: int, limits: VideoLimits, watch: _Clock) -> Frames:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise _invalid("the file has no video track")
    codec = stream.codec_context
    if codec.name not in _CODECS:
        raise UnsupportedMedia(f"the codec {codec.name} is not read; send H.264", code="unsupported_video_type")
    _check_size(codec.width, codec.height, limits)
    codec.thread_count = 1  # the pool's threads are the parallelism; each decoder thread would hold frames of its own
    shown, starts = _timeline(container, stream, limits, watch)
    first, last = shown[0], shown[-1]
    wanted = [shown[bisect_right(shown, first + (last - first) * k // max(1, count - 1)) - 1] for k in range(count)]
    found: dict[int, Frames] = {}
    shape: list[int] = []
    for time_, frame in _decoded(container, stream, wanted, shown, starts, watch):
        _check_size(frame.width, frame.height, limits)
        found[time_] = _pixels(frame, shape, limits)
    return np.stack([found[time_] for time_ in wanted])


def _timeline(
    container: InputContainer, stream: VideoStream, limits: VideoLimits, watch: _Clock
) -> tuple[list[int], list[int]]:
    """When frames are shown, and when those are at which decoding can start, both in the stream's time base."""
    shown: list[int] = []
    starts: list[int] = []
    for packet in container.demux(stream):
        watch.check()
        at = packet.pts if packet.pts is not None else packet.dts
        if at is None or packet.is_discard:
            continue
        shown.append(at)
        if packet.is_keyframe:
            starts.append(at)
        if len(shown) > limits.max_frames:
            raise InvalidMedia(f"the video has more than {limits.max_frames:,} frames", code="video_too_long")
    if not shown or not starts:
        raise _invalid("the video track holds no frame")
    shown.sort()
    starts.sort()
    base = float(stream.time_base or 0)
    seconds = (shown[-1] - shown[0]) * base
    if seconds > limits.max_duration_s:
        raise InvalidMedia(
            f"the video lasts {seconds:.0f} s; the limit is {limits.max_duration_s:g} s", code="video_too_long"
        )
    return shown, starts


def _decoded(
    container: InputContainer,
    stream: VideoStream,
    wanted: Sequence[int],
    shown: Sequence[int],
    starts: Sequence[int],
    watch: _Clock,
) -> Iterator[tuple[int, VideoFrame]]:
    """Each distinct wanted time with its frame: the one shown from then on."""
    position: int | None = None  # time of the frame decoded last; None at the start of the file
    frames = _restart(container, stream, 0, watch)
    for time_ in sorted(set(wanted)):
        start = starts[max(0, bisect_right(starts, time_) - 1)]
        skipped = bisect_right(shown, start) - (0 if position is None else bisect_right(shown, position))
        if skipped > _JUMP:
            frames = _restart(container, stream, start, watch)
            frame = next(frames, None)
            if frame is None or frame.pts is None or frame.pts > time_:
                # The container's index is wrong; the file from its start is not.
                frames = _restart(container, stream, 0, watch)
            elif frame.pts == time_:
                position = time_
                yield time_, frame
                continue
        for frame in frames:
            if frame.pts is not None and frame.pts >= time_:
                position = frame.pts
                yield time_, frame
                break
        else:
            raise _invalid("the video ends early, or its frames are damaged")


def _restart(container: InputContainer, stream: VideoStream, at: int, watch: _Clock) -> Iterator[VideoFrame]:
    container.seek(at, stream=stream)
    for frame in container.decode(stream):
        watch.check()
        yield frame


def _pixels(frame: VideoFrame, shape: list[int], limits: VideoLimits) -> Frames:
    """The frame's pixels, scaled to `shape` (set by the first: sizes may change within a stream), upright."""
    if not shape:
        scale = min(1.0, limits.frame_side / max(frame.width, frame.height))
        shape += [max(1, round(frame.width * scale)), max(1, round(frame.height * scale))]
    small = frame.reformat(shape[0], shape[1], format="rgb24", interpolation=Interpolation.AREA)
    # The display matrix turns counter-clockwise, and so does rot90.
    return np.ascontiguousarray(np.rot90(small.to_ndarray(), round(frame.rotation / 90) % 4))


def _sample_webp(data: bytes, count: int, limits: VideoLimits, watch: _Clock) -> Frames:
    """FFmpeg reads no animated WebP; Pillow does, frame after frame from the first."""
    with WebPImageFile(io.BytesIO(data)) as image:
        _check_size(*image.size, limits)
        total = image.n_frames
        if total > limits.max_frames:
            raise InvalidMedia(f"the video has more than {limits.max_frames:,} frames", code="video_too_long")
        wanted = [(total - 1) * k // max(1, count - 1) for k in range(count)]
        found: dict[int, Frames] = {}
        for number in range(total):
            watch.check()
            image.seek(number)
            if number in wanted:
                frame: Image.Image = image.convert("RGB")
                frame.thumbnail((limits.frame_side, limits.frame_side))
                found[number] = np.asarray(frame)
    return np.stack([found[number] for number in wanted])


def _check_size(width: int, height: int, limits: VideoLimits) -> None:
    if max(width, height) > limits.max_side or width * height > limits.max_pixels:
        raise InvalidMedia(
            f"the video is {width} x {height} pixels; at most {limits.max_side} a side and {limits.max_pixels:,} in "
            "all are decoded",
            code="video_too_large",
        )
    if width < 1 or height < 1:
        raise _invalid("the video has no size")


def _invalid(why: str) -> InvalidMedia:
    return InvalidMedia(why, code="invalid_video")
