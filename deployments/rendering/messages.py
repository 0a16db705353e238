"""What is asked of a renderer, whether it draws Gaussians or a radiance field, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt

from deployments.messages import TaskRequest
from deployments.rendering.camera import Camera

SceneKind = Literal["gaussians", "nerf"]
Output = Literal["rgb", "depth", "alpha"]
# `raw` is an array, as it was rendered; `npy` is the same as a file.
Encoding = Literal["png", "jpeg", "webp", "exr", "npy", "raw"]
Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
LONGEST_FILM_SIDE: Final = 16_384
"""In pixels; x264 takes no more."""
NEAR: Final = 0.01
"""gsplat's near plane, in the scene's unit; it suits scenes that are about 1 or more across."""


@dataclass(frozen=True, slots=True)
class SceneRef:
    """One state of a scene, known by its content, so that what is cached under it never goes stale.

    Attributes:
        digest: SHA-256 of the scene's file in the store, in hexadecimal.
        nbytes: of that file.
        motion_s: length of its motion in seconds; 0 when nothing moves.
    """

    kind: SceneKind
    digest: str
    nbytes: int
    motion_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RasterOptions:
    """How Gaussians are drawn; the names and defaults are gsplat's.

    Attributes:
        background: red, green, blue from 0 to 1, behind what is not covered.
        antialiased: lower a Gaussian's opacity by how much the pixel filter widened it (Yu et al. 2024, Mip-Splatting).
        sh_degree: highest degree of spherical harmonics evaluated; all there are when None.
        radius_clip: Gaussians whose radius in the picture is at most so many pixels are left out.
        near, far: depths between which Gaussians are drawn.
    """

    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    antialiased: bool = False
    sh_degree: int | None = None
    radius_clip: float = 0.0
    near: float = NEAR
    far: float = 1e10


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """One view as a rasteriser gives it.

    Attributes:
        rgb: (height, width, 3) float32, linear in the scene's own colours, background included; not clipped.
        alpha: (height, width) float32 from 0 to 1.
        depth: (height, width) float32: the expected depth, along z, of what covers a pixel; 0 where nothing does.
    """

    rgb: Float32
    alpha: Float32
    depth: Float32


@dataclass(frozen=True, slots=True, eq=False)
class ViewFiles:
    """One view as it was asked for.

    Attributes:
        files: encoded pictures, or arrays with `raw`: rgb (height, width, 3) uint8, alpha (height, width) uint8, depth
            (height, width) float32.
        samples: of a radiance field: passes that went into it; 1 for Gaussians.
    """

    files: dict[Output, bytes | UInt8 | Float32]
    samples: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class RenderResult:
    """An entry of `views` is the error that this view alone met.

    Attributes:
        queue_wait_s: see `deployments.messages.ClassifyResult`.
        took_s: seconds from the request's arrival at the renderer to this answer.
    """

    views: tuple[ViewFiles | Exception, ...]
    queue_wait_s: float = 0.0
    took_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class RenderRequest(TaskRequest[RenderResult]):
    """Views of one scene.

    Attributes:
        cameras: at least one.
        outputs: at least one; depth is never written as JPEG or WebP; PNG holds it in 16 bits, as thousandths of the
            scene's unit, at most 65,535.
        time_s: a moving scene's moment; one outside its length wraps around.
        quality: of JPEG and WebP, 1 to 100.
        effort: for radiance fields, from 0 (coarse, at once) to 1 (every sample).
    """

    method: ClassVar[str] = "render"

    scene: SceneRef
    cameras: tuple[Camera, ...]
    outputs: tuple[Output, ...] = ("rgb",)
    encoding: Encoding = "png"
    options: RasterOptions = RasterOptions()
    time_s: float = 0.0
    quality: int = 90
    effort: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class FilmSegment:
    """Some frames of a film, ready to be joined (`deployments.rendering.film.join`).

    Attributes:
        data: an MP4 file (H.264, 4:2:0); its frames are those of the request, 1 / fps apart from 0 on.
        queue_wait_s: see `deployments.messages.ClassifyResult`.
    """

    data: bytes
    queue_wait_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class FilmRequest(TaskRequest[FilmSegment]):
    """A camera's way through a scene as a video. A frame that cannot be drawn fails the segment.

    Attributes:
        cameras: one a frame, all of one size; a film's odd last row or column is shown twice.
        fps: frames a second.
        times_s: a moving scene's moment for each frame; all 0 when left empty.
        quality: 1 to 100.
        effort: see `RenderRequest`.
    """

    method: ClassVar[str] = "film"

    scene: SceneRef
    cameras: tuple[Camera, ...]
    fps: float
    times_s: tuple[float, ...] = ()
    options: RasterOptions = RasterOptions()
    quality: int = 80
    effort: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class CoverResult:
    """What N Gaussians give to the pixels of all views together; see `deployments.splat.coverage.weights`.

    Attributes:
        inside: (N,) float32: to the pixels in the masks.
        total: (N,) float32: to all pixels.
        queue_wait_s: see `deployments.messages.ClassifyResult`.
    """

    inside: Float32
    total: Float32
    queue_wait_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class CoverRequest(TaskRequest[CoverResult]):
    """Which Gaussians a region of some pictures shows, as is asked when a mask is lifted into 3D.

    Attributes:
        masks: one a camera: (height, width) bool.
        near: see `RasterOptions`.
    """

    method: ClassVar[str] = "cover"

    scene: SceneRef
    cameras: tuple[Camera, ...]
    masks: tuple[Mask, ...]
    time_s: float = 0.0
    near: float = NEAR
