"""Scenes for calibrating and measuring cascades: all difficulties mixed, the largest object's colour or shape as label.

python -m benchmarks.calibration_scenes var/val-scenes --split val --count 4000 --label colour

writes PNG files and labels.csv, as `argus calibrate --data` reads them.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image

from demo.scenes import COLOURS, DIFFICULTIES, SHAPES, SPLITS, Scene, Split, render, sample_scene
from serve.errors import ConfigError

Attribute = Literal["colour", "shape"]

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


def asked_for(labels: Sequence[str]) -> Attribute:
    """Which attribute of the largest object a label set is about.

    Raises:
        ConfigError: neither all colours nor all shapes.
    """
    for attribute, names in (("colour", COLOURS), ("shape", SHAPES)):
        if set(labels) == set(names):
            return attribute  # type: ignore[return-value]
    raise ConfigError(f"Labels {', '.join(labels)} are neither the scene world's colours nor its shapes")


def truth(scene: Scene, attribute: Attribute) -> str:
    """The right label."""
    return scene.subject.colour if attribute == "colour" else scene.subject.shape


def write(folder: Path, scenes: list[Scene], attribute: Attribute) -> None:
    """Pictures and labels.csv, which comes last: a folder that has it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:05d}.png" for number in range(len(scenes))]
    for name, scene in zip(names, scenes, strict=True):
        Image.fromarray(render(scene, SIZE)).save(folder / name)
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "label"))
        rows.writerows((name, truth(scene, attribute)) for name, scene in zip(names, scenes, strict=True))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=get_args(Split), default="val")
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--label", choices=get_args(Attribute), default="colour")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.folder, mixture(arguments.split, arguments.count, arguments.seed), arguments.label)


if __name__ == "__main__":
    main()
