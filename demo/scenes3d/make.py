"""Make the shipped scenes of Gaussians again.

    python -m demo.scenes3d.make

The radiance field beside them takes minutes; `demo/train_nerf.py` makes it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from demo.scenes3d.views import draw, orbit_cameras
from demo.scenes3d.world import Name, build
from deployments.splat import formats
from deployments.splat.formats import FormatName
from deployments.splat.gaussians import Gaussians

FILES = Path(__file__).parent / "files"
#: What does not move is small as SPZ; only our own format keeps motion.
SHIPPED: dict[str, tuple[Name, FormatName]] = {"table.spz": ("table", "spz"), "carousel.argus": ("carousel", "argus")}


def make(folder: Path) -> None:
    """Writes the files, and prints how large they are and how well they keep the scene."""
    folder.mkdir(parents=True, exist_ok=True)
    for filename, (name, format) in SHIPPED.items():
        gaussians = build(name).gaussians
        data = formats.write(gaussians, format)
        (folder / filename).write_bytes(data)
        kept = formats.read(data, format, max_gaussians=len(gaussians))
        print(f"{filename}: {len(gaussians):,} Gaussians, {len(data):,} bytes, {fidelity(gaussians, kept):.1f} dB")


def fidelity(scene: Gaussians, kept: Gaussians) -> float:
    """PSNR in dB of views of the one beside the other."""
    cameras = orbit_cameras(6, 256, 256)
    pairs = zip(draw(scene, cameras), draw(kept, cameras), strict=True)
    errors = [float(((one / 255.0 - other / 255.0) ** 2).mean()) for one, other in pairs]
    return -10 * float(np.log10(max(float(np.mean(errors)), 1e-12)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FILES, help="folder; the shipped one when left out")
    make(parser.parse_args().out)


if __name__ == "__main__":
    main()
