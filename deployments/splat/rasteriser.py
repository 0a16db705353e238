"""One interface for drawing Gaussians, with a back end for NVIDIA GPUs (gsplat) and one for CPUs (ours).

Both keep gsplat's constants, so that their pictures agree: 0.3 px^2 added to a projected covariance, contributions
below 1/255 left out, at most 0.999 of a pixel covered by one Gaussian, and none drawn where less than 1e-4 shines
through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from deployments.rendering.camera import Camera
from deployments.rendering.messages import RasterOptions, Rendered
from deployments.splat.gaussians import Gaussians
from serve.errors import Unavailable

EPS2D = 0.3
LEAST_ALPHA = 1 / 255
MOST_ALPHA = 0.999
LEAST_TRANSMITTANCE = 1e-4


class Loaded(Protocol):
    """A scene where the rasteriser wants it."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes there, in bytes."""


class Rasteriser(Protocol):
    """Draws scenes. Its methods block, and are called from one thread."""

    device: Literal["cpu", "cuda"]

    def load(self, gaussians: Gaussians) -> Any:
        """A `Loaded` of this rasteriser."""

    def render(
        self, scene: Any, cameras: Sequence[Camera], options: RasterOptions, time_s: float = 0.0
    ) -> list[Rendered]:
        """One picture a camera, in order; cameras of one size are drawn together where that is faster."""


def make_rasteriser(backend: Literal["auto", "cpu", "gsplat"], threads: int = 1) -> Rasteriser:
    """The back end: `auto` takes gsplat where torch has a GPU.

    Args:
        threads: of the CPU back end.

    Raises:
        Unavailable: gsplat was asked for and there is no GPU, or no gsplat.
    """
    if backend == "cpu" or (backend == "auto" and not _has_gpu()):
        from deployments.splat.cpu import CpuRasteriser

        return CpuRasteriser(threads)
    if not _has_gpu():
        raise Unavailable("gsplat draws on a CUDA device and torch finds none; use the back end cpu, or auto.")
    from deployments.splat.gsplat_cuda import GsplatRasteriser

    return GsplatRasteriser()


def _has_gpu() -> bool:
    # Here, since the CPU back end needs no torch.
    import torch

    return torch.cuda.is_available()
