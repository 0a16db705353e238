"""The frame header of a JPEG, read without Pillow: it stands in front of most requests.

Pillow parses every table before it gives the size, in Python, which took most of the router's own time. This walk
answers for ordinary files only; whatever is odd is left to Pillow, which has the words for what is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

# ITU-T T.81 table B.1. SOF0-SOF15 without DHT, JPG and DAC, which share the range.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _APP1 = 0xDA, 0xE1
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_MAX_SEGMENTS = 200


@dataclass(frozen=True, slots=True)
class Frame:
    """Size as stored, in pixels, and the metadata that may hold an orientation."""

    width: int
    height: int
    exif: bytes | None
    xmp: bytes | None


def read_frame(data: bytes) -> Frame | None:
    """The frame of an ordinary JPEG (8 bits, 1, 3 or 4 components, tables before the first scan); else None."""
    size: tuple[int, int] | None = None
    exif = xmp = None
    at = 2
    for _ in range(_MAX_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            return None
        marker = data[at + 1]
        length = data[at + 2] << 8 | data[at + 3]
        start, end = at + 4, at + 2 + length
        if length < 2 or end > len(data) or not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xD9:
            return None
        if marker == _SCAN:
            return None if size is None else Frame(*size, exif, xmp)
        if marker in _FRAMES:
            if size is not None or length < 8 or data[start] != 8 or data[start + 5] not in (1, 3, 4):
                return None
            size = (data[start + 3] << 8 | data[start + 4], data[start + 1] << 8 | data[start + 2])
            if 0 in size:
                return None
        elif marker == _APP1 and data.startswith(_EXIF, start):
            exif = data[start:end] if exif is None else exif
        elif marker == _APP1 and data.startswith(_XMP, start):
            xmp = data[start + len(_XMP) : end] if xmp is None else xmp
        at = end
    return None
