"""Scene files as clients may send them by mistake or malice: whole ones of every format, and ways to damage them."""

from __future__ import annotations

import gzip
import io
import random
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Final

import numpy as np

from deployments.splat import formats
from deployments.splat.gaussians import Gaussians

_SPZ_COUNT: Final = 8
_NUMBERS: Final = (float("nan"), float("inf"), -float("inf"), 1e38, -1.0, 0.0)


def scene(count: int, seed: int = 1) -> Gaussians:
    """Any Gaussians, with harmonics of degree 2."""
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(count, 4))
    return Gaussians(
        rng.uniform(-1, 1, (count, 3)).astype(np.float32),
        (quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        rng.uniform(0.02, 0.1, (count, 3)).astype(np.float32),
        rng.uniform(0.1, 0.95, count).astype(np.float32),
        rng.normal(0, 0.2, (count, 9, 3)).astype(np.float32),
    )


def whole_files(count: int) -> dict[str, bytes]:
    """A file of each format; `spz 4` is what gaussforge writes."""
    from gaussforge import GaussForge

    gaussians = scene(count)
    files: dict[str, bytes] = {name: formats.write(gaussians, name) for name in formats.FORMATS}
    files["spz 4"] = GaussForge().convert(files["ply"], "ply", "spz", spz_version=4)["data"]
    return files


def _whole(data: bytes, rng: random.Random) -> bytes:
    return data


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 16)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _headed(data: bytes, rng: random.Random) -> bytes:
    """Bytes of the first 200 are others."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(min(200, len(changed)))] = rng.choice([0, 1, 32, 48, 127, 128, 255, rng.randrange(256)])
    return bytes(changed)


def _counted(data: bytes, rng: random.Random) -> bytes:
    """What a header says of the number of Gaussians is another number."""
    count = rng.choice([0, 1, 255, 1_000_000, 2**31 - 1, 2**32 - 1, 2**63, rng.randrange(10_000_000)])
    if data.startswith(b"ply"):
        head, end, body = data.partition(b"end_header")
        return re.sub(rb"(element \w+) \d+", rb"\1 %d" % count, head) + end + body
    if data.startswith(b"\x1f\x8b"):
        return _repacked(data, lambda inner, _: _with_count(inner, count), rng)
    if data.startswith(b"NGSP"):
        return _with_count(data, count)
    if data.startswith(b"PK"):
        return _rezipped(data, "meta.json", lambda meta, _: re.sub(rb'"count": \d+', b'"count": %d' % count, meta), rng)
    # A .splat file has no count but its length; ours has shapes.
    return re.sub(rb'"shape":\[\d+', b'"shape":[%d' % count, data) if data[8:9] == b"{" else data + bytes(count % 64)


def _inside(data: bytes, rng: random.Random) -> bytes:
    """What is packed is damaged, and packed again, so that checksums are right."""
    if data.startswith(b"\x1f\x8b"):
        return _repacked(data, rng.choice([_flipped, _headed, _cut]), rng)
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            name = rng.choice(archive.namelist())
        return _rezipped(data, name, rng.choice([_flipped, _headed, _cut]), rng)
    return _flipped(_headed(data, rng), rng)


def _numbers(data: bytes, rng: random.Random) -> bytes:
    """Four bytes somewhere are a number that no scene has."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = len(changed) - 4 - 4 * rng.randrange(max((len(changed) - 4) // 8, 1))
        struct.pack_into("<f", changed, place, rng.choice(_NUMBERS))
    return bytes(changed)


def _noise(data: bytes, rng: random.Random) -> bytes:
    """A beginning that is right, and then anything."""
    kept = rng.randrange(4, min(2000, len(data)))
    return data[:kept] + rng.randbytes(rng.randrange(len(data)))


def _repeated(data: bytes, rng: random.Random) -> bytes:
    """A piece is there twice, so all behind it is out of place."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randint(1, 1000))
    return data[:end] + data[start:]


DAMAGE: Final[dict[str, Callable[[bytes, random.Random], bytes]]] = {
    "none": _whole,
    "cut": _cut,
    "bits": _flipped,
    "header": _headed,
    "count": _counted,
    "inside": _inside,
    "numbers": _numbers,
    "noise": _noise,
    "repeated": _repeated,
}


def _with_count(data: bytes, count: int) -> bytes:
    return data[:_SPZ_COUNT] + struct.pack("<I", count % 2**32) + data[_SPZ_COUNT + 4 :]


def _repacked(data: bytes, damage: Callable[[bytes, random.Random], bytes], rng: random.Random) -> bytes:
    return gzip.compress(damage(gzip.decompress(data), rng), 1)


def _rezipped(data: bytes, name: str, damage: Callable[[bytes, random.Random], bytes], rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.namelist():
            inner = old.read(member)
            new.writestr(member, damage(inner, rng) if member == name else inner)
    return buffer.getvalue()
