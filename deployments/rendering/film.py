"""Films: frames to segments of H.264, and segments to one MP4 without encoding again."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from deployments.rendering.messages import UInt8
from serve.errors import InvalidMedia, InvalidRequest, ModelFailed

# Frames a second such as 30000/1001 are kept exact.
_LARGEST_DENOMINATOR: Final = 1001
# No B-frames: a segment's times begin at 0 without an edit list, and each segment follows the last without a gap.
_OPTIONS: Final = {"preset": "veryfast", "bf": "0", "threads": "1"}
# Room for the index in front of the pictures, so that a browser can begin before it has all: some fixed part and, for
# each frame, its size, its place and, if it is one, its being a key frame.
_INDEX_BYTES: Final = 4096
_INDEX_BYTES_A_FRAME: Final = 24


def rate(fps: float) -> Fraction:
    """Frames a second as a fraction.

    Raises:
        InvalidRequest: `invalid_field`: it is not from 0.01 to 240.
    """
    if not 0.01 <= fps <= 240:
        raise InvalidRequest(
            f"A film has from 0.01 to 240 frames a second; got {fps:g}.", code="invalid_field", param="fps"
        )
    return Fraction(fps).limit_denominator(_LARGEST_DENOMINATOR)


class FilmWriter:
    """One segment in the making. Blocks; for one thread at a time.

    Args:
        width, height: of the frames; the film's sides are even, see `FilmRequest`.
        frames: how many there will be.
        quality: 1 to 100.

    Raises:
        InvalidRequest: see `rate`.
        ModelFailed: the encoder failed; so do all methods.
    """

    def __init__(self, width: int, height: int, fps: float, frames: int, quality: int) -> None:
        self._buffer = io.BytesIO()
        exact = rate(fps)
        try:
            self._file: Any = _open(self._buffer, frames)
            self._stream: Any = self._file.add_stream("libx264", rate=exact, options=_OPTIONS | {"crf": _crf(quality)})
        except av.FFmpegError as error:
            raise ModelFailed(f"The film cannot be begun: {error}.") from error
        self._stream.time_base = self._step = 1 / exact
        codec = self._stream.codec_context
        codec.width, codec.height, codec.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        # Said, not left to guess: players take small untagged films for BT.601 and large ones for BT.709.
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        self._colours = VideoReformatter()
        self._frames = 0

    def add(self, pixels: UInt8) -> None:
        """The next frame: (height, width, 3) uint8, RGB."""
        frame = self._colours.reformat(
            av.VideoFrame.from_ndarray(_even(pixels), format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        frame.pts, frame.time_base = self._frames, self._step
        self._frames += 1
        self._mux(frame)

    def finish(self) -> bytes:
        """The MP4 file."""
        self._mux(None)
        try:
            self._file.close()
        except av.FFmpegError as error:
            raise ModelFailed(f"The film cannot be ended: {error}.") from error
        return self._buffer.getvalue()

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            self._file.mux(self._stream.encode(frame))
        except av.FFmpegError as error:
            raise ModelFailed(f"The film cannot be encoded: {error}.") from error


def join(segments: Sequence[bytes]) -> bytes:
    """Segments of one film, in order, as one MP4 file whose frames are 1 / fps apart throughout.

    Args:
        segments: at least one, all made by `FilmWriter` with one size, fps and quality.

    Raises:
        InvalidMedia: `invalid_video`: one of them is damaged, or is not of the same film.
    """
    if not segments:
        raise ValueError("a film has at least one segment")
    try:
        return _joined(segments)
    except (av.FFmpegError, IndexError) as error:
        raise InvalidMedia(f"A segment of the film cannot be read: {error}.", code="invalid_video") from error


def _joined(segments: Sequence[bytes]) -> bytes:
    buffer = io.BytesIO()
    frames = sum(_frames(data) for data in segments)
    first: tuple[Any, ...] | None = None
    with _open(buffer, frames) as film:
        stream: Any = None
        at = 0
        for data in segments:
            with av.open(io.BytesIO(data), "r", format="mp4") as segment:
                source: Any = segment.streams.video[0]
                kind = _kind(source)
                if stream is None:
                    first, stream = kind, film.add_stream_from_template(source)
                    stream.time_base = 1 / source.average_rate
                elif kind != first:
                    raise InvalidMedia("The segments are not of one film.", code="invalid_video")
                for packet in segment.demux(source):
                    if packet.size:
                        packet.stream = stream
                        packet.pts = packet.dts = at
                        packet.duration, packet.time_base = 1, 1 / source.average_rate
                        film.mux(packet)
                        at += 1
    return buffer.getvalue()


def _frames(data: bytes) -> int:
    with av.open(io.BytesIO(data), "r", format="mp4") as segment:
        return int(segment.streams.video[0].frames)


def _kind(stream: Any) -> tuple[Any, ...]:
    """What the segments of one film have in common: one decoder reads them all without being told anew."""
    return stream.width, stream.height, stream.average_rate, stream.codec_context.extradata


def _open(buffer: io.BytesIO, frames: int) -> Any:
    room = _INDEX_BYTES + _INDEX_BYTES_A_FRAME * frames
    return av.open(buffer, "w", format="mp4", options={"moov_size": str(room)})


def _crf(quality: int) -> str:
    """x264's constant rate factor: 15 (as good as lossless) for 100, 40 for 0."""
    return f"{40 - quality / 4:g}"


def _even(pixels: UInt8) -> UInt8:
    """With even sides, since 4:2:0 halves the resolution of colours: the last row and column of odd ones twice."""
    odd = [(0, side % 2) for side in pixels.shape[:2]]
    return np.pad(pixels, (*odd, (0, 0)), mode="edge") if any(more for _, more in odd) else pixels
