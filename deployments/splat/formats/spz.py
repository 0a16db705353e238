"""SPZ files of Niantic (https://github.com/nianticlabs/spz): 19 bytes a Gaussian and a byte for each further harmonic,
one kind of value after the other, in gzip. Versions 2 and 3 are read here and 3 is written; version 4, in Zstandard
streams, is left to gaussforge.

By the format's rule its axes are right, up, back; those of PLY files, and so ours, are right, down, forward: reading
and writing turn the scene by half a turn about x.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt

from deployments.splat.formats import forge
from deployments.splat.formats.checks import check_count, checked, refuse
from deployments.splat.formats.packing import MOST_OF_OTHERS, UInt8, to_byte, with_largest, without_largest
from deployments.splat.gaussians import Float32, Gaussians
from serve.errors import Unsupported

_HEADER: Final = struct.Struct("<4sIIBBBB")
# Of version 4: the same fields, the streams, and where their table lies.
_HEADER_4: Final = struct.Struct("<4sIIBBBBI")
# Bytes packed and unpacked.
_STREAM: Final = struct.Struct("<QQ")
_MAGIC: Final = b"NGSP"
_DC_SCALE: Final = 0.15
_GZIP: Final = 31  # wbits
# Level 6 takes three times as long for 4 % less.
_LEVEL: Final = 4
# Bytes of what others may put behind the Gaussians; it is left alone.
_MOST_EXTENSIONS: Final = 1 << 20
# What a coordinate can be without bits after its point, and the steps that the middle 99 % of a scene must have.
_MOST_REACH: Final = (1 << 23) - 1
_LEAST_STEPS: Final = 256
# The logarithm of a scale is a byte's sixteenth less 10: from -10 to 5.9375, and what is rounded to that.
_LEAST_SCALE: Final = math.exp(-0.5 / 16 - 10)
_MOST_SCALE: Final = math.exp(255.5 / 16 - 10)
# Of the least scale, how many the middle 99 % of a scene must measure for nobody to see what was smaller.
_LEAST_SCALES: Final = 1024
# Steps of a byte of harmonics by degree, as the format's own writer has them: 5 bits for degree 1, 4 beyond.
_STEPS: Final = (8,) * 3 + (16,) * 12
# What half a turn about x does to positions, quaternions and harmonics 1 to 15.
_TURN: Final = np.array([1, -1, -1], np.float32)
_TURN_QUATS: Final = np.array([1, 1, -1, -1], np.float32)
_TURN_SH: Final = np.array([-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1], np.float32)


def read(data: bytes, max_gaussians: int) -> Gaussians:
    """The scene in a file.

    Raises:
        InvalidMedia: `invalid_scene`.
        PayloadTooLarge: `too_many_gaussians`.
    """
    if data.startswith(_MAGIC):
        count, version, degree, _ = _header(data[: _HEADER.size], (4,), max_gaussians)
        _check_streams(data, [count * width for width in _widths(version, degree)])
        return turned(forge.read_spz(data, count))
    unpacker = zlib.decompressobj(_GZIP)
    try:
        head = unpacker.decompress(data, _HEADER.size)
        count, version, degree, fraction_bits = _header(head, (2, 3), max_gaussians)
        harmonics = (degree + 1) ** 2 - 1
        widths = _widths(version, degree)
        # Never more than the header announces, however much the stream holds; then its end, where its checksum is.
        body = unpacker.decompress(unpacker.unconsumed_tail, count * sum(widths))
        unpacker.decompress(unpacker.unconsumed_tail, _MOST_EXTENSIONS)
    except zlib.error as error:
        raise refuse(f"The SPZ file's gzip stream is damaged: {error}.") from None
    if len(body) < count * sum(widths):
        raise refuse(f"The SPZ file is cut off: {count:,} Gaussians need {count * sum(widths):,} bytes unpacked.")
    if not unpacker.eof:
        raise refuse("The SPZ file is cut off at its end, or has far more in it than its Gaussians.")
    ends = np.cumsum([count * width for width in widths])[:-1]
    parts = np.split(np.frombuffer(body, np.uint8), ends)
    positions, alphas, colours, scales, rotations, rest = (part.reshape(count, -1) for part in parts)
    sh = np.empty((count, 1 + harmonics, 3), np.float32)
    sh[:, 0] = (colours / np.float32(255) - 0.5) / _DC_SCALE
    sh[:, 1:] = (rest.reshape(count, harmonics, 3).astype(np.float32) - 128) / 128
    return turned(
        checked(
            _positions(positions, fraction_bits),
            _quats_2(rotations) if version == 2 else _quats_3(rotations),
            np.exp(scales.astype(np.float32) / 16 - 10),
            alphas[:, 0].astype(np.float32) / 255,
            sh,
        )
    )


def write(gaussians: Gaussians) -> bytes:
    """A file of version 3.

    Raises:
        Unsupported: `scene_too_wide`, `scene_too_small`: see `_fraction_bits` and `_check_scales`.
    """
    scene = turned(gaussians)
    size = _size(scene)
    fraction_bits = _fraction_bits(scene, size)
    _check_scales(scene, size)
    count, harmonics = len(scene), scene.sh.shape[1] - 1
    fixed = np.rint(scene.means.astype(np.float64) * (1 << fraction_bits))
    positions = fixed.astype("<i4").view(np.uint8).reshape(count, 3, 4)[:, :, :3]
    rest = np.empty((count, harmonics, 3), np.uint8)
    for index, step in enumerate(_STEPS[:harmonics]):
        rest[:, index] = to_byte(np.rint(scene.sh[:, index + 1] * (128 / step)) * step + 128)
    parts = (
        positions,
        to_byte(scene.opacities * 255),
        to_byte((scene.sh[:, 0] * _DC_SCALE + 0.5) * 255),
        to_byte((np.log(scene.scales) + 10) * 16),
        _packed_quats(scene.quats),
        rest,
    )
    head = _HEADER.pack(_MAGIC, 3, count, scene.sh_degree, fraction_bits, 0, 0)
    packer = zlib.compressobj(_LEVEL, wbits=_GZIP)
    begun = packer.compress(head)
    packed = [packer.compress(np.ascontiguousarray(part).data) for part in parts]
    return b"".join([begun, *packed, packer.flush()])


def turned(gaussians: Gaussians) -> Gaussians:
    """Half a turn about x, without the rounding of a general one."""
    sh = gaussians.sh.copy()
    sh[:, 1:] *= _TURN_SH[: sh.shape[1] - 1, None]
    return Gaussians(gaussians.means * _TURN, gaussians.quats * _TURN_QUATS, gaussians.scales, gaussians.opacities, sh)


def _size(scene: Gaussians) -> float:
    """Of the middle 99 %, along the longest axis."""
    least, most = np.percentile(scene.means.astype(np.float64), (0.5, 99.5), axis=0)
    return max(float((most - least).max()), float(np.median(scene.scales)))


def _check_scales(scene: Gaussians, size: float) -> None:
    """Raises `Unsupported`: `scene_too_wide` when a Gaussian would become smaller; `scene_too_small` when one would
    become larger, to be seen. One below e^-10 becomes as large as that, which is nothing in most scenes."""
    largest = float(scene.scales.max())
    if largest > _MOST_SCALE:
        raise Unsupported(
            f"SPZ holds scales up to {_MOST_SCALE:,.4g}; {int((scene.scales > _MOST_SCALE).any(axis=1).sum()):,} "
            f"Gaussians are larger, up to {largest:,.6g}. Delete them or scale the scene; or use another format.",
            code="scene_too_wide",
            param="format",
        )
    small = int((scene.scales < _LEAST_SCALE).any(axis=1).sum())
    if small and size < _LEAST_SCALES * _LEAST_SCALE:
        raise Unsupported(
            f"SPZ holds scales from {_LEAST_SCALE:.3g} on; {small:,} Gaussians are smaller, and most of this scene is "
            f"within {size:.3g}. Scale the scene; or use another format.",
            code="scene_too_small",
            param="format",
        )


def _fraction_bits(scene: Gaussians, size: float) -> int:
    """Bits after the point of a coordinate: as many of its 24 as the farthest Gaussian leaves.

    Raises:
        Unsupported: `scene_too_wide`: it leaves too few to tell the places of the others apart, or none at all.
    """
    reach = float(np.abs(scene.means).max())
    bits = min(max(22 - math.frexp(reach)[1], 0), 20)
    if reach > _MOST_REACH or size < _LEAST_STEPS / (1 << bits):
        raise Unsupported(
            f"SPZ holds a coordinate in 24 bits: with a Gaussian at {reach:,.6g}, places are whole multiples of "
            f"{1 / (1 << bits):.3g}, and most of this scene is within {size:.3g}. Crop what is far away, move the "
            "scene to the origin or scale it; or use another format.",
            code="scene_too_wide",
            param="format",
        )
    return bits


def _header(head: bytes, versions: tuple[int, ...], max_gaussians: int) -> tuple[int, int, int, int]:
    """Gaussians, version, degree of harmonics, bits after the point."""
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        raise refuse("The file is packed, but not an SPZ file: it does not begin with NGSP.")
    _, version, count, degree, fraction_bits, _, _ = _HEADER.unpack(head)
    if version not in versions:
        raise refuse(f"The SPZ file is of version {version}; 2, 3 and 4 are read.")
    if degree > 3:
        raise refuse(f"The SPZ file has spherical harmonics of degree {degree}; at most 3 are read.")
    if fraction_bits > 23:
        raise refuse(f"The SPZ file's positions have {fraction_bits} bits after the point; at most 23 fit.")
    check_count(count, max_gaussians)
    return count, version, degree, fraction_bits


def _widths(version: int, degree: int) -> tuple[int, ...]:
    """Bytes a Gaussian of positions, opacities, colours, scales, rotations and further harmonics."""
    return 9, 1, 3, 3, 3 if version == 2 else 4, 3 * ((degree + 1) ** 2 - 1)


def _check_streams(data: bytes, sizes: list[int]) -> None:
    """Refuses a file of version 4 whose table of streams announces other sizes unpacked, or more bytes than it has."""
    if len(data) < _HEADER_4.size:
        raise refuse("The SPZ file is cut off in its header.")
    *_, streams, place = _HEADER_4.unpack_from(data)
    wanted = [size for size in sizes if size]
    if streams < len(wanted) or len(data) < place + streams * _STREAM.size:
        raise refuse(f"The SPZ file has {streams} streams, or not all of their table; {len(wanted)} are right.")
    table = [_STREAM.unpack_from(data, place + index * _STREAM.size) for index in range(streams)]
    unpacked = [size for _, size in table]
    if unpacked[: len(wanted)] != wanted or sum(unpacked[len(wanted) :]) > _MOST_EXTENSIONS:
        raise refuse(f"The SPZ file's streams announce {unpacked[:8]} bytes unpacked; {wanted} are right.")
    if place + streams * _STREAM.size + sum(size for size, _ in table) > len(data):
        raise refuse("The SPZ file is cut off: its streams announce more bytes than it has.")


def _positions(raw: UInt8, fraction_bits: int) -> Float32:
    """From 24 bits, little-endian and signed."""
    wide = np.zeros((len(raw), 3, 4), np.uint8)
    wide[:, :, 1:] = raw.reshape(-1, 3, 3)
    fixed = wide.view("<i4")[:, :, 0] >> 8
    return (fixed / (1 << fraction_bits)).astype(np.float32)


def _quats_2(raw: UInt8) -> Float32:
    """x, y, z in a byte each; w is what is left, not negative."""
    others = raw.astype(np.float32) / 127.5 - 1
    return with_largest(np.zeros(len(raw), np.intp), others)


def _quats_3(raw: UInt8) -> Float32:
    """Of x, y, z, w the three smallest in a sign and 9 bits each, the last lowest; the largest's index in 2 bits."""
    packed = np.ascontiguousarray(raw).view("<u4")[:, 0]
    fields = np.stack([packed >> 20, packed >> 10, packed], axis=1).astype(np.int32)
    others = (fields & 511) * np.where(fields & 512, -1, 1) * (MOST_OF_OTHERS / 511)
    return np.roll(with_largest(packed >> 30, others), 1, axis=1)


def _packed_quats(quats: Float32) -> npt.NDArray[np.uint32]:
    largest, others = without_largest(np.roll(quats, -1, axis=1))
    sizes = np.minimum(np.rint(np.abs(others) * (511 / MOST_OF_OTHERS)), 511).astype(np.uint32)
    fields = sizes | np.where(others < 0, np.uint32(512), np.uint32(0))
    packed = largest.astype("<u4") << np.uint32(30)
    for index, shift in enumerate((20, 10, 0)):
        packed |= fields[:, index] << np.uint32(shift)
    return np.asarray(packed)
