"""Drawings of answers: what is found is drawn where it is, and can be read at any size."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from deployments.florence2.messages import Answer, LabelledBox, Polygons, Quad
from deployments.florence2.render import annotate


def drawn(image: Image.Image, answer: Answer, **options: object) -> npt.NDArray[np.int16]:
    """(height, width, 3), the PNG decoded."""
    with Image.open(io.BytesIO(annotate(image, image.size, answer, **options))) as opened:  # type: ignore[arg-type]
        assert opened.format == "PNG"
        return np.asarray(opened.convert("RGB"), np.int16)


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (127, 127, 127))


def touched(pixels: npt.NDArray[np.int16]) -> npt.NDArray[np.bool_]:
    return (np.abs(pixels - 127) > 8).any(axis=2)


@pytest.mark.parametrize(
    ("size", "longest"), [((64, 64), 640), ((640, 480), 640), ((1000, 700), 1000), ((6000, 4000), 2048)]
)
def test_the_longer_side_is_brought_into_bounds(size: tuple[int, int], longest: int) -> None:
    pixels = drawn(grey(*size), Answer())
    assert max(pixels.shape) == longest
    assert not touched(pixels).any()


def test_a_reduced_picture_is_drawn_as_the_original_is() -> None:
    answer = Answer(boxes=(LabelledBox((1000.0, 1000.0, 3000.0, 2000.0), "a star"),))
    whole = annotate(grey(4000, 3000), (4000, 3000), answer)
    assert annotate(grey(2048, 1536), (4000, 3000), answer) == whole


@pytest.mark.parametrize("size", [(64, 64), (1000, 1000), (4000, 4000)])
def test_a_box_is_drawn_on_its_edges_and_nowhere_else(size: tuple[int, int]) -> None:
    side = size[0]
    pixels = touched(
        drawn(grey(*size), Answer(boxes=(LabelledBox((0.25 * side, 0.25 * side, 0.75 * side, 0.75 * side), ""),)))
    )
    scale = len(pixels)
    quarter, half = scale // 4, scale // 2
    band = scale // 50
    for edge in (quarter, 3 * quarter):
        assert pixels[edge - band : edge + band, half].any() and pixels[half, edge - band : edge + band].any()
    inner = slice(quarter + band, 3 * quarter - band)
    assert not pixels[inner, inner].any()
    assert not pixels[: quarter - band].any() and not pixels[3 * quarter + band :].any()


@pytest.mark.parametrize("size", [(64, 64), (4000, 3000)])
def test_letters_of_a_label_are_at_least_as_high_as_a_line_of_small_print(size: tuple[int, int]) -> None:
    width, height = size
    answer = Answer(boxes=(LabelledBox((0.3 * width, 0.3 * height, 0.9 * width, 0.9 * height), "HHHH"),))
    pixels = drawn(grey(*size), answer)
    white = (pixels > 240).all(axis=2)
    rows = np.flatnonzero(white.any(axis=1))
    assert 10 <= rows.max() - rows.min() + 1 <= 0.1 * len(pixels)


def test_equal_labels_have_one_colour_and_different_ones_do_not() -> None:
    def colour(pixels: npt.NDArray[np.int16], x: int) -> tuple[int, ...]:
        column = pixels[200:600, x - 10 : x + 10]
        return tuple(column[touched(column)][0].tolist())

    places = [(100, "a"), (400, "b"), (700, "a")]
    boxes = tuple(LabelledBox((x, 100.0, x + 150.0, 900.0), label) for x, label in places)
    pixels = drawn(grey(1000, 1000), Answer(boxes=boxes))
    first, second, third = (colour(pixels, x) for x, _ in places)
    assert first == third != second


def test_an_outline_is_filled_and_a_quad_is_not() -> None:
    ring = ((200.0, 200.0), (800.0, 200.0), (800.0, 800.0), (200.0, 800.0))
    filled = touched(drawn(grey(1000, 1000), Answer(polygons=(Polygons((ring,), ""),))))
    assert filled[500, 500] and not filled[100, 100]
    quad = touched(drawn(grey(1000, 1000), Answer(quads=(Quad(ring, "x"),))))
    assert quad[500, 200] and not quad[500, 500]


def test_a_text_stands_below_the_picture_which_stays_as_it_is() -> None:
    short = drawn(grey(700, 400), Answer(text="A star."))
    long = drawn(grey(700, 400), Answer(text="A red star beside a blue circle. " * 30))
    for pixels in (short, long):
        assert pixels.shape[1] == 700 and len(pixels) > 400
        assert not touched(pixels[:400]).any()
        assert (pixels[400:] < 60).all(axis=2).any()
    assert len(long) > len(short) + 100
    ink = (long[400:] < 60).all(axis=2)
    assert not ink[:, -5:].any()  # nothing runs over the edge


def test_the_region_that_was_asked_about_is_outlined() -> None:
    pixels = drawn(grey(1000, 1000), Answer(text="star"), asked=(200.0, 200.0, 800.0, 800.0))
    assert touched(pixels)[500, 200] and not touched(pixels)[500, 500]


@pytest.mark.parametrize("size", [(2000, 5), (5, 2000), (1, 1)])
def test_a_thin_strip_gets_room_for_its_labels(size: tuple[int, int]) -> None:
    pixels = drawn(grey(*size), Answer(boxes=(LabelledBox((0.0, 0.0, *map(float, size)), "a star"),), text="a star"))
    assert min(pixels.shape[:2]) >= 100
    assert (pixels > 250).all(axis=2).any()


def test_texts_of_any_script_and_length_are_drawn() -> None:
    labels = ("Ωмега é", "星", "🦊", "x" * 300, "a\nb")
    boxes = tuple(LabelledBox((10.0 * i, 10.0, 300.0, 300.0), label) for i, label in enumerate(labels))
    drawn(grey(400, 400), Answer(boxes=boxes, text="星 " * 50 + "x" * 500))
