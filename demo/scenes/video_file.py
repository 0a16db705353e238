"""Pictures of the scene world as a video file."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from numpy.typing import NDArray


def write_video(
    target: Path | BinaryIO,
    frames: Iterable[NDArray[np.uint8]],
    fps: float,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> None:
    """Write pictures to an MP4, one after the other, as they come.

    Args:
        target: a path, or a seekable file.
        frames: (height, width, 3) uint8 RGB, all of one even height and width, at least one.
        fps: pictures per second.
        codec: FFmpeg's name of the encoder.
        options: of the encoder; by default a quality at which flat colours stay clean.

    Raises:
        ValueError: there are no pictures.
    """
    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(target) if isinstance(target, Path) else target, "w", format="mp4") as container:
        stream: Any = None
        for picture in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=rate, options=options or {"crf": "18", "preset": "veryfast"})
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if stream is None:
            raise ValueError("a video needs a picture or more")
        container.mux(stream.encode(None))
