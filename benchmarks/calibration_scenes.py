"""Scenes for calibrating and measuring cascades: all difficulties mixed, labelled with the largest object's shape.

python -m benchmarks.calibration_scenes var/val-scenes --split val --count 4000

writes PNG files and labels.csv, as `argus calibrate --data` reads them.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from demo.scenes import DIFFICULTIES, SPLITS, Scene, Split, render, sample_scene

#: Shares of easy, medium and hard scenes: most requests are easy, as in most traffic.
SHARES = (0.60, 0.25, 0.15)
SIZE = 224


def mixture(split: Split, count: int, seed: int = 0) -> list[Scene]:
    """The first scenes of a split; each scene's difficulty is drawn by itself, so that they are independent draws."""
    rng = np.random.default_rng([seed, SPLITS.index(split), 1])
    levels = rng.choice(len(DIFFICULTIES), size=count, p=SHARES)
    return [
        sample_scene(number, split=split, difficulty=DIFFICULTIES[level], seed=seed)
        for number, level in enumerate(levels.tolist())
    ]


def write(folder: Path, scenes: list[Scene]) -> None:
    """Pictures and labels.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "label"))
        for number, scene in enumerate(scenes):
            name = f"{number:05d}.png"
            Image.fromarray(render(scene, SIZE)).save(folder / name)
            rows.writerow((name, scene.subject.shape))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=get_args(Split), default="val")
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.folder, mixture(arguments.split, arguments.count, arguments.seed))


if __name__ == "__main__":
    main()
