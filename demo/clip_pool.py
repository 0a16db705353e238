"""A pool of rendered training pictures with labels, kept as memory-mapped arrays outside the repository."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.scenes import COLOURS, SHAPES, Difficulty, Scene, coverage, render, sample_scene

SIDE = 64
PATCH = 8
GRID = SIDE // PATCH
IGNORED = 255

_DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "medium", "hard")
_DIFFICULTY_SHARES = (0.45, 0.35, 0.2)
_NATIVE_SIZES = (64, 96, 128, 160, 224, 256, 384, 640)
_NATIVE_SHARES = (0.56, 0.09, 0.08, 0.07, 0.1, 0.05, 0.03, 0.02)
_JPEG_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Pool:
    """`images` (N, 64, 64, 3) uint8; `patches` (N, 2, 8, 8) uint8: colour and shape numbers, counted from 1, 0 for
    background, 255 where a patch is neither; `scenes`: N scene keys from which everything else is drawn again."""

    images: NDArray[np.uint8]
    patches: NDArray[np.uint8]
    scenes: tuple[tuple[int, Difficulty, bool], ...]

    def scene(self, number: int) -> Scene:
        """The scene behind a picture."""
        index, difficulty, word = self.scenes[number]
        return sample_scene(index, split="train", difficulty=difficulty, word=word or None)


def shrink(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture at 64 x 64, by the same filter as CLIP's own image processor."""
    if picture.shape[0] == SIDE:
        return picture
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def load_pool(folder: Path) -> Pool:
    """Map a finished pool into memory."""
    keys = json.loads((folder / "scenes.json").read_text())
    return Pool(
        np.load(folder / "images.npy", mmap_mode="r"),
        np.load(folder / "patches.npy", mmap_mode="r"),
        tuple((index, difficulty, word) for index, difficulty, word in keys),
    )


def build_pool(folder: Path, count: int, seed: int) -> None:
    """Render `count` training scenes at mixed native sizes, some of them through JPEG, and label their patches."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, SIDE, SIDE, 3))
    patches = np.lib.format.open_memmap(folder / "patches.npy", "w+", np.uint8, (count, 2, GRID, GRID))
    keys: list[tuple[int, Difficulty, bool]] = []
    for number in range(count):
        difficulty = _DIFFICULTIES[rng.choice(3, p=_DIFFICULTY_SHARES)]
        word = bool(difficulty == "easy" and rng.random() < 0.1)
        keys.append((number, difficulty, word))
        scene = sample_scene(number, split="train", difficulty=difficulty, word=word or None)
        picture = render(scene, int(rng.choice(_NATIVE_SIZES, p=_NATIVE_SHARES)))
        if rng.random() < _JPEG_SHARE:
            picture = _through_jpeg(picture, int(rng.integers(50, 96)))
        images[number] = shrink(picture)
        patches[number] = patch_labels(scene)
    images.flush()
    patches.flush()
    (folder / "scenes.json").write_text(json.dumps(keys))


def patch_labels(scene: Scene) -> NDArray[np.uint8]:
    """The colour and the shape that fill each patch most: (2, 8, 8) uint8, numbered as in `Pool.patches`."""
    shown = coverage(scene, SIDE).reshape(-1, GRID, PATCH, GRID, PATCH).mean(axis=(2, 4))
    winner, share = shown.argmax(axis=0), shown.max(axis=0)
    colours = np.array([COLOURS.index(o.colour) + 1 for o in scene.objects], np.uint8)
    shapes = np.array([SHAPES.index(o.shape) + 1 for o in scene.objects], np.uint8)
    labels = np.stack([colours[winner], shapes[winner]])
    labels[:, share < 0.15] = IGNORED
    labels[:, share < 0.03] = 0
    return labels


def _through_jpeg(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
