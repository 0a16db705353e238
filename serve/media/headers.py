"""What the first bytes of an image file say, and bounds on how long anyone may spend reading its headers.

Pillow checks how much memory a header may cost, not how much time: its header loops are Python, and a 20 MiB file made
of empty chunks, one-byte blocks or five million strip offsets holds the interpreter for seconds. That would stop every
request of a router, so the structure is bounded here before Pillow sees the file. Each check reads the file with
`bytes` methods and `struct`, allocates nothing of the file's choosing and never decodes.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from typing import Literal, cast

from serve.errors import InvalidMedia, UnsupportedMedia

ImageFormat = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]

# Reads that Pillow may make on one file's headers. A JPEG takes about 40; 20,000 take about 10 ms.
_MAX_HEADER_READS = 20_000
# Blocks of a GIF that are skipped in search of a second frame: a first frame of 20 MiB has 82,000, about 4 ms.
_MAX_GIF_BLOCKS = 100_000
# Chunks of a PNG: 20 MiB in libpng's 8 KiB IDATs are 2,560.
_MAX_PNG_CHUNKS = 65_536
# Chunks that hold a zlib stream (profile, texts); each may inflate to 1 MiB in Pillow, about 2 ms.
_MAX_PNG_COMPRESSED = 16
# Entries of one TIFF or EXIF directory; cameras write about 15, geodata about 30.
_MAX_DIRECTORY_ENTRIES = 512
# Numbers in one TIFF entry, which become Python objects. The longest honest ones are the offsets of strips, one for
# each of 16,384 rows, or of tiles, 12,200 for 50 million pixels in tiles of 64 x 64.
_MAX_TIFF_NUMBERS = 20_000
# Scans of a progressive JPEG; encoders write about 10. Each passes over the whole picture, however few bytes it has.
_MAX_JPEG_SCANS = 100

_ORIENTATION_TAG = 0x0112
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")
# TIFF 6.0 section 2: types whose values stay bytes in Pillow (BYTE, ASCII, SBYTE, UNDEFINED).
_BYTE_TYPES = frozenset({1, 2, 6, 7})
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}

# Formats that are images and that Argus does not read: first bytes, name for the message.
_KNOWN_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"II+\0", "BigTIFF"),
    (b"MM\0+", "BigTIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xffO\xffQ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\1\0", "icon (ICO)"),
    (b"\0\0\2\0", "cursor (CUR)"),
    (b"icns", "icon (ICNS)"),
    (b"DDS ", "DDS"),
    (b"qoif", "QOI"),
    (b"v/1\1", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript"),
    (b"P1\n", "PBM"),
    (b"P2\n", "PGM"),
    (b"P3\n", "PPM"),
    (b"P4\n", "PBM"),
    (b"P5\n", "PGM"),
    (b"P6\n", "PPM"),
)
# ISO 14496-12 brands of HEIF stills (ISO 23008-12 and Apple), the format of iPhone photos.
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_SVG = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?(?:<!DOCTYPE svg|<svg)", re.I | re.S)


class BoundedReader(io.BytesIO):
    """A file in memory that refuses to be read in more than `_MAX_HEADER_READS` pieces until `lift_bound` is called.

    One counter covers every Python header loop of every Pillow plugin, those of versions to come included.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads_left = _MAX_HEADER_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads_left -= 1
        if self._reads_left < 0:
            raise InvalidMedia("the image's headers are in too many pieces to be honest")
        return super().read(size)

    def lift_bound(self) -> None:
        """From here on C code reads (pixel decoding), and the number of reads follows from the file's size."""
        self._reads_left = 1 << 62


def sniff_format(data: bytes) -> ImageFormat:
    """The format that the first bytes announce.

    Raises:
        UnsupportedMedia: `unsupported_image_format`, an image format (or document) that Argus does not read.
        InvalidMedia: `not_an_image`.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith((b"II*\0", b"MM\0*")):
        return "TIFF"
    brands = _brands(data)
    if brands & _AVIF_BRANDS:
        return "AVIF"
    # Two letters prove nothing: text can start with "BM", so the size of the second header (12 to 124) must be there.
    if data.startswith(b"BM") and len(data) > 17 and 12 <= int.from_bytes(data[14:18], "little") <= 124:
        return "BMP"
    raise _not_readable(data, brands)


def _brands(data: bytes) -> set[bytes]:
    """Major and compatible brands of an ISO base media file (ISO 14496-12 section 4.3); empty for anything else."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 256, len(data))
    return {data[8:12], *(data[i : i + 4] for i in range(16, end, 4))}


def _not_readable(data: bytes, brands: set[bytes]) -> InvalidMedia | UnsupportedMedia:
    found = next((name for magic, name in _KNOWN_OTHERS if data.startswith(magic)), None)
    if brands & _HEIF_BRANDS:
        found = "HEIC"
    elif _SVG.match(data[:1024]):
        found = "SVG"
    if found is not None:
        return UnsupportedMedia(
            f"{found} is not read; send JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF", code="unsupported_image_format"
        )
    kind = "text" if data[:64].isascii() and data[:64].decode("ascii").strip().isprintable() else "data"
    return InvalidMedia(f"{len(data):,} bytes of {kind} that are not an image in any known format", code="not_an_image")


def check_structure(kind: ImageFormat, data: bytes) -> bytes | None:
    """Bound the cost of the headers that `BoundedReader` cannot see, and find a PNG's EXIF wherever it stands.

    Returns the content of a PNG's eXIf chunk; None for the other formats.

    Raises:
        InvalidMedia: `invalid_image`.
    """
    if kind == "PNG":
        return _check_png(data)
    if kind == "TIFF":
        _check_tiff(data)
    return None


def check_scans(data: bytes) -> None:
    """Bound the scans of a JPEG (ITU-T T.81 B.2.3), since thousands of empty ones keep a decoder busy for hours.

    For the decoder only: counting takes about 1 ms for each MB, and scans cost nothing before they are decoded.
    Compressed data never hold the mark FF DA, metadata and a video appended to a phone's picture hold it by chance
    once in 65,536 bytes; counting it with twice that allowance saves following the markers through the file.
    """
    limit = _MAX_JPEG_SCANS + 2 * (len(data) >> 16)
    if data.count(b"\xff\xda") > limit:
        raise InvalidMedia(f"the JPEG has more than {limit} scans")


def _check_png(data: bytes) -> bytes | None:
    """PNG (3rd edition) section 5.3: chunks of length, type, data, checksum; eXIf may follow the pixels (11.3.4.5)."""
    exif, compressed, position = None, 0, 8
    for _ in range(_MAX_PNG_CHUNKS):
        if position + 8 > len(data):
            return exif
        length, chunk = cast("tuple[int, bytes]", struct.unpack_from(">I4s", data, position))
        if chunk in (b"iCCP", b"zTXt", b"iTXt"):
            compressed += 1
            if compressed > _MAX_PNG_COMPRESSED:
                raise InvalidMedia(f"the PNG has more than {_MAX_PNG_COMPRESSED} compressed profiles and texts")
        elif chunk == b"eXIf":
            exif = data[position + 8 : position + 8 + length]
        elif chunk == b"IEND":
            return exif
        position += 12 + length
    raise InvalidMedia(f"the PNG has more than {_MAX_PNG_CHUNKS:,} chunks")


def is_animated_gif(data: bytes) -> bool:
    """Whether a second image descriptor follows the first (GIF89a section 20).

    Not asked of Pillow, whose search makes two Python calls for every 255 bytes: 3 ms for 1 MB, this takes 0.2 ms.
    Damage, or a first frame in more than 100,000 blocks, ends the search with what was found: False.
    """
    frames, blocks, end = 0, 0, len(data)
    position = 13 + _palette_bytes(data[10:11])
    while position + 10 < end and blocks < _MAX_GIF_BLOCKS:
        marker = data[position]
        if marker == 0x2C:  # image descriptor
            frames += 1
            if frames == 2:
                return True
            position += 11 + _palette_bytes(data[position + 9 : position + 10])
        elif marker == 0x21:  # extension
            position += 2
        else:
            return False
        while position < end and data[position] and blocks < _MAX_GIF_BLOCKS:
            position += data[position] + 1
            blocks += 1
        position += 1
        blocks += 1
    return False


def _palette_bytes(flags: bytes) -> int:
    """Size of the colour table that a GIF flag byte announces: 3 x 2^(n+1) bytes (GIF89a sections 18 and 20)."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def ends_early(kind: ImageFormat, data: bytes) -> bool:
    """Whether a file that could not be read was cut, by the length or end mark that its format has.

    Only asked after a failure, to name its cause; a readable file without its end mark is not refused.
    """
    match kind:
        case "JPEG":
            return b"\xff\xd9" not in data
        case "PNG":
            return b"IEND" not in data
        case "GIF":
            return not data.rstrip(b"\0").endswith(b";")
        case "WEBP":
            return len(data) < 8 + int.from_bytes(data[4:8], "little")
        case "BMP":
            return len(data) < int.from_bytes(data[2:6], "little")
        case "TIFF":
            return _tiff_ends_early(data)
        case "AVIF":
            return _boxes_end_early(data)


def _tiff_ends_early(data: bytes) -> bool:
    """Whether the directory, or a value that it points to, lies beyond the end."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    start = int.from_bytes(data[4:8], order)
    if len(data) < start + 6 + 12 * int.from_bytes(data[start : start + 2], order):
        return True
    return any(
        count * _TYPE_BYTES.get(kind, 0) > max(4, len(data) - int.from_bytes(value, order))
        for _, kind, count, value in _directory(data)
    )


def _boxes_end_early(data: bytes) -> bool:
    """Whether the last box (ISO 14496-12 section 4.2) is cut, or the one with the pixels is missing."""
    position = 0
    for _ in range(_MAX_DIRECTORY_ENTRIES):
        size = int.from_bytes(data[position : position + 4], "big")
        if size < 8 or position + size > len(data):
            break
        position += size
    # A box of size 0, which runs to the end of the file, is none that was cut.
    return b"mdat" not in data or data[position : position + 4] not in (b"", b"\0\0\0\0")


def _check_tiff(data: bytes) -> None:
    """TIFF 6.0 section 2: the first directory has few entries, and no entry has a number for every pixel."""
    for count, (_, kind, numbers, _) in enumerate(_directory(data), start=1):
        if count > _MAX_DIRECTORY_ENTRIES:
            raise InvalidMedia(f"the TIFF directory has more than {_MAX_DIRECTORY_ENTRIES} entries")
        if numbers > _MAX_TIFF_NUMBERS and kind not in _BYTE_TYPES:
            raise InvalidMedia(f"a TIFF entry has {numbers:,} numbers; the limit is {_MAX_TIFF_NUMBERS:,}")


def _directory(tiff: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Tag, type, count and raw value of each entry of the first directory, as far as the bytes go."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return
    start: int = struct.unpack_from(order + "I", tiff, 4)[0]
    if start + 2 > len(tiff):
        return
    entries: int = struct.unpack_from(order + "H", tiff, start)[0]
    whole = min(entries, (len(tiff) - start - 2) // 12)
    for i in range(whole):
        yield struct.unpack_from(order + "HHI4s", tiff, start + 2 + 12 * i)


def exif_orientation(exif: bytes | None, xmp: bytes | str | None) -> int:
    """EXIF orientation, 1 to 8 (EXIF 2.32 section 4.6.4 A, tag 0x0112), else XMP's `tiff:Orientation`, else 1.

    Damaged metadata mean 1, as in browsers: a good picture is not refused for a bad tag. Read by hand because Pillow
    builds a directory object for every tag, ten times the time, and its cost is the file's choice.
    """
    tiff = (exif or b"").removeprefix(b"Exif\0\0")
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    for count, (tag, _, _, value) in enumerate(_directory(tiff)):
        if count >= _MAX_DIRECTORY_ENTRIES:
            break
        if tag == _ORIENTATION_TAG:
            orientation = int.from_bytes(value[:2], order)
            return orientation if 1 <= orientation <= 8 else 1
    match = _XMP_ORIENTATION.search(xmp.encode() if isinstance(xmp, str) else xmp or b"")
    return int(match[1]) if match else 1
