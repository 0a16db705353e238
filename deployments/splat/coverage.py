"""How much of what each Gaussian adds to pictures falls on a part of them: what lifts masks of pictures to Gaussians.

The measure is that of FlashSplat (Shen et al. 2024): the sum of blending weights over the pixels of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deployments.rendering.camera import Camera
from deployments.rendering.messages import NEAR, RasterOptions
from deployments.splat.cpu import CpuRasteriser, CpuScene, gradient, see
from deployments.splat.cpu_jit import Threads
from deployments.splat.cpu_project import GREEN, RED, Float32
from deployments.splat.gaussians import Gaussians
from deployments.splat.rasteriser import Loaded


def weights(
    scene: Gaussians | Loaded,
    cameras: Sequence[Camera],
    masks: npt.NDArray[np.bool_] | Float32,
    *,
    time_s: float = 0.0,
    near: float = NEAR,
    threads: int = 1,
) -> tuple[Float32, Float32]:
    """Blending weights summed over pixels and cameras, where the scene is: Gaussians are loaded on the CPU.

    Args:
        masks: (cameras, height, width): true, or a weight from 0 to 1, where it counts as inside; the size is that of
            each camera's picture.
        near: see `RasterOptions`.
        threads: on the CPU.

    Returns:
        (N,) float32 twice: on the masks, and everywhere.
    """
    if not isinstance(scene, Gaussians | CpuScene):
        from deployments.splat.gsplat_cuda import coverage

        return coverage(scene, cameras, masks, time_s, near)  # type: ignore[arg-type]
    pool = Threads(threads)
    loaded = scene if isinstance(scene, CpuScene) else CpuRasteriser(threads).load(scene)
    if loaded.gaussians.motion is not None:
        loaded = CpuRasteriser(threads).load(loaded.gaussians.at(time_s))
    count = len(loaded.gaussians)
    inside, everywhere = np.zeros(count, np.float32), np.zeros(count, np.float32)
    for camera, mask in zip(cameras, masks, strict=True):
        ellipses = see(loaded, camera, RasterOptions(near=near), pool)
        # A picture is linear in colours, and a weight is its slope: red counts the mask, green counts all.
        slopes = np.zeros((5, camera.height, camera.width), np.float32)
        slopes[0], slopes[1] = mask, 1
        found = gradient(ellipses, slopes, np.zeros(mask.shape, np.float32), pool)
        inside[ellipses.order] += found[:, RED]
        everywhere[ellipses.order] += found[:, GREEN]
    return inside, everywhere
