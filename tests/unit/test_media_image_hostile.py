"""Files that are no images, break off, or want more memory than they should: refused, never obeyed."""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from serve.errors import ArgusError, InvalidMedia, PayloadTooLarge, UnsupportedMedia
from serve.media.headers import BoundedReader
from serve.media.image import ImageLimits, decode_image, inspect_image
from tests.support.image_files import FILES, KINDS, LIMITS, PHOTO, chunk, code_of, encode, exif, pixels


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_image"),
        (b"hello, world", "not_an_image"),
        (b"<html><body>404</body></html>", "not_an_image"),
        (b"\0" * 1000, "not_an_image"),
        (b"BM is how this text starts, it is no bitmap", "not_an_image"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "not_an_image"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "not_an_image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported_image_format"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "unsupported_image_format"),
        (b"\xff\x0a\0\0", "unsupported_image_format"),
        (b"II+\0\x08\0\0\0", "unsupported_image_format"),
        (b"%PDF-1.7\n", "unsupported_image_format"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg">', "unsupported_image_format"),
        (encode("ICO"), "unsupported_image_format"),
        (encode("PPM"), "unsupported_image_format"),
    ],
)
def test_not_images(data: bytes, code: str) -> None:
    assert code_of(data) == code


def test_limits() -> None:
    data = FILES["PNG"]
    with pytest.raises(PayloadTooLarge, match=f"{len(data) - 1:,}"):
        inspect_image(data, ImageLimits(max_bytes=len(data) - 1))
    assert code_of(data, ImageLimits(max_pixels=200 * 120 - 1)) == "image_too_large"
    assert code_of(data, ImageLimits(max_side=199)) == "image_too_large"
    assert code_of(data, ImageLimits(min_side=121)) == "image_too_small"
    assert code_of(encode("PNG", Image.new("L", (1, 1)))) == "image_too_small"
    exact = ImageLimits(max_bytes=len(data), max_pixels=200 * 120, max_side=200, min_side=120)
    assert inspect_image(data, exact).width == 200


PNG_HEAD, PNG_REST = FILES["PNG"][:33], FILES["PNG"][33:]
INFLATES = b"x\0\0" + zlib.compress(b"\0" * 900_000, 9)


def tiff(*entries: tuple[int, int, int, int]) -> bytes:
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    return head + b"".join(struct.pack("<HHII", *entry) for entry in entries) + b"\0" * 4


SIZE = ((256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1))
HOSTILE = {
    "png size": (
        FILES["PNG"][:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)) + PNG_REST,
        "image_too_large",
    ),
    "png profile bomb": (
        PNG_HEAD + chunk(b"iCCP", b"x\0\0" + zlib.compress(b"\0" * 50_000_000)) + PNG_REST,
        "invalid_image",
    ),
    "png many profiles": (PNG_HEAD + chunk(b"iCCP", INFLATES) * 17 + PNG_REST, "invalid_image"),
    "png many texts": (PNG_HEAD + chunk(b"zTXt", INFLATES) * 17 + PNG_REST, "invalid_image"),
    "png many chunks": (PNG_HEAD + chunk(b"aaAa", b"") * 70_000 + PNG_REST, "invalid_image"),
    "webp size": (b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0" * 2 + b"\0" * 10, "image_too_large"),
    "gif size": (b"GIF89a\4\0\4\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08\1a\0;", "image_too_large"),
    "gif comments": (b"GIF89a\4\0\4\0\0\0\0!\xfe" + b"\1a" * 50_000, "invalid_image"),
    "bmp size": (b"BM" + struct.pack("<IIIIiiHH", 100, 0, 54, 40, 2**30, 2**30, 1, 24) + b"\0" * 80, "image_too_large"),
    "jpeg padding": (b"\xff\xd8\xff" + b"\xff" * 100_000, "invalid_image"),
    "tiff strips": (tiff(*SIZE, (273, 4, 4_000_000, 200)) + b"\0" * 16_000_000, "invalid_image"),
    "tiff entries": (tiff(*SIZE, *((1000 + i, 3, 1, 0) for i in range(600))), "invalid_image"),
    "tiff size": (tiff((256, 4, 1, 2**31), (257, 4, 1, 2**31), *SIZE[2:], (273, 4, 1, 8)), "image_too_large"),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_headers(name: str) -> None:
    data, code = HOSTILE[name]
    assert code_of(data) == code


def test_overlapping_exif_does_not_multiply() -> None:
    """Every one of 65,535 entries claims the same large value."""
    directory = b"MM\0*\0\0\0\x08" + struct.pack(">H", 65535)
    directory += b"".join(struct.pack(">HHII", tag, 5, 90, 8) for tag in range(65535))
    parts = [directory[i : i + 60_000] for i in range(0, len(directory), 60_000)]
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts)
    data = FILES["JPEG"][:2] + segments + FILES["JPEG"][2:]
    assert inspect_image(data, LIMITS).width == 200
    assert decode_image(data, LIMITS).size == (200, 120)


def test_jpeg_scans_are_bounded() -> None:
    scan = b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    with pytest.raises(InvalidMedia, match="scans"):
        decode_image(FILES["JPEG"][:-2] + scan * 200 + b"\xff\xd9", LIMITS)
    assert decode_image(encode("JPEG", progressive=True), LIMITS).size == (200, 120)


def test_reads_are_bounded_until_lifted() -> None:
    reader = BoundedReader(b"x" * 100_000)
    with pytest.raises(InvalidMedia):
        while reader.read(1):
            pass
    reader.lift_bound()
    assert reader.read(1)


def test_run_length_bmp_is_unsupported() -> None:
    head = b"BM" + struct.pack("<IIIIiiHHIIiiII", 1086, 0, 1078, 40, 8, 8, 1, 8, 1, 8, 0, 0, 256, 0)
    with pytest.raises(UnsupportedMedia, match="run-length"):
        inspect_image(head + b"\0" * 1032, LIMITS)


@pytest.mark.parametrize("kind", KINDS)
def test_truncated(kind: str) -> None:
    """Cut anywhere behind its first bytes, a file is called truncated, or what is missing were no pixels."""
    data = FILES[kind]
    whole = pixels(decode_image(data, LIMITS))
    for cut in [*range(18, 200, 7), *range(200, len(data) - 30, len(data) // 23), *range(len(data) - 30, len(data))]:
        try:
            decoded = decode_image(data[:cut], LIMITS)
        except ArgusError as error:
            assert error.code == "truncated_image", (cut, error.message)
        else:
            assert len(data) - cut <= 24
            assert np.array_equal(pixels(decoded), whole)


def survive(data: bytes) -> None:
    for work in (inspect_image, decode_image):
        try:
            work(data, ImageLimits(max_pixels=1_000_000))
        except ArgusError as error:
            assert error.status in (400, 413, 415)
            assert error.message


@given(st.sampled_from([b"", *(data[:16] for data in FILES.values()), b"MM\0*"]), st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_random_bytes(head: bytes, tail: bytes) -> None:
    survive(head + tail)


SMALL = {
    f"{kind}{many}": encode(kind, PHOTO.resize((24, 16)), **options)
    for kind in KINDS
    for many, options in (
        ("", {"exif": exif(6)} if kind not in ("GIF", "BMP") else {}),
        (
            "+",
            {"save_all": True, "append_images": [PHOTO.resize((24, 16)).rotate(180)]}
            if kind not in ("JPEG", "BMP")
            else {},
        ),
    )
} | {
    "progressive": encode("JPEG", PHOTO.resize((24, 16)), progressive=True),
    "lzw": encode("TIFF", PHOTO.resize((24, 16)), compression="tiff_lzw"),
    "tiff jpeg": encode("TIFF", PHOTO.resize((24, 16)), compression="jpeg"),
    "palette": encode("PNG", PHOTO.resize((24, 16)).convert("P")),
    "lossless": encode("WEBP", PHOTO.resize((24, 16)), lossless=True),
}


@pytest.mark.parametrize("name", sorted(SMALL))
@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_files(name: str, seed: int) -> None:
    """Bytes changed, mostly in the headers; runs removed and doubled; ends cut."""
    rng, data = random.Random(seed), bytearray(SMALL[name])
    for _ in range(rng.randint(1, 8)):
        at = int(rng.random() ** 2 * len(data))
        match rng.randrange(4):
            case 0:
                data[at : at + 1] = rng.choice([b"\0", b"\xff", b"\x7f", b"\x80", bytes([rng.randrange(256)])])
            case 1:
                data[at : at + 4] = rng.choice([b"\xff" * 4, b"\0\0\0\1", b"\1\0\0\0", b"\x7f\xff\xff\xff"])
            case 2:
                del data[at : at + rng.randint(1, 32)]
            case 3:
                data[at:at] = data[at : at + rng.randint(1, 64)]
    survive(bytes(data))
