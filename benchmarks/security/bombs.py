"""Files that are small on the wire and large, deep or many once they are opened."""

from __future__ import annotations

import gzip
import io
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from PIL import Image

from benchmarks.security.case import Case, Got, answered
from benchmarks.security.site import Site

GROUP = "bombs"
MIB: Final = 1 << 20
_JOB_S: Final = 240.0
_TRAVERSAL: Final = "argus-traversal"
_HUGE: Final = 60_000


def small(format: str, **options: Any) -> bytes:
    """An honest picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(buffer, format, **options)
    return buffer.getvalue()


def png(*chunks: tuple[bytes, bytes], width: int = _HUGE, height: int = _HUGE) -> bytes:
    """A PNG of that size with next to no pixels, and chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    made = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def jpeg() -> bytes:
    """A JPEG whose frame header says 60,000 x 60,000."""
    data = bytearray(small("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", _HUGE, _HUGE)
    return bytes(data)


def jpeg_of_scans() -> bytes:
    """A progressive JPEG with thousands of scans, each of which passes over all pixels."""
    data = small("JPEG", progressive=True)
    at = data.index(b"\xff\xda")
    end = data.index(b"\xff\xda", at + 2)
    return data[:at] + data[at:end] * 20_000 + data[end:]


def gif() -> bytes:
    """A GIF whose screen and frame are 65,535 x 65,535."""
    data = bytearray(small("GIF"))
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    at = data.index(b",", 13 + (3 << ((data[10] & 7) + 1)))
    data[at + 5 : at + 9] = struct.pack("<HH", 65_535, 65_535)
    return bytes(data)


def bmp() -> bytes:
    """A BMP that says 60,000 x 60,000."""
    data = bytearray(small("BMP"))
    data[18:26] = struct.pack("<ii", _HUGE, _HUGE)
    return bytes(data)


def webp() -> bytes:
    """A WebP with a canvas of 16,777,216 a side."""
    canvas = b"\0" * 4 + b"\xff\xff\xff" * 2
    body = b"WEBP" + b"VP8X" + struct.pack("<I", len(canvas)) + canvas + small("WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff() -> bytes:
    """A TIFF that says 60,000 x 60,000."""
    data = bytearray(small("TIFF"))
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    for entry in range(start + 2, start + 2 + 12 * entries, 12):
        tag, _ = struct.unpack_from("<HH", data, entry)
        if tag in (256, 257):  # width and length
            struct.pack_into("<HHII", data, entry, tag, 4, 1, _HUGE)
    return bytes(data)


def tiff_of_strips() -> bytes:
    """A TIFF with millions of strip offsets, each of which would become a Python object."""
    count = 4_000_000
    offset = 8 + 2 + 12 * 3 + 4
    entries = struct.pack("<HHII", 256, 4, 1, 100) + struct.pack("<HHII", 257, 4, 1, count)
    entries += struct.pack("<HHII", 273, 4, count, offset)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 3) + entries + b"\0" * 4 + b"\1\0\0\0" * count


def avif() -> bytes:
    """An AVIF whose image is said to be 60,000 x 60,000."""
    data = bytearray(small("AVIF"))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", _HUGE, _HUGE)
    return bytes(data)


IMAGES: Final[Mapping[str, Callable[[], bytes]]] = {
    "a PNG of 60,000 x 60,000 in 100 bytes": png,
    "a JPEG of 60,000 x 60,000": jpeg,
    "a JPEG of 20,000 scans": jpeg_of_scans,
    "a GIF of 65,535 x 65,535": gif,
    "a BMP of 60,000 x 60,000": bmp,
    "a WebP of 16,777,216 x 16,777,216": webp,
    "a TIFF of 60,000 x 60,000": tiff,
    "a TIFF of 4,000,000 strips": tiff_of_strips,
    "an AVIF of 60,000 x 60,000": avif,
    "a PNG with 100 texts of 8 MiB each": lambda: png(
        *[(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 8 * MIB))] * 100, width=32, height=32
    ),
    "a PNG with 200,000 empty chunks": lambda: png(*[(b"teSt", b"")] * 200_000, width=32, height=32),
    "an SVG that names entities of entities": lambda: (
        b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><svg>&b;</svg>'
    ),
}


def archive(*entries: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name, content in entries:
            made.writestr(name, content)
    return buffer.getvalue()


def _concealing() -> bytes:
    """An archive whose directory says that a photo of 80 MiB has 100 bytes."""
    data = bytearray(archive(("a.png", bytes(80 * MIB)), ("b.png", b"x"), ("c.png", b"x")))
    directory = data.index(b"PK\1\2")
    struct.pack_into("<I", data, directory + 24, 100)
    return bytes(data)


def _many() -> bytes:
    """An archive that ends by saying that it has 65,000 entries."""
    data = bytearray(archive(("a.png", b"x")))
    end = data.rindex(b"PK\5\6")
    struct.pack_into("<HH", data, end + 8, 65_000, 65_000)
    return bytes(data)


def _encrypted() -> bytes:
    """An archive whose entry is said to be encrypted."""
    data = bytearray(archive(("a.png", b"x")))
    for at in (data.index(b"PK\3\4") + 6, data.index(b"PK\1\2") + 8):
        data[at] |= 1
    return bytes(data)


ARCHIVES: Final[Mapping[str, Callable[[], bytes]]] = {
    "a zip of a zip of a zip": lambda: archive(("a.zip", archive(("b.zip", archive(("c.zip", bytes(MIB))))))),
    "a zip whose photo unpacks 1,000-fold to 80 MiB": lambda: archive(
        *((f"{name}.png", bytes(80 * MIB)) for name in "abc")
    ),
    "a zip that conceals how much a photo unpacks to": _concealing,
    "a zip of 65,000 entries": _many,
    "a zip whose names lead out of its folder": lambda: archive(
        *((f"../../../../tmp/argus-traversal-{n}.png", small("PNG")) for n in range(3)),
        ("/etc/argus-traversal.png", b"x"),
        ("..\\..\\argus-traversal.png", b"x"),
    ),
    "an encrypted zip": _encrypted,
}


def pdf(objects: bytes) -> bytes:
    """A PDF of these objects."""
    return b"%PDF-1.7\n" + objects + b"\ntrailer << /Root 1 0 R >>\nstartxref\n0\n%%EOF\n"


DOCUMENTS: Final[Mapping[str, Callable[[], bytes]]] = {
    "a PDF nested 100,000 deep": lambda: pdf(b"1 0 obj\n" + b"[" * 100_000 + b"]" * 100_000 + b"\nendobj"),
    "a PDF that says it has 2,000,000,000 pages": lambda: pdf(
        b"1 0 obj << /Type /Catalog /Pages 2 0 R >> endobj\n"
        b"2 0 obj << /Type /Pages /Count 2000000000 /Kids [2 0 R 2 0 R] >> endobj"
    ),
    "a PDF with a page of 10,000,000 x 10,000,000 points": lambda: pdf(
        b"1 0 obj << /Type /Catalog /Pages 2 0 R >> endobj\n"
        b"2 0 obj << /Type /Pages /Count 1 /Kids [3 0 R] >> endobj\n"
        b"3 0 obj << /Type /Page /Parent 2 0 R /MediaBox [0 0 10000000 10000000] >> endobj"
    ),
    "a PDF with a stream that inflates to 14 MB of strokes": lambda: pdf(
        b"1 0 obj << /Type /Catalog /Pages 2 0 R >> endobj\n"
        b"2 0 obj << /Type /Pages /Count 1 /Kids [3 0 R] >> endobj\n"
        b"3 0 obj << /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] /Contents 4 0 R >> endobj\n"
        b"4 0 obj << /Filter /FlateDecode /Length 100000 >> stream\n"
        + zlib.compress(b"0 0 m 1 1 l S\n" * 1_000_000)
        + b"\nendstream endobj"
    ),
}

SCENES: Final[Mapping[str, Callable[[], bytes]]] = {
    "a PLY that says it has 2,000,000,000 points": lambda: (
        b"ply\nformat binary_little_endian 1.0\nelement vertex 2000000000\nproperty float x\nproperty float y\n"
        b"property float z\nend_header\n" + bytes(100)
    ),
    "an SPZ that inflates 1,000-fold": lambda: gzip.compress(
        struct.pack("<IIIBBBB", 0x5053474E, 2, 3_000_000, 0, 12, 0, 0) + bytes(60 * MIB)
    ),
    "a SOG whose picture is 60,000 x 60,000": lambda: archive(
        ("meta.json", b'{"version":2,"count":100,"means":{"files":["a.webp","b.webp"]}}'),
        ("a.webp", webp()),
        ("b.webp", webp()),
    ),
    "a SOG whose names lead out of its folder": lambda: archive(
        ("meta.json", b'{"version":2,"count":1,"means":{"files":["../../../../../../etc/passwd","/etc/passwd"]}}')
    ),
    "a tensor file whose header says it has 4 GiB": lambda: struct.pack("<Q", 1 << 32) + b"{}" + bytes(100),
}


def cases(site: Site) -> Iterator[Case]:
    """The attempts."""
    for name, make in IMAGES.items():
        yield Case(GROUP, name, "4xx", partial(_image, site, make))
    for name, make in ARCHIVES.items():
        yield Case(GROUP, name, "4xx, or a job that fails; nothing is written elsewhere", partial(_archive, site, make))
    for name, make in DOCUMENTS.items():
        yield Case(GROUP, name, "4xx, or an answer within its bounds", partial(_document, site, make))
    for name, make in SCENES.items():
        yield Case(GROUP, name, "4xx", partial(_scene, site, make))
    yield Case(GROUP, "a gzip body of 21 MiB in 21 KiB", "413 payload_too_large", partial(_gzip, site))
    yield Case(GROUP, "a gzip of a gzip as a body", "4xx", partial(_gzip_of_gzip, site))
    yield Case(GROUP, "an encoding that we do not read", "415", partial(_encoding, site))
    yield Case(GROUP, "after all of these", "every model answers", partial(_ready, site))


def _image(site: Site, make: Callable[[], bytes]) -> Got:
    return answered(site.ask("POST", "/v1/classify", files={"image": make()}, data={"labels": "a,b", "model": "clip"}))


def _archive(site: Site, make: Callable[[], bytes]) -> Got:
    headers = {"Content-Type": "application/zip"}
    answer = site.ask("POST", "/v1/reconstructions", params={"name": "bomb"}, content=make(), headers=headers)
    if answer.status_code != 202:
        return answered(answer)
    status = _ended(site, answer.json()["id"])
    places = (Path(tempfile.gettempdir()), Path("/etc"), Path.cwd(), site.run_dir, site.run_dir.parent)
    written = [str(path) for place in places for path in place.glob(f"{_TRAVERSAL}*")]
    return Got(f"202, the job {status}" + "".join(written), status == "failed" and not written)


def _ended(site: Site, id: str) -> str:
    """What becomes of a job."""
    deadline = time.monotonic() + _JOB_S
    while time.monotonic() < deadline:
        status = str(site.ask("GET", f"/v1/jobs/{id}").json()["status"])
        if status not in ("queued", "running"):
            return status
        time.sleep(0.2)
    site.ask("DELETE", f"/v1/jobs/{id}")
    return "not over in time"


def _document(site: Site, make: Callable[[], bytes]) -> Got:
    answer = site.ask("POST", "/v1/documents/text", files={"document": ("a.pdf", make(), "application/pdf")})
    return answered(answer, (200, *range(400, 500)))


def _scene(site: Site, make: Callable[[], bytes]) -> Got:
    headers = {"Content-Type": "application/octet-stream"}
    return answered(
        site.ask("POST", "/v1/scenes", params={"name": "bomb"}, content=make(), headers=headers), without="root:"
    )


def _encoded(site: Site, body: bytes, encoding: str) -> Any:
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    return site.ask("POST", "/v2/models/clip.classify/infer", content=body, headers=headers)


def _gzip(site: Site) -> Got:
    return answered(_encoded(site, gzip.compress(bytes(21 * MIB)), "gzip"), (413,), ("payload_too_large",))


def _gzip_of_gzip(site: Site) -> Got:
    return answered(_encoded(site, gzip.compress(gzip.compress(bytes(MIB))), "gzip"))


def _encoding(site: Site) -> Got:
    return answered(_encoded(site, b"{}", "br"), (415,))


def _ready(site: Site) -> Got:
    return answered(site.readiness(), (200,))
