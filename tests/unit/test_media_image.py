"""Image inspection and decoding: every format, every refusal, and bytes that mean harm."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from serve.media.headers import exif_orientation
from serve.media.image import ImageInfo, ImageLimits, decode_image, inspect_image
from serve.media.jpeg import read_frame
from tests.support.image_files import FILES, KINDS, LIMITS, PHOTO, chunk, code_of, encode, exif, pixels

FRAMES = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]


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
