"""Images as they are sent: no larger than asked for, upright, in a format that all providers read."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deployments.generation.messages import ImagePart
from deployments.messages import EncodedImage, PixelValues, RawImage
from serve.config.providers import ImagePreparation
from serve.errors import InvalidMedia, InvalidRequest
from serve.providers.images import SentImage, prepare, sent_size
from tests.support.provider_servers import picture

SETTINGS = ImagePreparation(max_side=400, low_max_side=100)


async def sent(image: Any, detail: Any = "auto", settings: ImagePreparation = SETTINGS) -> SentImage:
    return (await prepare([ImagePart(image, detail)], settings))[0]


def opened(image: SentImage) -> Image.Image:
    return Image.open(io.BytesIO(image.data))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_an_image_that_is_small_enough_is_sent_as_it_is(kind: str) -> None:
    given = picture((400, 300), kind=kind)
    result = await sent(given)
    assert result.data == given.data
    assert (result.media_type, result.size) == (f"image/{kind.lower()}", (400, 300))


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "GIF"])
async def test_other_formats_are_encoded_again(kind: str) -> None:
    result = await sent(picture((40, 30), kind=kind))
    assert opened(result).format == "JPEG"
    assert result.media_type == "image/jpeg"


@pytest.mark.parametrize(
    ("size", "detail", "expected"),
    [
        ((800, 400), "high", (400, 200)),
        ((800, 400), "low", (100, 50)),
        ((10_000, 10), "auto", (400, 1)),
        ((399, 400), "auto", (399, 400)),
        ((50, 20), "low", (50, 20)),
    ],
)
async def test_the_longest_side_is_bounded(size: tuple[int, int], detail: Any, expected: tuple[int, int]) -> None:
    assert sent_size(size, detail, SETTINGS) == expected
    result = await sent(picture(size), detail)
    assert opened(result).size == result.size == expected
    assert result.original == size


async def test_detail_that_is_left_open_is_the_configured_one() -> None:
    cheap = ImagePreparation(detail="low")
    assert (await sent(picture((900, 600)), "auto", cheap)).detail == "low"
    assert (await sent(picture((900, 600)), "auto", cheap)).size == (512, 341)
    assert (await sent(picture((900, 600)), "high", cheap)).size == (900, 600)


async def test_a_photo_is_turned_upright_when_it_is_shrunk() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (800, 400), "red").save(file, "JPEG", exif=exif)
    result = await sent(EncodedImage(file.getvalue()))
    assert opened(result).size == result.size == (200, 400)
    assert 0x0112 not in opened(result).getexif()


async def test_decoded_pixels_keep_their_colours() -> None:
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[..., 2] = 255
    result = await sent(RawImage(pixels))
    assert result.size == (40, 30)
    red, _, blue = opened(result).convert("RGB").getpixel((20, 15))  # type: ignore[misc]
    assert blue > 240
    assert red < 15


async def test_a_lower_quality_is_smaller() -> None:
    noise = RawImage(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8))
    fine = await sent(noise, settings=ImagePreparation(jpeg_quality=95))
    coarse = await sent(noise, settings=ImagePreparation(jpeg_quality=40))
    assert len(coarse.data) < len(fine.data) / 2


async def test_what_is_no_image() -> None:
    with pytest.raises(InvalidRequest):
        await sent(PixelValues(np.zeros((3, 8, 8), np.float32)))
    with pytest.raises(InvalidMedia):
        await sent(EncodedImage(b"not an image"))
    with pytest.raises(InvalidMedia):
        await sent(EncodedImage(picture((900, 900)).data[:-200]))
