"""Videos at the edge: what the first bytes say, and limits that a replica's decoder keeps.

The router looks at magic numbers and at the sizes that a container states, so that a file that was cut is refused
before it queues. Nothing is decoded, and no demuxer runs, until a replica samples frames
(deployments/video/decode.py).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from serve.errors import InvalidMedia, PayloadTooLarge, UnsupportedMedia

VideoFormat = Literal["MP4", "WEBM", "AVI", "GIF", "WEBP"]
"""Families of containers, each read by one demuxer: MP4 includes QuickTime (MOV), WEBM includes Matroska (MKV)."""

_ACCEPTED = "MP4, MOV, WebM, MKV, AVI, GIF and animated WebP"
# Media types under which clients send each family (RFC 4337, the WebM and Matroska guidelines, and habit).
_TYPES: dict[VideoFormat, frozenset[str]] = {
    "MP4": frozenset({"video/mp4", "video/quicktime", "video/x-m4v", "video/3gpp", "video/3gpp2", "application/mp4"}),
    "WEBM": frozenset({"video/webm", "video/x-matroska", "video/matroska"}),
    "AVI": frozenset({"video/x-msvideo", "video/avi", "video/msvideo", "video/vnd.avi"}),
    "GIF": frozenset({"image/gif"}),
    "WEBP": frozenset({"image/webp"}),
}
_VAGUE_TYPES = frozenset({"", "video/*", "*/*", "application/octet-stream", "binary/octet-stream"})

# QuickTime files from before `ftyp` start with one of these atoms (QuickTime File Format, 2001).
_OLD_ATOMS = frozenset({b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})
# ISO 14496-12 brands of still pictures and of sound.
_OTHER_BRANDS = {
    b"avif": "AVIF",
    b"heic": "HEIF",
    b"heix": "HEIF",
    b"mif1": "HEIF",
    b"crx ": "CR3",
    b"M4A ": "M4A (sound)",
    b"M4B ": "M4B (sound)",
}
_KNOWN_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"FLV\1", "Flash video"),
    (b"OggS", "Ogg"),
    (b"0&\xb2u\x8ef\xcf\x11", "Windows Media"),
    (b"\0\0\1\xba", "MPEG program stream"),
    (b"\0\0\1\xb3", "MPEG video"),
    (b"#EXTM3U", "HLS playlist"),
    (b"ffconcat", "FFmpeg script"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"%PDF-", "PDF"),
    (b"ID3", "MP3"),
    (b"fLaC", "FLAC"),
)
_MPEG_TS_PACKET = 188
# Top-level boxes of an MP4 that are walked; a fragmented file has two for each fragment, after `moov`.
_MAX_BOXES = 1000


@dataclass(frozen=True, slots=True)
class VideoLimits:
    """What a video may be."""

    max_bytes: int = 50 * 1024 * 1024
    """Size of the file."""
    max_duration_s: float = 1800.0
    """Seconds from the first frame to the last."""
    max_frames: int = 120_000
    """Frames in the file, shown or not: half an hour at 60 a second, and some."""
    max_pixels: int = 4096 * 2304
    """Width x height of a frame; what the decoder holds of one frame, a dozen times over."""
    max_side: int = 8192
    """Longest side."""
    decode_s: float = 30.0
    """Seconds that a worker spends on one video."""
    frame_side: int = 1024
    """Longest side of a sampled frame in pixels; larger ones are scaled down as they are decoded."""


def inspect_video(data: bytes, limits: VideoLimits, *, declared_type: str | None = None) -> VideoFormat:
    """The family of a video's container.

    Args:
        data: the file.
        limits: what is accepted.
        declared_type: the media type its sender claims; parameters and case are ignored, and `video/*`,
            `application/octet-stream` and None claim nothing.

    Raises:
        UnsupportedMedia: `unsupported_video_type`: another kind of file.
        InvalidMedia: `invalid_video`: empty, no file that we know, not what it is declared as, cut, or an MP4 without
            its index.
        PayloadTooLarge: more bytes than `limits.max_bytes`.
    """
    if not data:
        raise _invalid("the video is empty")
    if len(data) > limits.max_bytes:
        raise PayloadTooLarge(f"the video has {len(data):,} bytes; the limit is {limits.max_bytes:,} bytes")
    kind = sniff_video(data)
    declared = (declared_type or "").partition(";")[0].strip().lower()
    if declared not in _VAGUE_TYPES and declared not in _TYPES[kind]:
        raise _invalid(f"declared as {declared[:64]!r}, but the bytes are of the {kind} family")
    if kind == "MP4":
        _check_boxes(data)
    elif _promised_bytes(kind, data) > len(data):
        raise _invalid(f"the video ends after {len(data):,} bytes, early")
    return kind


def sniff_video(data: bytes) -> VideoFormat:
    """The family that the first bytes announce.

    Raises:
        UnsupportedMedia, InvalidMedia: as `inspect_video`.
    """
    if data[4:8] == b"ftyp":
        if (other := _OTHER_BRANDS.get(data[8:12])) is not None:
            raise _unsupported(other)
        return "MP4"
    if data[4:8] in _OLD_ATOMS:
        return "MP4"
    if data.startswith(b"\x1aE\xdf\xa3"):
        return "WEBM"
    if data.startswith(b"RIFF") and data[8:12] in (b"AVI ", b"WEBP"):
        return "AVI" if data[8:12] == b"AVI " else "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    for magic, name in _KNOWN_OTHERS:
        if data.startswith(magic):
            raise _unsupported(name)
    if data[0:1] == b"G" and data[_MPEG_TS_PACKET : _MPEG_TS_PACKET + 1] == b"G":
        raise _unsupported("MPEG transport stream")
    raise _invalid(f"the bytes are no video that is known here; accepted are {_ACCEPTED}")


def _check_boxes(data: bytes) -> None:
    """Walks the outermost boxes (ISO 14496-12 section 4.2): the index must be there, and it and the frames whole."""
    at, indexed = 0, False
    for _ in range(_MAX_BOXES):
        if at + 8 > len(data):
            break
        size, name = struct.unpack_from(">I4s", data, at)
        if size == 1 and at + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, at + 8)
        elif size == 0:  # to the end of the file
            size = len(data) - at
        if size < 8 or (at + size > len(data) and name in (b"moov", b"mdat")):
            raise _invalid(f"the video ends after {len(data):,} bytes, early, or is damaged")
        indexed = indexed or name == b"moov"
        at += size
    if not indexed:
        raise _invalid("the MP4 has no index (moov box): it ends early, or its recording was never finished")


def _promised_bytes(kind: VideoFormat, data: bytes) -> int:
    """Size of the file by its own header; 0 where it says nothing, as a live recording does."""
    if kind in ("AVI", "WEBP"):
        (size,) = struct.unpack_from("<I", data, 4)
        return 0 if size == 0xFFFFFFFF else size + 8
    if kind == "WEBM":  # RFC 8794: the EBML header, then one Segment
        header, at = _vint(data, 4)
        at += header
        if data[at : at + 4] == b"\x18S\x80g":
            size, at = _vint(data, at + 4)
            return at + size
    return 0


def _vint(data: bytes, at: int) -> tuple[int, int]:
    """A variable-size integer (RFC 8794 section 4) and where it ends; 0 when it is unknown or not there."""
    first = data[at] if at < len(data) else 0
    width = 9 - first.bit_length()
    if width > 8 or at + width > len(data):
        return 0, at
    mask = (1 << 7 * width) - 1
    value = int.from_bytes(data[at : at + width], "big") & mask
    return (0 if value == mask else value), at + width


def _unsupported(what: str) -> UnsupportedMedia:
    return UnsupportedMedia(
        f"the file is {what}; accepted videos are {_ACCEPTED}",
        code="unsupported_video_type",
    )


def _invalid(why: str) -> InvalidMedia:
    return InvalidMedia(why, code="invalid_video")
