"""Pages of a TIFF: a chain of directories (TIFF 6.0 section 2), each of which describes a picture.

A directory's offsets count from the start of the file, so a copy whose header names another directory is a file that
begins with that page. It is checked and decoded as every image is, one page at a time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice

from serve.errors import InvalidMedia

# As many as a reader may be configured to read in one request; following them takes about 10 ms.
_MOST_DIRECTORIES = 10_000
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
# TIFF 6.0 section 8: the lowest tag, so it stands first; bit 0 is a smaller copy of another page, bit 2 a mask of it.
_SUBFILE_TAG, _BESIDE_A_PAGE = 254, 0b101
_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION = 274, 282, 283
_SHORT, _RATIONAL = 3, 5
# Orientations from this one on exchange width and height.
_FIRST_TURNED = 5
_MOST_ASPECT = 4.0


def page_count(data: bytes) -> int:
    """Pages of an image file: directories of a TIFF but thumbnails and masks; 1 for any other format.

    Raises:
        InvalidMedia: `invalid_document`: more directories than anyone writes.
    """
    return max(1, sum(1 for _ in _pages(data)))


def one_page(data: bytes, number: int) -> bytes:
    """An image file that begins with the page of that number, from 1 to `page_count`."""
    if number == 1:
        return data
    offset = next(islice(_pages(data), number - 1, None))
    return b"".join((data[:4], struct.pack(_ORDERS[data[:4]] + "I", offset), memoryview(data)[8:]))


def pixel_aspect(data: bytes) -> float:
    """How high the pixels of the first page of an image file are, in multiples of their width, as it is displayed.

    A fax of standard resolution has 204 pixels an inch across and 98 down (ITU-T T.4), so its pixels are 2.08 high.

    Returns:
        1 for any other format, without both resolutions (TIFF 6.0 section 8), and where they differ beyond belief.
    """
    order = _ORDERS.get(data[:4])
    if order is None or len(data) < 8:
        return 1.0
    values = _values(data, order, struct.unpack_from(order + "I", data, 4)[0])
    across, down = values.get(_X_RESOLUTION, 0.0), values.get(_Y_RESOLUTION, 0.0)
    if not across or not down or not 1 / _MOST_ASPECT <= across / down <= _MOST_ASPECT:
        return 1.0
    is_turned = values.get(_ORIENTATION, 1.0) >= _FIRST_TURNED
    return down / across if is_turned else across / down


def _values(data: bytes, order: str, offset: int) -> dict[int, float]:
    """Single short and rational values of a directory by their tags, as far as they lie in the file."""
    values: dict[int, float] = {}
    entries: int = struct.unpack_from(order + "H", data, offset)[0] if offset + 2 <= len(data) else 0
    for at in range(offset + 2, min(offset + 2 + 12 * entries, len(data) - 11), 12):
        tag, form, count, place = struct.unpack_from(order + "HHII", data, at)
        if count == 1 and form == _SHORT:
            values[tag] = float(struct.unpack_from(order + "H", data, at + 8)[0])
        elif count == 1 and form == _RATIONAL and place + 8 <= len(data):
            above, below = struct.unpack_from(order + "II", data, place)
            values[tag] = above / below if below else 0.0
    return values


def _pages(data: bytes) -> Iterator[int]:
    """Where the directories of pages begin; the first one is a page whatever it says of itself.

    A chain that comes back to itself ends there. A directory that lies beyond the end, as in a file that was cut, is
    the last one: a page that cannot be read.
    """
    order = _ORDERS.get(data[:4])
    if order is None or len(data) < 8:
        return
    seen: set[int] = set()
    offset: int = struct.unpack_from(order + "I", data, 4)[0]
    while offset and offset not in seen:
        seen.add(offset)
        if len(seen) > _MOST_DIRECTORIES:
            message = f"The TIFF has more than {_MOST_DIRECTORIES:,} directories."
            raise InvalidMedia(message, code="invalid_document")
        if len(seen) == 1 or not _is_beside_a_page(data, order, offset):
            yield offset
        offset = _after(data, order, offset)


def _after(data: bytes, order: str, offset: int) -> int:
    """Where the next directory begins; 0 when there is none, or this one is cut."""
    if offset + 2 > len(data):
        return 0
    entries: int = struct.unpack_from(order + "H", data, offset)[0]
    end = offset + 2 + 12 * entries
    return int(struct.unpack_from(order + "I", data, end)[0]) if end + 4 <= len(data) else 0


def _is_beside_a_page(data: bytes, order: str, offset: int) -> bool:
    if offset + 14 > len(data):
        return False
    _, tag, _, _, value = struct.unpack_from(order + "HHHII", data, offset)
    return tag == _SUBFILE_TAG and bool(value & _BESIDE_A_PAGE)
