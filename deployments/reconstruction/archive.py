"""Photos in a zip file of a stranger: read one at a time into bounded memory, never written under their own names."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Iterator
from typing import Final

from serve.errors import InvalidMedia, PayloadTooLarge

# Entries of an archive, photos or not.
_MOST_ENTRIES: Final = 10_000
# Bytes of one entry unpacked, and of all of them.
_MOST_ENTRY_BYTES: Final = 64 * 1024 * 1024
_MOST_BYTES: Final = 4 * 1024**3
# End of central directory (APPNOTE 6.3.10, section 4.3.16): signature, and where the count of entries and the size of
# the directory stand.
_END: Final = b"PK\5\6"
_PHOTO: Final = re.compile(r"\.(jpe?g|png|webp|tiff?|bmp|avif|gif)$", re.IGNORECASE)


def is_zip(data: bytes) -> bool:
    """Whether it begins, or ends, as a zip file does."""
    return data[:4] == b"PK\3\4" or data[:4] == _END


def photo_names(data: bytes) -> list[str]:
    """Names of the photos in an archive, in natural order; folders' leftovers of other systems are none.

    Raises:
        InvalidMedia: `invalid_archive`: damaged, encrypted, or without photos.
        PayloadTooLarge: `archive_too_large`: more entries or bytes than are unpacked, as it states them.
    """
    with _opened(data) as archive:
        return [entry.filename for entry in _photos(archive)]


def photos(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the photos, in natural order; errors as of `photo_names`, also of what an archive conceals."""
    total = 0
    with _opened(data) as archive:
        for entry in _photos(archive):
            content = _read(archive, entry)
            total += len(content)
            if total > _MOST_BYTES:
                raise _too_large()
            yield entry.filename, content


def _opened(data: bytes) -> zipfile.ZipFile:
    at = data.rfind(_END, max(0, len(data) - 66_000))
    if at < 0 or len(data) < at + 22:
        raise _invalid("its end is missing")
    entries, size = struct.unpack_from("<HI", data, at + 10)
    # 0xFFFF stands for a count in a zip64 record; nobody photographs that much. Python makes an object of each.
    if entries > _MOST_ENTRIES or size > _MOST_ENTRIES * 512:
        raise PayloadTooLarge(f"The archive has more than {_MOST_ENTRIES:,} entries.", code="archive_too_large")
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, UnicodeDecodeError) as error:
        raise _invalid(str(error)) from error


def _photos(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    found = [entry for entry in archive.infolist() if _is_photo(entry.filename)]
    if not found:
        raise InvalidMedia("The archive holds no photos (JPEG, PNG, WebP, TIFF, BMP, AVIF).", code="invalid_archive")
    if any(entry.flag_bits & 1 for entry in found):
        raise _invalid("it is encrypted")
    if max(entry.file_size for entry in found) > _MOST_ENTRY_BYTES or sum(e.file_size for e in found) > _MOST_BYTES:
        raise _too_large()
    return sorted(found, key=lambda entry: natural(entry.filename))


def _is_photo(name: str) -> bool:
    hidden = any(re.match(r"\.[^./]|__MACOSX$", part) for part in name.split("/"))
    return not hidden and _PHOTO.search(name) is not None


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(entry) as file:
            content = file.read(_MOST_ENTRY_BYTES + 1)  # what it states of its size need not be true
    except Exception as error:  # zipfile passes on whatever its decompressors raise
        raise _invalid(f"{entry.filename[:80]!r} cannot be unpacked: {str(error)[:200]}") from error
    if len(content) > _MOST_ENTRY_BYTES:
        raise _too_large()
    return content


def natural(name: str) -> list[tuple[int, str]]:
    """A key that puts photo 9 before photo 10."""
    return [
        (int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.findall(r"[0-9]{1,18}|[^0-9]+", name)
    ]


def _invalid(why: str) -> InvalidMedia:
    return InvalidMedia(f"The archive cannot be read: {why}.", code="invalid_archive")


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The archive unpacks to more than {_MOST_ENTRY_BYTES >> 20} MiB a photo or {_MOST_BYTES >> 30} GiB in all.",
        code="archive_too_large",
    )
