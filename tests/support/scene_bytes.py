"""Scene files made byte by byte for tests, right ones and wrong ones."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from deployments.splat import formats
from deployments.splat.gaussians import Gaussians
from tests.support.gaussians import random_scene


def forge(data: bytes, source: str, target: str, **options: Any) -> bytes:
    """A file in another format, by gaussforge."""
    from gaussforge import GaussForge

    result = GaussForge().convert(data, source, target, **options)
    assert "error" not in result, result
    converted: bytes = result["data"]
    return converted


def spz_by_hand(version: int, rotation: bytes) -> bytes:
    """One Gaussian: at (1, 2, -0.5) with 12 bits after the point, its scales e^0, e^-1, e^-2."""
    positions = b"".join(struct.pack("<i", round(value * 4096))[:3] for value in (1, 2, -0.5))
    body = positions + bytes([128]) + bytes([255, 0, 128]) + bytes([160, 144, 128]) + rotation
    return gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", version, 1, 0, 12, 0, 0) + body)


def ply_by_hand(
    properties: dict[str, float], *, form: str = "binary_little_endian", count: int = 1, kind: str = "float"
) -> bytes:
    """One vertex with these properties; `count` is what the header says of their number."""
    lines = ["ply", f"format {form} 1.0", "comment by hand", f"element vertex {count}"]
    lines += [f"property {kind} {name}" for name in properties]
    code = {"float": "f", "double": "d", "int": "i"}[kind]
    values = (int(value) if kind == "int" else value for value in properties.values())
    head = ("\n".join([*lines, "end_header"]) + "\n").encode()
    if form == "ascii":
        return head + " ".join(map(repr, values)).encode() + b"\n"
    order = ">" if form == "binary_big_endian" else "<"
    return head + struct.pack(f"{order}{len(properties)}{code}", *values)


# One Gaussian of a PLY file.
ONE: dict[str, float] = {
    **dict.fromkeys(("x", "y", "z"), 1.5),
    **dict.fromkeys(("f_dc_0", "f_dc_1", "f_dc_2"), 0.25),
    "opacity": 0.0,
    **dict.fromkeys(("scale_0", "scale_1", "scale_2"), -1.0),
    "rot_0": 2.0,
    **dict.fromkeys(("rot_1", "rot_2", "rot_3"), 0.0),
}


def without(*names: str) -> dict[str, float]:
    """`ONE` without some properties."""
    return {name: value for name, value in ONE.items() if name not in names}


def sog_with(scene: Gaussians | None = None, **changes: Any) -> bytes:
    """A file of a scene, or of two Gaussians, with other entries in its meta.json, or other pictures for bytes."""
    with zipfile.ZipFile(io.BytesIO(formats.write(scene or random_scene(2, 1), "sog"))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    meta = json.loads(members["meta.json"])
    for name, value in changes.items():
        if isinstance(value, bytes):
            members[f"{name}.webp"] = value
        else:
            meta[name] = value
    members["meta.json"] = json.dumps(meta).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def webp(width: int, height: int, value: int = 255) -> bytes:
    """A lossless picture of one value."""
    return lossless(np.full((height, width, 4), value, np.uint8))


def lossless(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A picture (height, width, 3 or 4) as WebP."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


def spz_4(unpacked: dict[int, int]) -> bytes:
    """A file of version 4 of two Gaussians whose table of streams says something else of some."""
    data = bytearray(forge(formats.write(random_scene(2, 0), "ply"), "ply", "spz", spz_version=4))
    for index, size in unpacked.items():
        struct.pack_into("<Q", data, 32 + 16 * index + 8, size)
    return bytes(data)


def webp_that_claims(side: int) -> bytes:
    """A small file whose header says that it is larger than a picture may be."""
    data = bytearray(webp(64, 64))
    place = data.index(b"VP8L") + 9
    (bits,) = struct.unpack_from("<I", data, place)
    struct.pack_into("<I", data, place, bits & ~0xFFFFFFF | (side - 1) << 14 | (side - 1))
    return bytes(data)
