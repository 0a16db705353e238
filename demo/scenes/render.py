"""Pixels of a scene: anti-aliased shapes by signed distance, printed words, lighting and noise; boxes too.

A shape lives in its own frame with |u|, |v| <= 0.55 (u to the right, v downwards); the distance is negative inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from demo.scenes.world import Scene, SceneObject, Shape, Word

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned box in pixels, corners (left, top) and (right, bottom) on the pixel grid's lines."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def quad(self) -> tuple[tuple[float, float], ...]:
        """The four corners (x, y), clockwise from the top left one."""
        return (
            (self.left, self.top),
            (self.right, self.top),
            (self.right, self.bottom),
            (self.left, self.bottom),
        )


def render(scene: Scene, size: int) -> Pixels:
    """The picture of a scene: (size, size, 3) uint8, RGB."""
    canvas = _background(scene, size)
    for item in scene.objects:
        rows, columns, alpha = _patch(item, size)
        region = canvas[rows, columns]
        region += (alpha * item.opacity)[..., None] * (np.asarray(item.rgb, np.float32) - region)
    if scene.word is not None:
        _print_word(canvas, scene.word, size)
    return _light(scene, canvas, size)


def coverage(scene: Scene, size: int) -> Floats:
    """How much of each pixel shows each object, with what lies above it taken away: (objects, size, size) in 0..1."""
    layers = np.zeros((len(scene.objects), size, size), np.float32)
    for number, item in enumerate(scene.objects):
        rows, columns, alpha = _patch(item, size)
        layers[:number, rows, columns] *= 1.0 - alpha
        layers[number, rows, columns] = alpha
    return layers


def object_box(item: SceneObject, size: int) -> Box:
    """The tight box of an object in pixels, cut at the picture's edge; what lies above it does not shrink it."""
    cos, sin = math.cos(item.rotation), math.sin(item.rotation)
    points = _outline(item.shape) * (item.size * size)
    across = item.x * size + points[:, 0] * cos - points[:, 1] * sin
    down = item.y * size + points[:, 0] * sin + points[:, 1] * cos
    left, right = np.clip([across.min(), across.max()], 0.0, size).tolist()
    top, bottom = np.clip([down.min(), down.max()], 0.0, size).tolist()
    return Box(left, top, right, bottom)


def word_box(word: Word, size: int) -> Box:
    """The tight box of the printed letters in pixels."""
    left, top, right, bottom = _letters(word, size)[1]
    return Box(float(left), float(top), float(right), float(bottom))


def _background(scene: Scene, size: int) -> Floats:
    """The gradient: (size, size, 3) float32 in 0..255."""
    back = scene.background
    start, end = np.asarray(back.start, np.float32), np.asarray(back.end, np.float32)
    return start + _ramp(back.angle, size)[..., None] * (end - start)


def _ramp(angle: float, size: int) -> Floats:
    """Values 0..1 that rise along a direction: (size, size) float32."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    reach = abs(math.cos(angle)) + abs(math.sin(angle))
    across, down = line * (math.cos(angle) / reach), line[:, None] * (math.sin(angle) / reach)
    return (across + down + 0.5).astype(np.float32, copy=False)


def _patch(item: SceneObject, size: int) -> tuple[slice, slice, Floats]:
    """The rows, the columns and the (rows, columns) opacity in 0..1 of an object's own pixels."""
    box = object_box(item, size)
    rows = slice(max(math.floor(box.top) - 1, 0), min(math.ceil(box.bottom) + 1, size))
    columns = slice(max(math.floor(box.left) - 1, 0), min(math.ceil(box.right) + 1, size))
    side = item.size * size
    across = (np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5 - item.x * size)) / side
    down = (np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5 - item.y * size))[:, None] / side
    cos, sin = math.cos(item.rotation), math.sin(item.rotation)
    distance = _DISTANCE[item.shape](across * cos + down * sin, down * cos - across * sin)
    return rows, columns, np.clip(0.5 - distance * side, 0.0, 1.0).astype(np.float32, copy=False)


def _print_word(canvas: Floats, word: Word, size: int) -> None:
    mask, (left, top, right, bottom) = _letters(word, size)
    region = canvas[top:bottom, left:right]
    region += mask[..., None] * (np.asarray(word.rgb, np.float32) - region)


def _letters(word: Word, size: int) -> tuple[Floats, tuple[int, int, int, int]]:
    """The (height, width) opacity of the letters in 0..1, and their pixel box (left, top, right, bottom)."""
    font = _font(max(word.height * size, 4.0))
    left, top, right, bottom = (round(edge) for edge in font.getbbox(word.text))
    image = Image.new("L", (right - left, bottom - top), 0)
    ImageDraw.Draw(image).text((-left, -top), word.text, fill=255, font=font)
    x = min(max(round(word.x * size - image.width / 2), 0), size - image.width)
    y = min(max(round(word.y * size - image.height / 2), 0), size - image.height)
    return np.asarray(image, np.float32) / 255.0, (x, y, x + image.width, y + image.height)


@lru_cache(maxsize=512)
def _font(height: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(height)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, which printed words need")
    return font


def _light(scene: Scene, canvas: Floats, size: int) -> Pixels:
    light = scene.lighting
    canvas *= (light.gain * (1.0 - light.tilt + 2.0 * light.tilt * _ramp(light.angle, size)))[..., None]
    if light.noise > 0.0:
        rng = np.random.default_rng(light.noise_seed)
        canvas += light.noise * rng.standard_normal(canvas.shape, dtype=np.float32)
    np.clip(canvas, 0.0, 255.0, out=canvas)
    return (canvas + 0.5).astype(np.uint8)


def _circle(u: Floats, v: Floats) -> Floats:
    distance: Floats = np.hypot(u, v) - np.float32(0.46)
    return distance


def _square(u: Floats, v: Floats) -> Floats:
    distance: Floats = np.maximum(np.abs(u), np.abs(v)) - np.float32(0.41)
    return distance


def _triangle(u: Floats, v: Floats) -> Floats:
    slanted = np.float32(0.866) * np.abs(u) - np.float32(0.5) * v
    distance: Floats = np.maximum(slanted - np.float32(0.27), v - np.float32(0.37))
    return distance


def _star(u: Floats, v: Floats) -> Floats:
    """A five-pointed star: the plane folds onto one half of one point."""
    sector = 2.0 * math.pi / 5.0
    angle = np.arctan2(u, -v)
    angle = np.abs(angle - sector * np.round(angle / sector))
    radius = np.hypot(u, v)
    outer, inner = 0.5, 0.215
    inner_u, inner_v = inner * math.sin(sector / 2), inner * math.cos(sector / 2)
    edge_u, edge_v = inner_u, inner_v - outer
    length = math.hypot(edge_u, edge_v)
    folded_u, folded_v = radius * np.sin(angle), radius * np.cos(angle) - outer
    distance: Floats = ((folded_v * edge_u - folded_u * edge_v) / length).astype(np.float32, copy=False)
    return distance


def _cross(u: Floats, v: Floats) -> Floats:
    longer, shorter = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
    distance: Floats = np.maximum(longer - np.float32(0.46), shorter - np.float32(0.15))
    return distance


def _heart(u: Floats, v: Floats) -> Floats:
    """Two round lobes over a right-angled tip."""
    side, up = np.abs(u), 0.48 - v
    lobe = np.hypot(side - 0.22, up - 0.64) - 0.24
    tip = np.maximum(np.maximum(side - up + 0.081, side + up - 0.86) / math.sqrt(2.0), up - 0.7)
    distance: Floats = np.minimum(lobe, tip).astype(np.float32, copy=False)
    return distance


def _ring(u: Floats, v: Floats) -> Floats:
    distance: Floats = np.abs(np.hypot(u, v) - np.float32(0.36)) - np.float32(0.1)
    return distance


def _crescent(u: Floats, v: Floats) -> Floats:
    full = np.hypot(u, v) - np.float32(0.46)
    bite = np.hypot(u - np.float32(0.24), v) - np.float32(0.37)
    distance: Floats = np.maximum(full, -bite)
    return distance


_DISTANCE: dict[Shape, Callable[[Floats, Floats], Floats]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "ring": _ring,
    "crescent": _crescent,
}


@lru_cache(maxsize=len(_DISTANCE))
def _outline(shape: Shape) -> Floats:
    """The points of a shape that reach farthest in 256 directions: (points, 2) in the shape's own frame."""
    line = np.linspace(-0.55, 0.55, 551, dtype=np.float32)
    inside = np.argwhere(_DISTANCE[shape](line[None, :], line[:, None]) <= 0.0)
    points = line[inside[:, ::-1]]
    angles = np.linspace(0.0, 2.0 * math.pi, 256, endpoint=False, dtype=np.float32)
    reach = points @ np.stack([np.cos(angles), np.sin(angles)])
    farthest: Floats = points[np.unique(reach.argmax(axis=0))]
    return farthest
