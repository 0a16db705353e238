"""What holds for every video, whatever reads it: its time, its size, and how it is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serve.errors import ArgusError, DeadlineExceeded, InvalidMedia
from serve.media.video import VideoLimits


class Watch:
    """Time that one video may take.

    Args:
        deadline: on the clock `now`.
    """

    def __init__(self, limits: VideoLimits, deadline: float, now: Callable[[], float]) -> None:
        self._now, self._deadline, self._own = now, deadline, now() + limits.decode_s
        self._seconds = limits.decode_s

    def check(self) -> None:
        """Returns while there is time.

        Raises:
            DeadlineExceeded: the request's is over.
            InvalidMedia: `video_too_large`: the video's own is.
        """
        now = self._now()
        if now >= self._deadline:
            raise DeadlineExceeded("The deadline passed while the video was being decoded.")
        if now >= self._own:
            raise InvalidMedia(f"the video takes longer than {self._seconds:g} s to decode", code="video_too_large")


def check_size(width: int, height: int, limits: VideoLimits) -> None:
    """Refuses a frame that is too large, or is none.

    Raises:
        InvalidMedia: `video_too_large`, `invalid_video`.
    """
    if max(width, height) > limits.max_side or width * height > limits.max_pixels:
        raise InvalidMedia(
            f"the video is {width} x {height} pixels; at most {limits.max_side} a side and {limits.max_pixels:,} in "
            "all are decoded",
            code="video_too_large",
        )
    if width < 1 or height < 1:
        # FFmpeg forgets a size that its decoder has refused.
        raise invalid(f"the video has no size, or more than the {limits.max_pixels:,} pixels that are decoded")


def check_duration(seconds: float, limits: VideoLimits) -> None:
    """Refuses a video that is shown for too long, be it by its last frame alone.

    Raises:
        InvalidMedia: `video_too_long`.
    """
    if seconds > limits.max_duration_s:
        limit = limits.max_duration_s
        raise InvalidMedia(f"the video lasts {seconds:.0f} s; the limit is {limit:g} s", code="video_too_long")


def check_frames(count: int, limits: VideoLimits) -> None:
    """Refuses more frames than are read.

    Raises:
        InvalidMedia: `video_too_long`.
    """
    if count > limits.max_frames:
        raise InvalidMedia(f"the video has more than {limits.max_frames:,} frames", code="video_too_long")


def invalid(why: str) -> InvalidMedia:
    """A damaged file, or none that shows pictures."""
    return InvalidMedia(why, code="invalid_video")


@contextmanager
def decoding() -> Iterator[None]:
    """What goes wrong while bytes of others are decoded is those bytes' fault."""
    try:
        yield
    except ArgusError:
        raise
    except MemoryError:
        raise InvalidMedia("the video needs more memory than there is", code="video_too_large") from None
    except Exception as error:  # PyAV raises FFmpeg's errors under many built-in types
        raise invalid(f"the video cannot be decoded: {str(error)[:200] or type(error).__name__}") from error
