"""Pages of a TIFF: each is an image file of its own; chains that mean harm end."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from PIL import Image

from serve.errors import InvalidMedia
from serve.media import tiff
from serve.media.image import ImageLimits, decode_image
from tests.support.image_files import FILES, KINDS, LIMITS, encode

COLOURS = ("red", "lime", "blue")
FRAMES = [Image.new("RGB", (40 + i, 30), colour) for i, colour in enumerate(COLOURS)]
SIDE = 8


def scanned(frames: list[Image.Image] = FRAMES, **options: Any) -> bytes:
    return encode("TIFF", frames[0], save_all=True, append_images=frames[1:], **options)


def chained(*kinds: int, order: str = "<", loop: bool = False) -> bytes:
    """A page for each kind (NewSubfileType), as light as its place; with `loop` the last one leads to the first."""
    data = bytearray({"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8))
    for place, kind in enumerate(kinds):
        entries = [
            (254, 4, kind), (256, 4, SIDE), (257, 4, SIDE), (258, 4, 8), (259, 4, 1),
            (262, 4, 1), (273, 4, len(data) + 2 + 12 * 8 + 4), (279, 4, SIDE * SIDE),
        ]  # fmt: skip
        after = len(data) + 2 + 12 * len(entries) + 4 + SIDE * SIDE
        is_last = place == len(kinds) - 1
        data += struct.pack(order + "H", len(entries))
        data += b"".join(struct.pack(order + "HHII", tag, form, 1, value) for tag, form, value in entries)
        data += struct.pack(order + "I", (8 if loop else 0) if is_last else after) + bytes([place]) * (SIDE * SIDE)
    return bytes(data)


def shade(data: bytes, number: int) -> int:
    """Of a page's upper left pixel."""
    pixel: Any = decode_image(tiff.one_page(data, number), LIMITS).getpixel((0, 0))
    return int(pixel[0])


def shades(data: bytes) -> list[int]:
    return [shade(data, number) for number in range(1, tiff.page_count(data) + 1)]


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_each_page_is_a_file_of_its_own(compression: str) -> None:
    data = scanned(compression=compression)
    assert tiff.page_count(data) == 3
    for number, frame in enumerate(FRAMES, start=1):
        page = decode_image(tiff.one_page(data, number), LIMITS)
        assert (page.size, page.getpixel((9, 9))) == (frame.size, frame.getpixel((9, 9)))


def test_pages_of_a_fax() -> None:
    frames = [Image.new("1", (40 + i, 30), i % 2) for i in range(3)]
    data = scanned(frames, compression="group4")
    found = [decode_image(tiff.one_page(data, number), LIMITS) for number in (1, 2, 3)]
    assert [page.size for page in found] == [(40, 30), (41, 30), (42, 30)]
    assert [page.getpixel((9, 9)) for page in found] == [(0,) * 3, (255,) * 3, (0,) * 3]


@pytest.mark.parametrize(
    ("dpi", "orientation", "aspect"),
    [
        ((204, 98), 1, 204 / 98),
        ((204, 98), 6, 98 / 204),
        ((150, 150), 1, 1.0),
        ((150, 1), 1, 1.0),  # nobody scans so
        ((0, 98), 1, 1.0),
        (None, 1, 1.0),
    ],
)
def test_how_high_pixels_are(dpi: tuple[int, int] | None, orientation: int, aspect: float) -> None:
    options = {"dpi": dpi} if dpi else {}
    data = scanned(FRAMES[:1], tiffinfo={274: orientation}, **options)
    assert tiff.pixel_aspect(data) == pytest.approx(aspect)
    for end in range(0, len(data), 7):  # a file that was cut says what it can
        assert tiff.pixel_aspect(data[:end]) in (pytest.approx(aspect), 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_other_images_have_one_page(kind: str) -> None:
    assert tiff.page_count(FILES[kind]) == 1
    assert tiff.one_page(FILES[kind], 1) == FILES[kind]
    assert tiff.pixel_aspect(FILES[kind]) == 1.0


@pytest.mark.parametrize("order", ["<", ">"])
def test_thumbnails_and_masks_are_no_pages(order: str) -> None:
    assert shades(chained(0, 1, 2, 4, 2, order=order)) == [0, 2, 4]
    assert shades(chained(1, 0, order=order)) == [0, 1]  # the first is one, whatever it says of itself


def test_a_chain_that_comes_back_ends() -> None:
    assert shades(chained(0, 0, 0, loop=True)) == [0, 1, 2]


def test_a_page_that_was_cut_off_is_a_page_that_cannot_be_read() -> None:
    whole = chained(0, 0, 0)
    third = len(whole) - (2 + 12 * 8 + 4 + SIDE * SIDE)
    for cut in (third, third + 50, len(whole) - 30):
        data = whole[:cut]
        assert tiff.page_count(data) == 3
        assert [shade(data, number) for number in (1, 2)] == [0, 1]
        with pytest.raises(InvalidMedia) as caught:
            decode_image(tiff.one_page(data, 3), LIMITS)
        assert caught.value.code == "truncated_image"


def test_every_page_is_held_to_the_limits() -> None:
    data = scanned([FRAMES[0], Image.new("RGB", (400, 300))])
    narrow = ImageLimits(max_pixels=100_000)
    assert decode_image(tiff.one_page(data, 1), narrow).size == (40, 30)
    with pytest.raises(InvalidMedia) as caught:
        decode_image(tiff.one_page(data, 2), narrow)
    assert caught.value.code == "image_too_large"


def test_directories_without_end_are_refused() -> None:
    """Each is six bytes: no entries, and where the next one is. None of them would be a page that anyone sees."""
    count = 100_000
    steps = b"".join(struct.pack("<HI", 0, 8 + 6 * (i + 1)) for i in range(count))
    with pytest.raises(InvalidMedia) as caught:
        tiff.page_count(b"II*\0" + struct.pack("<I", 8) + steps)
    assert caught.value.code == "invalid_document"


@pytest.mark.parametrize("data", [b"", b"II*\0", b"MM\0*\0\0", b"II*\0\0\0\0\0", b"II*\0\xff\xff\xff\xff"])
def test_a_file_without_a_directory_has_one_page_that_cannot_be_read(data: bytes) -> None:
    assert tiff.page_count(data) == 1
