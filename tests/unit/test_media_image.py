"""Image inspection and decoding: every format, every refusal, and bytes that mean harm."""

from __future__ import annotations

import io
import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import skimage.data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from serve.errors import ArgusError, InvalidMedia, PayloadTooLarge, UnsupportedMedia
from serve.media.headers import BoundedReader, exif_orientation
from serve.media.image import ImageInfo, ImageLimits, decode_image, inspect_image
from serve.media.jpeg import read_frame

LIMITS = ImageLimits()
PHOTO = Image.fromarray(skimage.data.astronaut()).resize((200, 120))


def encode(kind: str, image: Image.Image = PHOTO, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {kind: encode(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")}
KINDS = sorted(FILES)
FRAMES = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]


def code_of(data: bytes, limits: ImageLimits = LIMITS, **options: Any) -> str:
    """The code with which both functions refuse `data`."""
    with pytest.raises(ArgusError) as inspected:
        inspect_image(data, limits, **options)
    if not options:
        with pytest.raises(ArgusError) as decoded:
            decode_image(data, limits)
        assert decoded.value.code == inspected.value.code
    return inspected.value.code


def pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image)


@pytest.mark.parametrize("kind", KINDS)
def test_every_format(kind: str) -> None:
    info = inspect_image(FILES[kind], LIMITS, declared_type=f"image/{kind.lower()}")
    assert info == ImageInfo(kind, f"image/{kind.lower()}", 200, 120, animated=False)  # type: ignore[arg-type]
    decoded = decode_image(FILES[kind], LIMITS)
    expected = Image.open(io.BytesIO(FILES[kind])).convert("RGB")
    assert type(decoded) is Image.Image
    assert np.array_equal(pixels(decoded), pixels(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_inspection_decodes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: Any) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    for plugin in ImageFile.ImageFile.__subclasses__():
        if "load" in vars(plugin):
            monkeypatch.setattr(plugin, "load", decoded)
    inspect_image(FILES[kind], LIMITS)


def test_pillow_still_asks_where_we_answer() -> None:
    """The reader for JPEG overrides this private hook; a Pillow that renames it would parse EXIF again."""
    assert hasattr(JpegImageFile, "_read_dpi_from_exif")


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[0x010F], made[0x0112], made[0x0132] = "Maker", orientation, "2026:01:01 00:00:00"
    return made.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_as_pillow_does_it(kind: str, orientation: int) -> None:
    data = encode(kind, exif=exif(orientation))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    info = inspect_image(data, LIMITS)
    decoded = decode_image(data, LIMITS)
    assert (info.width, info.height) == decoded.size == expected.size
    assert np.array_equal(pixels(decoded), pixels(expected))
    assert ImageOps.exif_transpose(decoded).size == decoded.size, "a second library must not turn it again"


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def test_png_exif_behind_the_pixels() -> None:
    data = FILES["PNG"]
    data = data[:-12] + chunk(b"eXIf", exif(6).removeprefix(b"Exif\0\0")) + data[-12:]
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert expected.size == (120, 200)
    info = inspect_image(data, LIMITS)
    assert (info.width, info.height) == (120, 200)
    assert np.array_equal(pixels(decode_image(data, LIMITS)), pixels(expected))


def test_orientation_from_xmp() -> None:
    packet = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    info = inspect_image(encode("WEBP", xmp=packet), LIMITS)
    assert (info.width, info.height) == (120, 200)


@pytest.mark.parametrize("damaged", [b"", b"Exif\0\0", b"junk", exif(6)[:20], exif(6)[:12], b"II*\0\xff\xff\xff\xff"])
def test_damaged_exif_means_upright(damaged: bytes) -> None:
    assert exif_orientation(damaged, None) == 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_first_frame_of_many(kind: str) -> None:
    data = encode(kind, FRAMES[0], save_all=True, append_images=FRAMES[1:])
    assert inspect_image(data, LIMITS).animated
    red, green, blue = pixels(decode_image(data, LIMITS))[15, 20]
    assert red > 240
    assert green < 15
    assert blue < 15


def test_gif_frames_are_counted_as_pillow_counts_them() -> None:
    for size in (PHOTO.size, (4, 4), (700, 500)):
        first = PHOTO.resize(size)
        for more in ([], [first.rotate(90)]):
            data = encode("GIF", first, save_all=True, append_images=more)
            assert inspect_image(data, LIMITS).animated is bool(more)
            assert Image.open(io.BytesIO(data)).is_animated is bool(more)  # type: ignore[attr-defined]


def test_mpo_is_read_as_its_first_jpeg() -> None:
    data = encode("MPO", PHOTO, save_all=True, append_images=[PHOTO.rotate(90)])
    assert inspect_image(data, LIMITS, declared_type="image/jpeg").format == "JPEG"
    assert decode_image(data, LIMITS).size == (200, 120)


def test_grey_of_sixteen_bits_keeps_its_tones() -> None:
    ramp = np.linspace(0, 65535, 64 * 64, dtype=np.uint16).reshape(64, 64)
    for kind in ("PNG", "TIFF"):
        decoded = pixels(decode_image(encode(kind, Image.fromarray(ramp)), LIMITS))
        assert np.abs(decoded[..., 0].astype(int) - np.rint(ramp / 257)).max() <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_grey_without_nominal_white_is_stretched(dtype: type) -> None:
    ramp = (np.arange(64 * 64).reshape(64, 64) * 1000 - 5).astype(dtype)
    decoded = pixels(decode_image(encode("TIFF", Image.fromarray(ramp)), LIMITS))
    assert (decoded.min(), decoded.max()) == (0, 255)
    flat = encode("TIFF", Image.fromarray(np.full((8, 8), 7, dtype)))
    assert pixels(decode_image(flat, LIMITS)).max() == 0


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "1"), ("PNG", "L"), ("PNG", "LA"), ("PNG", "P"), ("PNG", "RGBA"), ("JPEG", "L"), ("JPEG", "CMYK")],
)
def test_modes_become_rgb_close_to_the_photo(kind: str, mode: str) -> None:
    decoded = decode_image(encode(kind, PHOTO.convert(mode)), LIMITS)
    assert decoded.mode == "RGB"
    expected = pixels(PHOTO.convert("1" if mode == "1" else "L" if mode[0] == "L" else "RGB").convert("RGB"))
    assert np.abs(pixels(decoded).astype(int) - expected).mean() < 16


@given(
    width=st.integers(4, 400),
    height=st.integers(4, 400),
    wanted=st.tuples(st.integers(-5, 500), st.integers(-5, 500)),
    orientation=st.integers(1, 8),
)
@settings(max_examples=60, deadline=None)
def test_scaled_decoding_never_goes_below_what_is_asked(
    width: int, height: int, wanted: tuple[int, int], orientation: int
) -> None:
    data = encode("JPEG", Image.new("RGB", (width, height)), exif=exif(orientation))
    full = decode_image(data, LIMITS).size
    scaled = decode_image(data, LIMITS, at_least=wanted).size
    for got, have, want in zip(scaled, full, wanted, strict=True):
        assert min(have, want) <= got <= have
    # At least one more halving would have gone below one of the two sides, or is beyond what JPEG offers (1/8).
    scales = [scale for scale in (1, 2, 4, 8) if scaled == tuple(-(-side // scale) for side in full)]
    assert scales, "a side is divided by a power of two and rounded up"
    scale = scales[-1]  # of a few pixels, several come out alike
    if scale < 8 and min(wanted) > 0:
        assert any(have // want < 2 * scale for have, want in zip(full, wanted, strict=True))


def test_scaled_decoding_shrinks_photos() -> None:
    data = encode("JPEG", PHOTO.resize((1600, 1200)), exif=exif(6))
    assert decode_image(data, LIMITS, at_least=(224, 224)).size == (300, 400)
    assert decode_image(encode("PNG"), LIMITS, at_least=(10, 10)).size == (200, 120)


@pytest.mark.parametrize(
    "declared", [None, "", "image/*", "IMAGE/JPG; q=1", "image/jpeg", "application/octet-stream", "binary/octet-stream"]
)
def test_declared_types_that_agree(declared: str | None) -> None:
    assert inspect_image(FILES["JPEG"], LIMITS, declared_type=declared).media_type == "image/jpeg"


@pytest.mark.parametrize("declared", ["image/png", "text/html", "video/mp4", "image/heic", "nonsense"])
def test_declared_types_that_contradict(declared: str) -> None:
    assert code_of(FILES["JPEG"], declared_type=declared) == "image_type_mismatch"


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


def test_threads_agree() -> None:
    jobs = [FILES[kind] for kind in KINDS] * 6
    expected = [pixels(decode_image(data, LIMITS)) for data in jobs]
    with ThreadPoolExecutor(8) as pool:
        for got, want in zip(pool.map(lambda data: decode_image(data, LIMITS), jobs), expected, strict=True):
            assert np.array_equal(pixels(got), want)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("orientation", [None, 6])
def test_the_quick_jpeg_header_says_what_pillow_says(mode: str, progressive: bool, orientation: int | None) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new(mode, (123, 45)).save(buffer, "JPEG", progressive=progressive, exif=exif, comment=b"x" * 300)
    frame = read_frame(buffer.getvalue())
    assert frame is not None and (frame.width, frame.height) == Image.open(buffer).size == (123, 45)
    info = inspect_image(buffer.getvalue(), ImageLimits())
    assert (info.width, info.height) == ((45, 123) if orientation else (123, 45))


@given(st.data())
def test_the_quick_jpeg_header_never_disagrees_with_pillow(data: st.DataObject) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (1, 2, 3)).save(buffer, "JPEG")
    mutated = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(2, min(700, len(mutated)) - 1))] = data.draw(st.integers(0, 255))
    frame = read_frame(bytes(mutated))
    if frame is None:
        return
    try:
        size = Image.open(io.BytesIO(bytes(mutated)), formats=["JPEG"]).size
    except Exception:
        return  # a damaged table: decoding, which Pillow does in the replica, refuses it
    assert size == (frame.width, frame.height)
