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
MASK_SIDE = 32
IGNORED = 255

_DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "medium", "hard")
_DIFFICULTY_SHARES = (0.45, 0.35, 0.2)
_NATIVE_SIZES = (64, 96, 128, 160, 224, 256, 384, 640)
_NATIVE_SHARES = (0.56, 0.09, 0.08, 0.07, 0.1, 0.05, 0.03, 0.02)
_JPEG_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class PatchLabels:
    """What fills each of the G x G patches of 8 pixels most, and where the outlines run; G is 8 at 64 pixels.

    `classes` (2, G, G) uint8: colour and shape numbers, counted from 1, 0 for background, 255 where a patch is
    neither; `places` (3, G, G) float16: from the patch's centre to the object's centre, rightwards and downwards, in
    half object sizes, and the natural logarithm of the size; `mask` (4 G, 4 G) uint8: the share of objects, 255 for
    all.
    """

    classes: NDArray[np.uint8]
    places: NDArray[np.float16]
    mask: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Pool:
    """N square pictures (N, side, side, 3) uint8, the stacked fields of their `PatchLabels`, and their scenes' keys,
    from which everything else is drawn again."""

    images: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    places: NDArray[np.float16]
    masks: NDArray[np.uint8]
    scenes: tuple[tuple[int, Difficulty, bool], ...]

    def scene(self, number: int) -> Scene:
        """The scene behind a picture."""
        return _scene(*self.scenes[number])


def shrink(picture: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.uint8]:
    """The picture at `side` x `side`, by the same filter as CLIP's own image processor."""
    if picture.shape[0] == side:
        return picture
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))


def load_pool(folder: Path) -> Pool:
    """Map a finished pool into memory."""
    keys = json.loads((folder / "scenes.json").read_text())
    return Pool(
        images=np.load(folder / "images.npy", mmap_mode="r"),
        classes=np.load(folder / "classes.npy", mmap_mode="r"),
        places=np.load(folder / "places.npy", mmap_mode="r"),
        masks=np.load(folder / "masks.npy", mmap_mode="r"),
        scenes=tuple((index, difficulty, word) for index, difficulty, word in keys),
    )


def build_pool(
    folder: Path,
    count: int,
    seed: int,
    *,
    side: int = SIDE,
    shares: tuple[float, float, float] = _DIFFICULTY_SHARES,
) -> None:
    """Render `count` training scenes at mixed native sizes, some of them through JPEG, and label their patches.

    `shares` are those of easy, medium and hard scenes; no picture is rendered smaller than it is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    images = np.empty((count, side, side, 3), np.uint8)
    keys: list[tuple[int, Difficulty, bool]] = []
    for number in range(count):
        difficulty = _DIFFICULTIES[rng.choice(3, p=shares)]
        word = bool(difficulty == "easy" and rng.random() < 0.1)
        keys.append((number, difficulty, word))
        images[number] = shrink(render_natively(_scene(*keys[-1]), side, rng), side)
    np.save(folder / "images.npy", images)
    labels = [label_patches(_scene(*key), side) for key in keys]
    np.save(folder / "classes.npy", np.stack([label.classes for label in labels]))
    np.save(folder / "places.npy", np.stack([label.places for label in labels]))
    np.save(folder / "masks.npy", np.stack([label.mask for label in labels]))
    (folder / "scenes.json").write_text(json.dumps(keys))


def render_natively(scene: Scene, side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The scene as some file might show it: at one of many sizes, none below `side`, now and then through JPEG."""
    picture = render(scene, max(side, int(rng.choice(_NATIVE_SIZES, p=_NATIVE_SHARES))))
    if rng.random() < _JPEG_SHARE:
        picture = _through_jpeg(picture, int(rng.integers(50, 96)))
    return picture


def label_patches(scene: Scene, side: int = SIDE) -> PatchLabels:
    """Label the patches of a scene's picture of `side` pixels."""
    grid, fold = side // PATCH, SIDE // MASK_SIDE
    shown = coverage(scene, side)
    shares = shown.reshape(-1, grid, PATCH, grid, PATCH).mean(axis=(2, 4))
    winner, share = shares.argmax(axis=0), shares.max(axis=0)
    numbers = np.array([[COLOURS.index(o.colour) + 1, SHAPES.index(o.shape) + 1] for o in scene.objects], np.uint8)
    classes = numbers.T[:, winner]
    classes[:, share < 0.15] = IGNORED
    classes[:, share < 0.03] = 0
    x, y, size = np.array([(o.x, o.y, o.size) for o in scene.objects], np.float32).T[:, winner]
    centres = (np.arange(grid, dtype=np.float32) + 0.5) / grid
    places = np.stack([2.0 * (x - centres) / size, 2.0 * (y - centres[:, None]) / size, np.log(size)])
    mask = shown.sum(axis=0).reshape(side // fold, fold, side // fold, fold).mean(axis=(1, 3))
    return PatchLabels(classes, places.astype(np.float16), np.rint(255.0 * mask.clip(0.0, 1.0)).astype(np.uint8))


def _scene(index: int, difficulty: Difficulty, word: bool) -> Scene:
    return sample_scene(index, split="train", difficulty=difficulty, word=word or None)


def _through_jpeg(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
