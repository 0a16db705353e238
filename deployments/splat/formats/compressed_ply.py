"""Compressed PLY files of PlayCanvas (SuperSplat): chunks of 256 Gaussians, in each the positions, logarithms of scales
and colours between that chunk's least and most, 16 bytes a Gaussian, and a byte for each further harmonic.

https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/compressed-ply
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from deployments.splat.formats.checks import check_count, checked, refuse
from deployments.splat.formats.packing import (
    MOST_OF_OTHERS,
    Floats,
    Ints,
    UInt8,
    along_curve,
    to_byte,
    with_largest,
    without_largest,
)
from deployments.splat.formats.ply_header import Element, parse_elements
from deployments.splat.gaussians import SH_C0, Float32, Gaussians

_CHUNK: Final = 256
_BITS: Final = (11, 10, 11)
# Bytes of harmonics stand for -4 to 4.
_SH_RANGE: Final = 8.0
_LARGEST_LOG_SCALE: Final = 20.0
_BOUNDS: Final = tuple(f"{end}_{axis}" for end in ("min", "max") for axis in "xyz")
_SCALE_BOUNDS: Final = tuple(f"{end}_scale_{axis}" for end in ("min", "max") for axis in "xyz")
_COLOUR_BOUNDS: Final = tuple(f"{end}_{channel}" for end in ("min", "max") for channel in "rgb")
_PACKED: Final = ("packed_position", "packed_rotation", "packed_scale", "packed_color")


def read(data: bytes, max_gaussians: int) -> Gaussians:
    """The scene in a file.

    Raises:
        InvalidMedia: `invalid_scene`.
        PayloadTooLarge: `too_many_gaussians`.
    """
    elements, form, start = parse_elements(data)
    if form != "binary_little_endian":
        raise refuse(f"The compressed PLY file is {form}; such files are binary_little_endian.")
    count, harmonics = _checked(elements)
    check_count(count, max_gaussians)
    needed = start + sum(element.count * element.record.itemsize for element in elements)
    if len(data) < needed:
        raise refuse(f"The file is cut off: its header announces {needed:,} bytes, it has {len(data):,}.")
    tables = []
    for element in elements:
        tables.append(np.frombuffer(data, element.record, element.count, start))
        start += element.count * element.record.itemsize
    chunks, rows = tables[0], tables[1]
    which = np.arange(count) // _CHUNK
    channels = _split(rows["packed_color"], (8, 8, 8, 8)) / 255
    opacities = channels[:, 3]
    colours: Floats = channels[:, :3]
    if "min_r" in (chunks.dtype.names or ()):
        colours = _between(chunks, _COLOUR_BOUNDS, which, colours)
    sh = np.empty((count, 1 + harmonics, 3), np.float32)
    sh[:, 0] = (colours - 0.5) / SH_C0
    if harmonics:
        sh[:, 1:] = _harmonics(tables[2], harmonics)
    scales = np.exp(_between(chunks, _SCALE_BOUNDS, which, _fractions(rows["packed_scale"])))
    means = _between(chunks, _BOUNDS, which, _fractions(rows["packed_position"]))
    return checked(means, _quats(rows["packed_rotation"]), scales, opacities, sh)


def write(gaussians: Gaussians) -> bytes:
    """A file; neighbours share a chunk, so that its least and most are close together."""
    chosen = gaussians.select(along_curve(gaussians.means))
    count, harmonics = len(chosen), chosen.sh.shape[1] - 1
    log_scales = np.clip(np.log(chosen.scales), -_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE)
    colours = 0.5 + SH_C0 * chosen.sh[:, 0]
    starts = np.arange(0, count, _CHUNK)
    which = np.arange(count) // _CHUNK
    chunks, fractions = [], []
    for values in (chosen.means, log_scales, colours):
        least, most = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
        extent = np.where(most > least, most - least, 1)
        chunks += [least, most]
        fractions.append((values - least[which]) / extent[which])
    largest, others = without_largest(chosen.quats)
    rows = np.empty((count, 4), "<u4")
    rows[:, 0] = _join(fractions[0], _BITS)
    rows[:, 1] = _join(others / (2 * MOST_OF_OTHERS) + 0.5, (10, 10, 10)) | (largest.astype(np.uint32) << 30)
    rows[:, 2] = _join(fractions[1], _BITS)
    rows[:, 3] = _join(np.concatenate([fractions[2], chosen.opacities[:, None]], axis=1), (8, 8, 8, 8))
    body = [np.concatenate(chunks, axis=1).astype("<f4").tobytes(), rows.tobytes()]
    if harmonics:
        # The reader takes the middle of a byte's bin.
        rest = np.empty((count, 3, harmonics), np.uint8)
        for channel in range(3):
            rest[:, channel] = to_byte((chosen.sh[:, 1:, channel] / _SH_RANGE + 0.5) * 256 - 0.5)
        body.append(rest.tobytes())
    return b"".join([_header(count, len(starts), harmonics), *body])


def _header(count: int, chunks: int, harmonics: int) -> bytes:
    lines = ["ply", "format binary_little_endian 1.0", f"element chunk {chunks}"]
    lines += [f"property float {name}" for name in (*_BOUNDS, *_SCALE_BOUNDS, *_COLOUR_BOUNDS)]
    lines += [f"element vertex {count}", *(f"property uint {name}" for name in _PACKED)]
    if harmonics:
        lines += [f"element sh {count}", *(f"property uchar f_rest_{index}" for index in range(3 * harmonics))]
    return "\n".join([*lines, "end_header\n"]).encode()


def _checked(elements: list[Element]) -> tuple[int, int]:
    """Gaussians, and harmonics above degree 0 a channel; refuses tables that are not those of the format."""
    names = [element.name for element in elements]
    if names not in (["chunk", "vertex"], ["chunk", "vertex", "sh"]):
        raise refuse(f"A compressed PLY file has chunk, vertex and perhaps sh; this one has {', '.join(names)[:80]}.")
    chunk, vertex = elements[:2]
    kinds = dict(chunk.properties)
    required = [*_BOUNDS, *_SCALE_BOUNDS, *(_COLOUR_BOUNDS if "min_r" in kinds else ())]
    if any(kinds.get(name) != "<f4" for name in required):
        raise refuse(f"Chunks of a compressed PLY file have the floats {', '.join(required)}.")
    if any(dict(vertex.properties).get(name) != "<u4" for name in _PACKED):
        raise refuse(f"Vertices of a compressed PLY file have the unsigned integers {', '.join(_PACKED)}.")
    if chunk.count != -(-vertex.count // _CHUNK):
        raise refuse(f"{vertex.count:,} Gaussians do not fit {chunk.count:,} chunks of {_CHUNK}.")
    if len(elements) == 2:
        return vertex.count, 0
    sh = elements[2]
    if sh.count != vertex.count or len(sh.properties) not in (9, 24, 45):
        raise refuse("Element sh of a compressed PLY file has 9, 24 or 45 properties, and one row a Gaussian.")
    if list(sh.properties) != [(f"f_rest_{index}", "u1") for index in range(len(sh.properties))]:
        raise refuse("Element sh of a compressed PLY file has bytes named f_rest_0 and on, in order.")
    return vertex.count, len(sh.properties) // 3


def _between(chunks: npt.NDArray[Any], bounds: tuple[str, ...], which: Ints, fractions: Floats) -> Floats:
    least, most = (np.stack([chunks[name] for name in names], axis=1) for names in (bounds[:3], bounds[3:]))
    with np.errstate(all="ignore"):  # what is not finite is refused later
        values: Floats = least[which] * (1 - fractions) + most[which] * fractions
    return values


def _harmonics(rows: npt.NDArray[Any], harmonics: int) -> Float32:
    """(N, K - 1, 3)."""
    raw: UInt8 = rows.view(np.uint8).reshape(len(rows), 3, harmonics)
    middle = (np.arange(256) + 0.5) / 256
    middle[[0, 255]] = 0, 1
    table = ((middle - 0.5) * _SH_RANGE).astype(np.float32)
    return table[raw].transpose(0, 2, 1)


def _fractions(packed: Ints) -> Floats:
    return np.asarray(_split(packed, _BITS) / np.array([(1 << bits) - 1 for bits in _BITS]))


def _quats(packed: Ints) -> Float32:
    others = (_split(packed, (10, 10, 10)) / 1023 - 0.5) * (2 * MOST_OF_OTHERS)
    return with_largest(packed >> 30, others)


def _split(packed: Ints, bits: tuple[int, ...]) -> Ints:
    """Fields (N, F) of unsigned integers, the highest first."""
    shifts = [sum(bits[index + 1 :]) for index in range(len(bits))]
    return np.stack([(packed >> shift) & ((1 << width) - 1) for shift, width in zip(shifts, bits, strict=True)], axis=1)


def _join(fractions: Floats, bits: tuple[int, ...]) -> npt.NDArray[np.uint32]:
    packed = np.zeros(len(fractions), np.uint32)
    for index, width in enumerate(bits):
        most = (1 << width) - 1
        packed <<= np.uint32(width)
        packed |= np.clip(np.rint(fractions[:, index] * most), 0, most).astype(np.uint32)
    return packed
