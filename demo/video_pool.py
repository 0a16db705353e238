"""A pool of rendered training clips with their subjects' tracks, kept as memory-mapped arrays outside the repository.

python -m demo.video_pool /var/tmp/videos --count 16000
"""

from __future__ import annotations

import argparse
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo.clip_pool import shrink
from demo.scenes import MOTIONS, Difficulty, Scene, SceneObject, render_video, sample_scene, subject_track

SIDE, FRAMES = 64, 8
TRACK = 5
_NATIVE_SIZES, _NATIVE_SHARES = (64, 96, 128, 224), (0.7, 0.1, 0.12, 0.08)
_RATES = (3.0, 4.0, 4.0, 5.0)
_EASY_SHARE = 0.55
#: After this turn, a fraction of a full one, a shape looks as before; round shapes look so after any.
_SYMMETRY = {"square": 4, "cross": 4, "triangle": 3, "star": 5, "heart": 1, "crescent": 1}


@dataclass(frozen=True, slots=True)
class VideoPool:
    """N clips: `frames` (N, 8, 64, 64, 3) uint8; `tracks` (N, 8, 5) float32, of the subject: x and y from -1 to 1, the
    logarithm of its size, cosine and sine of its turn times its symmetry, zeros for round shapes; the scenes' keys."""

    frames: NDArray[np.uint8]
    tracks: NDArray[np.float32]
    scenes: tuple[tuple[int, Difficulty], ...]

    def scene(self, number: int) -> Scene:
        """The scene behind a clip."""
        return _scene(*self.scenes[number])


def track(scene: Scene, fps: float) -> NDArray[np.float32]:
    """The row of `VideoPool.tracks` for a scene."""
    return np.array([_state(item) for item in subject_track(scene, FRAMES, fps)], np.float32)


def build_video_pool(folder: Path, count: int, seed: int) -> None:
    """Render training clips of mixed native sizes and rates."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    frames = np.lib.format.open_memmap(folder / "frames.npy", "w+", np.uint8, (count, FRAMES, SIDE, SIDE, 3))
    tracks = np.empty((count, FRAMES, TRACK), np.float32)
    keys: list[tuple[int, Difficulty]] = []
    for number in range(count):
        keys.append((number, "easy" if rng.random() < _EASY_SHARE else "medium"))
        scene, fps = _scene(*keys[-1]), float(rng.choice(_RATES))
        clip = render_video(scene, int(rng.choice(_NATIVE_SIZES, p=_NATIVE_SHARES)), FRAMES, fps)
        frames[number] = np.stack([shrink(picture, SIDE) for picture in clip])
        tracks[number] = track(scene, fps)
    frames.flush()
    np.save(folder / "tracks.npy", tracks)
    (folder / "scenes.json").write_text(json.dumps(keys))


def load_video_pool(folder: Path) -> VideoPool:
    """Map a finished pool into memory."""
    keys = json.loads((folder / "scenes.json").read_text())
    return VideoPool(
        frames=np.load(folder / "frames.npy", mmap_mode="r"),
        tracks=np.load(folder / "tracks.npy"),
        scenes=tuple((index, difficulty) for index, difficulty in keys),
    )


def _state(item: SceneObject) -> tuple[float, ...]:
    times = _SYMMETRY.get(item.shape, 0)
    turn = (math.cos(times * item.rotation), math.sin(times * item.rotation)) if times else (0.0, 0.0)
    return (2.0 * item.x - 1.0, 2.0 * item.y - 1.0, math.log(item.size), *turn)


def _scene(index: int, difficulty: Difficulty) -> Scene:
    # Every motion alike: the scene world itself would draw them at random, which comes to the same, but a count
    # that is no multiple of nine would then lean one way.
    return sample_scene(index, split="train", difficulty=difficulty, motion=MOTIONS[index % len(MOTIONS)])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=16_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.nice(19)
    build_video_pool(arguments.folder, arguments.count, arguments.seed)


if __name__ == "__main__":
    main()
