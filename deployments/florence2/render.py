"""An answer drawn onto its picture, with the `supervision` library, as PNG.

The drawing is a view: its longer side is brought to between 640 and 2048 pixels, so that lines and letters of one size
can be read on a thumbnail and on a photo of 50 megapixels, and the file stays small enough to send.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import supervision as sv
from PIL import Image, ImageDraw, ImageFont

from deployments.florence2.fonts import drawable
from deployments.florence2.messages import LEAST_SIDE, MOST_SIDE, Answer, Box, Point

# Dark enough for white letters (contrast of at least 4.5).
_PALETTE = sv.ColorPalette.from_hex(
    ["#c2185b", "#1565c0", "#2e7d32", "#6a1b9a", "#bf360c", "#00695c", "#5d4037", "#283593"]
)
_ASKED = sv.Color.from_hex("#212121")
_OPACITY = 0.35
_LABEL_CHARS = 32
_MARGIN = (245, 245, 245)
_INK = (20, 20, 20)

Mark = tuple[str, Sequence[Sequence[Point]]]
"""A label and the rings that it belongs to."""


def annotate(image: Image.Image, size: tuple[int, int], answer: Answer, asked: Box | None = None) -> bytes:
    """The picture with everything that the answer holds; a text stands in a band below.

    Args:
        image: RGB, as displayed, of any size.
        size: width and height that the answer's places refer to.
        asked: the region that the task was about, outlined in black.
    """
    longest = min(max(*size, LEAST_SIDE), MOST_SIDE)
    scale = longest / max(size)
    thickness, letters = max(2, longest // 400), max(15, longest // 60)
    scene = sv.pillow_to_cv2(_view(image, [max(1, round(side * scale)) for side in size], least_side=8 * letters))
    if asked is not None:
        scene = sv.draw_polygon(scene, _corners(_ring(asked), scale), _ASKED, thickness)
    marks = _marks(answer)
    classes = _classes([label for label, _ in marks])
    for (_, rings), number in zip(marks, classes, strict=True):
        for ring in rings:
            if answer.polygons:
                scene = sv.draw_filled_polygon(scene, _corners(ring, scale), _PALETTE.by_idx(number), _OPACITY)
            scene = sv.draw_polygon(scene, _corners(ring, scale), _PALETTE.by_idx(number), thickness)
    drawn = _with_labels(sv.cv2_to_pillow(scene), marks, classes, scale, letters)
    return _png(_with_band(drawn, answer.text, letters) if answer.text else drawn)


def _marks(answer: Answer) -> list[Mark]:
    marks: list[Mark] = [(box.label, [_ring(box.box)]) for box in answer.boxes]
    marks += [(quad.text, [quad.points]) for quad in answer.quads]
    return marks + [(polygons.label, polygons.rings) for polygons in answer.polygons]


def _ring(box: Box) -> Sequence[Point]:
    left, top, right, bottom = box
    return (left, top), (right, top), (right, bottom), (left, bottom)


def _corners(ring: Sequence[Point], scale: float) -> Any:
    """(corners, 2) int32, the type that OpenCV draws."""
    return np.round(np.asarray(ring) * scale).astype(np.int32)


def _view(image: Image.Image, size: Sequence[int], *, least_side: int) -> Image.Image:
    """The picture in its new size, on a canvas that is wide and high enough for a label beside a thin strip."""
    width, height = size
    resized = image.resize((width, height), Image.Resampling.BICUBIC) if (width, height) != image.size else image
    canvas = Image.new("RGB", (max(width, least_side), max(height, least_side)), _MARGIN)
    canvas.paste(resized, (0, 0))
    return canvas


def _classes(labels: Sequence[str]) -> list[int]:
    """A number for each mark by its label's first appearance: equal labels are of one colour, unlabelled marks are
    each of their own."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(label or f"\0{i}", len(numbers)) for i, label in enumerate(labels)]


def _with_labels(
    image: Image.Image, marks: Sequence[Mark], classes: Sequence[int], scale: float, letters: int
) -> Image.Image:
    named = [(label, rings, number) for (label, rings), number in zip(marks, classes, strict=True) if label]
    if not named:
        return image
    bounds = [sv.polygon_to_xyxy(np.concatenate([_corners(ring, scale) for ring in rings])) for _, rings, _ in named]
    detections = sv.Detections(
        xyxy=np.asarray(bounds, np.float32), class_id=np.asarray([number for _, _, number in named], int)
    )
    font, labels = drawable(label for label, _, _ in named)
    annotator = sv.RichLabelAnnotator(
        _PALETTE,
        font_path=font,
        font_size=letters,
        text_padding=max(3, letters // 4),
        smart_position=True,
        max_line_length=_LABEL_CHARS,
    )
    return annotator.annotate(image, detections, labels)


def _with_band(image: Image.Image, text: str, letters: int) -> Image.Image:
    """The text below the picture, wrapped as if all its letters were as wide as the widest; in the usual font they are
    of one width."""
    path, (text,) = drawable([text])
    font = ImageFont.truetype(path, letters)
    margin, line_height = letters, round(letters * 1.4)
    columns = max(1, int((image.width - 2 * margin) / max(map(font.getlength, {"m", *text}))))
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, columns)]
    banded = Image.new("RGB", (image.width, image.height + 2 * margin + line_height * len(lines)), _MARGIN)
    banded.paste(image, (0, 0))
    draw = ImageDraw.Draw(banded)
    for i, line in enumerate(lines):
        draw.text((margin, image.height + margin + i * line_height), line, fill=_INK, font=font)
    return banded


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
