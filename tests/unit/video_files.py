"""Small video files whose frames say their numbers."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

Frames = npt.NDArray[np.uint8]
# Between the greys of two neighbouring frames of `greys`.
STEP = 8
COLOURS = [(200, 40, 40), (40, 180, 60), (40, 60, 200), (220, 210, 60), (180, 60, 190), (60, 200, 210)]


def greys(count: int, width: int = 64, height: int = 48) -> Frames:
    """Frame i is grey i * `STEP`; (count, height, width, 3) uint8."""
    return np.stack([np.full((height, width, 3), STEP * i, np.uint8) for i in range(count)])


def number_of(frame: Frames) -> int:
    """Which of `greys` a picture shows."""
    return round(float(frame.mean()) / STEP)


def shots(lengths: Sequence[int], width: int = 64, height: int = 48) -> Frames:
    """Shots of so many frames: on each one's own colour, a bright square wanders."""
    frames = []
    for shot, length in enumerate(lengths):
        for i in range(length):
            frame = np.full((height, width, 3), COLOURS[shot % len(COLOURS)], np.uint8)
            left = (4 + 2 * i) % (width - 12)
            frame[10:20, left : left + 10] = 255
            frames.append(frame)
    return np.stack(frames)


def encode(
    frames: Iterable[npt.NDArray[Any]],
    *,
    ticks: Sequence[int] | None = None,
    rate: int = 10,
    base: Fraction | None = None,
    container: str = "mp4",
    codec: str = "libx264",
    rotation: int = 0,
    aspect: Fraction | None = None,
    change: Callable[[int, av.Packet], Iterable[av.Packet]] = lambda number, packet: (packet,),
    muxer: Mapping[str, str] | None = None,
    **options: str,
) -> bytes:
    """A file in which frame i is shown from `ticks[i]` (or i) units of `base` seconds (or of 1 / `rate`) on.

    Args:
        aspect: width of a pixel, by its height.
        change: what is written in place of a packet, by its number.
        muxer: options of the container.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=dict(muxer or {})) as output:
        stream: Any = output.add_stream(codec, rate=rate, options={"g": "10", **options})
        packets = itertools.count()

        def write(frame: av.VideoFrame | None) -> None:
            for packet in stream.encode(frame):
                for written in change(next(packets), packet):
                    output.mux(written)

        base = base or Fraction(1, rate)
        stream.time_base = stream.codec_context.time_base = base
        for number, pixels in enumerate(frames):
            if number == 0:
                stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv420p"
                if rotation:
                    stream.set_display_rotation(rotation)
                if aspect is not None:
                    stream.codec_context.sample_aspect_ratio = aspect
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number if ticks is None else ticks[number], base
            write(frame)
        write(None)
    return buffer.getvalue()


def webp(frames: Frames, durations: Sequence[int]) -> bytes:
    """An animated WebP whose frames are shown for so many milliseconds."""
    buffer = io.BytesIO()
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=list(durations), lossless=True)
    return buffer.getvalue()
