"""How long a video is, from its header: what it will cost is counted by the second."""

from __future__ import annotations

import struct

# Of a file that does not say how long it is: 200 kbit/s, which little that is watchable lies below.
_LEAST_BYTES_A_SECOND = 25_000
# Boxes of an MP4 (ISO/IEC 14496-12) that are looked at before giving up.
_MOST_BOXES = 1000


def video_type(data: bytes) -> str:
    """The media type of a file that passed the edge's check."""
    if data[4:8] == b"ftyp":
        return "video/quicktime" if data[8:12] == b"qt  " else "video/mp4"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "video/webm"
    return "video/x-msvideo" if data[8:12] == b"AVI " else "video/mp4"


def duration_s(data: bytes) -> float:
    """Seconds: as an MP4's movie header states them, else the most that a file of this size plausibly holds."""
    movie = _box(data, 0, len(data), b"moov")
    header = None if movie is None else _box(data, *movie, b"mvhd")
    if header is not None:
        try:
            # Version 0 has 32-bit times and duration, version 1 has 64-bit ones (section 8.2.2 of the standard).
            scale, duration = struct.unpack_from(
                ">IQ" if data[header[0]] else ">II", data, header[0] + (20 if data[header[0]] else 12)
            )
            if scale and duration:
                return float(duration / scale)
        except (struct.error, IndexError):
            pass
    return len(data) / _LEAST_BYTES_A_SECOND


def _box(data: bytes, start: int, end: int, wanted: bytes) -> tuple[int, int] | None:
    """Where the content of the first box of a kind starts and ends."""
    at = start
    for _ in range(_MOST_BOXES):
        if at + 8 > end:
            return None
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        content = at + 8
        if size == 1:
            size, content = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        stop = end if size == 0 else min(end, at + size)
        if stop < content:
            return None
        if kind == wanted:
            return content, stop
        at = stop
    return None
