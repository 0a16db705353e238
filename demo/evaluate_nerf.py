"""Measure a radiance field on views of a demo scene that it was not trained on.

python -m demo.evaluate_nerf demo/scenes3d/files/table.nerf
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from skimage.metrics import structural_similarity

from demo.scenes3d import NAMES, Name, build, draw, orbit_cameras
from demo.scenes3d.views import Pixels
from deployments.nerf.checkpoint import read
from deployments.nerf.field import RadianceField
from deployments.nerf.render import render
from deployments.rendering.camera import Camera

_VIEWS = 8
_GREY = (0.7, 0.7, 0.71)


@dataclass(frozen=True, slots=True)
class Score:
    """Means over held-out views.

    Attributes:
        psnr: in dB.
        ssim: structural similarity, at most 1.
        seconds: of a processor, to draw one view.
    """

    psnr: float
    ssim: float
    seconds: float

    def __str__(self) -> str:
        return f"PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.4f}, {self.seconds:.2f} CPU s a view"


def held_out(scene: Name, size: int, count: int = _VIEWS) -> tuple[list[Pixels], list[Camera]]:
    """Views between those of any training, before a grey background."""
    cameras = orbit_cameras(count, size, size, elevations=(17.0, 33.0, 52.0), start_deg=11.0)
    return draw(build(scene).gaussians, cameras, _GREY), cameras


def measure(field: RadianceField, scene: Name, size: int, effort: float = 1.0, count: int = _VIEWS) -> Score:
    """Draws the held-out views and compares."""
    right, cameras = held_out(scene, size, count)
    scores, seconds = [], 0.0
    for wanted, camera in zip(right, cameras, strict=True):
        started = time.process_time()
        view = render(field, camera, effort=effort, background=_GREY)
        seconds += time.process_time() - started
        scores.append(similarity(view.rgb, wanted))
    psnr, ssim = np.mean(scores, axis=0).tolist()
    return Score(psnr, ssim, seconds / len(cameras))


def similarity(drawn: np.ndarray, wanted: Pixels) -> tuple[float, float]:
    """PSNR in dB and SSIM of a picture (height, width, 3) of floats, and one of uint8."""
    pixels, truth = drawn.clip(0, 1), wanted / np.float32(255)
    error = max(float(((pixels - truth) ** 2).mean()), 1e-12)
    return -10 * float(np.log10(error)), float(structural_similarity(truth, pixels, channel_axis=2, data_range=1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--scene", default="table", choices=NAMES)
    parser.add_argument("--size", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    field = read(arguments.file.read_bytes())
    for effort in (0.0, 0.3, 0.6, 1.0):
        print(f"effort {effort:g}: {measure(field, arguments.scene, arguments.size, effort)}")


if __name__ == "__main__":
    main()
