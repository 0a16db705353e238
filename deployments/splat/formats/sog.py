"""SOG files of PlayCanvas: a ZIP of lossless WebP pictures in which a pixel is a Gaussian, and meta.json that says what
their bytes mean. Version 2 is read, the one with codebooks.

https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/sog
"""

from __future__ import annotations

import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from deployments.splat.formats.checks import LARGEST, check_count, checked, refuse
from deployments.splat.formats.packing import MOST_OF_OTHERS, UInt8, with_largest
from deployments.splat.formats.sog_write import write
from deployments.splat.gaussians import Float32, Gaussians

__all__ = ["read", "write"]

Float64 = npt.NDArray[np.float64]

# What zipfile raises of archives that are not as they should be, by the compression that they name.
_DAMAGED: Final = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError, RuntimeError),
    UnicodeError,
)

_MOST_MEMBERS: Final = 64
_MOST_META_BYTES: Final = 1_000_000
_MOST_PALETTE: Final = 65_536
# Pictures are rectangles, so they have some pixels more than Gaussians.
_SPARE_PIXELS: Final = 65_536
# The palette's picture has as many entries in a row.
_ENTRIES_A_ROW: Final = 64
_FIRST_TAG: Final = 252


def read(data: bytes, max_gaussians: int) -> Gaussians:
    """The scene in a file.

    Raises:
        InvalidMedia: `invalid_scene`.
        PayloadTooLarge: `too_many_gaussians`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _Reader(archive, max_gaussians).scene()
    except _DAMAGED as error:
        raise refuse(f"The SOG file's ZIP archive is damaged: {error}.") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise refuse(f"The SOG file's meta.json is not of version 2: {type(error).__name__}: {error}.") from error


class _Reader:
    """One archive; each member is read at most up to what `meta.json` makes necessary."""

    def __init__(self, archive: zipfile.ZipFile, max_gaussians: int) -> None:
        if len(archive.infolist()) > _MOST_MEMBERS:
            raise refuse(f"The SOG file has {len(archive.infolist()):,} members; at most {_MOST_MEMBERS} are read.")
        self._archive = archive
        self._meta: dict[str, Any] = json.loads(self._bytes("meta.json", _MOST_META_BYTES))
        if self._meta.get("version") != 2:
            raise refuse(f"The SOG file is of version {self._meta.get('version', 1)!r}; version 2 is read.")
        self._count = int(self._meta["count"])
        check_count(self._count, max_gaussians)

    def scene(self) -> Gaussians:
        meta = self._meta
        low, high = (self._pixels(meta["means"]["files"][index]).astype(np.float32) for index in (0, 1))
        # In float64: far from the origin a scene takes up the last digits of its logarithms.
        least, most = (_floats(meta["means"][end], 3) for end in ("mins", "maxs"))
        with np.errstate(over="ignore"):  # what is not finite is refused later
            logs = least + (most - least) * (low[:, :3] + 256 * high[:, :3]) / 65535
            means = np.sign(logs) * np.expm1(np.abs(logs))
            scales = np.exp(_looked_up(meta["scales"]["codebook"], self._pixels(meta["scales"]["files"][0])[:, :3]))
        colours = self._pixels(meta["sh0"]["files"][0])
        dc = _looked_up(meta["sh0"]["codebook"], colours[:, :3])[:, None]
        sh = np.concatenate([dc, self._harmonics()], axis=1) if meta.get("shN") else dc
        quats = self._pixels(meta["quats"]["files"][0])
        if quats[:, 3].min() < _FIRST_TAG:
            raise refuse(f"A rotation of the SOG file has the tag {quats[:, 3].min()}; 252 to 255 are right.")
        others = (quats[:, :3].astype(np.float32) / 255 * 2 - 1) * MOST_OF_OTHERS
        turns = with_largest(quats[:, 3] - _FIRST_TAG, others)
        return checked(means, turns, scales, colours[:, 3].astype(np.float32) / 255, sh)

    def _harmonics(self) -> Float32:
        """(N, K - 1, 3): each Gaussian's entry of the palette."""
        meta = self._meta["shN"]
        entries, bands = int(meta["count"]), int(meta["bands"])
        if not (1 <= entries <= _MOST_PALETTE and 1 <= bands <= 3):
            raise refuse(f"The SOG file's palette has {entries} entries of {bands} bands; 65,536 and 3 are the most.")
        harmonics = (bands + 1) ** 2 - 1
        labels = self._pixels(meta["files"][1]).astype(np.intp)
        which = labels[:, 0] + 256 * labels[:, 1]
        if which.max() >= entries:
            raise refuse(f"The SOG file names entry {which.max()} of a palette of {entries}.")
        rows = -(-entries // _ENTRIES_A_ROW)
        palette = self._picture(meta["files"][0], _ENTRIES_A_ROW * harmonics, rows)[:, :, :3]
        table = _looked_up(meta["codebook"], palette).reshape(rows * _ENTRIES_A_ROW, harmonics, 3)
        return np.ascontiguousarray(table[which])

    def _pixels(self, name: str) -> UInt8:
        """(N, 4): the first N pixels of a member."""
        return self._picture(name).reshape(-1, 4)[: self._count]

    def _picture(self, name: str, width: int | None = None, height: int | None = None) -> UInt8:
        """(height, width, 4) of a member; its size is checked before it is unpacked."""
        most = self._count * 2 + _SPARE_PIXELS
        # A palette's size is given; it may be larger than all else in a small scene.
        largest = most if width is None or height is None else width * height + _SPARE_PIXELS
        try:
            # A lossless picture of noise is a little larger than its pixels, of 4 bytes each.
            with Image.open(io.BytesIO(self._bytes(name, 8 * largest)), formats=["WEBP", "PNG"]) as picture:
                across, down = picture.size
                if width is None and not self._count <= across * down <= most:
                    raise refuse(f"{name} of the SOG file is {across} x {down}; it must hold {self._count:,} pixels.")
                if width is not None and (across, down) != (width, height):
                    raise refuse(f"{name} of the SOG file is {across} x {down}; {width} x {height} is right.")
                return np.asarray(picture.convert("RGBA"))
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
            raise refuse(f"{name} of the SOG file is not a picture that can be read: {error}.") from error

    def _bytes(self, name: str, most: int) -> bytes:
        with self._archive.open(name) as member:
            found = member.read(most + 1)
        if len(found) > most:
            raise refuse(f"{name} of the SOG file is larger than what belongs in it can be.")
        return found


def _floats(values: Sequence[float], count: int) -> Float64:
    array = np.asarray(values, np.float64)
    if array.shape != (count,) or not (np.abs(array) <= LARGEST).all():
        raise ValueError(f"{count} numbers were expected")
    return array


def _looked_up(codebook: Sequence[float], codes: npt.NDArray[np.uint8]) -> Float32:
    table = _floats(codebook, len(codebook)).astype(np.float32)
    if codes.max() >= len(table):
        raise ValueError(f"code {codes.max()} is beyond a codebook of {len(table)}")
    return table[codes]
