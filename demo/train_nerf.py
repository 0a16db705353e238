"""Train the demo's radiance fields on views of a demo scene in 3D, on one core.

    python -m demo.train_nerf --steps 3000 --out demo/scenes3d/files/table.nerf
    python -m demo.train_nerf --variant mlp --width 64 --steps 1500 --out table-mlp.nerf

Stopped and started again with the same arguments it goes on where it was. The views it learns from are transparent, so
the field can be put before any background.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from demo.evaluate_nerf import measure
from demo.scenes3d import NAMES, Name, build, cutouts, orbit_cameras
from demo.scenes3d.views import Pixels
from deployments.nerf.checkpoint import write
from deployments.nerf.settings import FieldSettings, Variant
from deployments.nerf.train import Progress, TrainSettings, train
from deployments.rendering.camera import Camera

#: Holds the plate and what stands on it; the world's y axis points down.
LEAST, MOST = (-1.3, -0.72, -1.3), (1.3, 0.1, 1.3)
_LOG_EVERY = 100


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """Transparent views (height, width, 4) of a scene, and their cameras."""

    images: list[Pixels]
    cameras: list[Camera]


def lesson(scene: Name, views: int, size: int) -> Lesson:
    """What a field is trained on."""
    cameras = orbit_cameras(views, size, size, elevations=(10.0, 25.0, 42.0, 62.0))
    return Lesson(cutouts(build(scene).gaussians, cameras), cameras)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", default="table", choices=NAMES)
    parser.add_argument("--variant", default="hash", choices=get_args(Variant))
    parser.add_argument("--width", type=int, default=256, help="units of the MLP's layers; 256 is the published size")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--views", type=int, default=72)
    parser.add_argument("--size", type=int, default=128, help="side of a view in pixels")
    parser.add_argument("--samples", type=int, help="see deployments/nerf/train.py")
    parser.add_argument("--rays", type=int, default=512, help="of a step of the MLP")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    taught = lesson(arguments.scene, arguments.views, arguments.size)
    settings = FieldSettings(variant=arguments.variant, width=arguments.width, least=LEAST, most=MOST)
    options = TrainSettings(arguments.steps, rays=arguments.rays, samples=arguments.samples, seed=arguments.seed)
    state = arguments.out.with_suffix(".state")
    field = train(taught.images, taught.cameras, settings, options, device=arguments.device, state=state, progress=_log)
    arguments.out.write_bytes(write(field))
    state.unlink()
    print(measure(field, arguments.scene, arguments.size))


def _log(progress: Progress) -> None:
    if progress.step % _LOG_EVERY == 0:
        print(
            f"step {progress.step}/{progress.steps}: {progress.psnr:.2f} dB, {progress.rays} rays, "
            f"{progress.seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
