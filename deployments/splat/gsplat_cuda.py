"""Gaussians drawn on an NVIDIA GPU by gsplat (Ye et al. 2025), which compiles its kernels when first called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gsplat
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deployments.rendering.camera import Camera
from deployments.rendering.messages import RasterOptions, Rendered
from deployments.splat.differentiable import Differentiable
from deployments.splat.gaussians import Gaussians

Float32 = npt.NDArray[np.float32]
_TILE = 16
# Views in one call: what gsplat keeps of each pair of tile and Gaussian grows with them.
_VIEWS_AT_ONCE = 8


@dataclass(frozen=True, slots=True, eq=False)
class GsplatScene:
    """Gaussians in the GPU's memory; see `Gaussians` and `Motion` for the arrays.

    Attributes:
        period_s: of the motion; 0 where nothing moves, and then the last two are empty.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor
    sh_degree: int
    period_s: float
    waves: Tensor
    turns: Tensor

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes."""
        arrays = (self.means, self.quats, self.scales, self.opacities, self.sh, self.waves, self.turns)
        return sum(array.numel() * array.element_size() for array in arrays)

    def at(self, time_s: float) -> tuple[Tensor, Tensor]:
        """Centres and quaternions at a moment, as `Motion.apply` has them."""
        if not self.period_s:
            return self.means, self.quats
        phase = 2 * math.pi * ((time_s / self.period_s) % 1.0)
        angles = phase * torch.arange(1, self.waves.shape[1] + 1, device=self.means.device)
        basis = torch.stack([angles.sin(), angles.cos() - 1], dim=1)
        means = self.means + torch.einsum("nkcd,kc->nd", self.waves, basis)
        vectors = self.turns * phase
        angle = vectors.norm(dim=1, keepdim=True)
        w, axis = torch.cos(angle / 2), vectors * (0.5 * torch.sinc(angle / (2 * math.pi)))
        own_w, own_axis = self.quats[:, :1], self.quats[:, 1:]
        turned_w = w * own_w - (axis * own_axis).sum(dim=1, keepdim=True)
        turned_axis = w * own_axis + own_w * axis + torch.linalg.cross(axis, own_axis)
        return means, torch.cat([turned_w, turned_axis], dim=1)


class GsplatRasteriser:
    """See `deployments.splat.rasteriser.Rasteriser`."""

    def __init__(self) -> None:
        self.device: Literal["cpu", "cuda"] = "cuda"

    def load(self, gaussians: Gaussians) -> GsplatScene:
        """The scene, copied to the GPU."""
        motion = gaussians.motion
        nothing = np.zeros(0, np.float32)
        arrays = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
        moving = (motion.waves, motion.turns) if motion else (nothing, nothing)
        means, quats, scales, opacities, sh, waves, turns = (torch.from_numpy(a).cuda() for a in (*arrays, *moving))
        period_s = motion.period_s if motion else 0.0
        return GsplatScene(means, quats, scales, opacities, sh, gaussians.sh_degree, period_s, waves, turns)

    @torch.inference_mode()
    def render(
        self, scene: GsplatScene, cameras: Sequence[Camera], options: RasterOptions, time_s: float = 0.0
    ) -> list[Rendered]:
        """One picture a camera; those of one size in calls of up to 8."""
        means, quats = scene.at(time_s)
        drawn: dict[int, Rendered] = {}
        for size in {(camera.width, camera.height) for camera in cameras}:
            same = [i for i, camera in enumerate(cameras) if (camera.width, camera.height) == size]
            for start in range(0, len(same), _VIEWS_AT_ONCE):
                chunk = same[start : start + _VIEWS_AT_ONCE]
                pictures = _render(scene, means, quats, [cameras[i] for i in chunk], options)
                drawn |= dict(zip(chunk, pictures, strict=True))
        return [drawn[i] for i in range(len(cameras))]


def _render(
    scene: GsplatScene, means: Tensor, quats: Tensor, cameras: Sequence[Camera], options: RasterOptions
) -> list[Rendered]:
    width, height = cameras[0].width, cameras[0].height
    if not len(means):
        empty = np.zeros((height, width), np.float32)
        return [Rendered(empty[..., None] + np.asarray(options.background, np.float32), empty, empty) for _ in cameras]
    colours, alphas, _ = gsplat.rasterization(
        means,
        quats,
        scene.scales,
        scene.opacities,
        scene.sh,
        _stacked([camera.world_to_camera for camera in cameras]),
        _stacked([camera.intrinsics for camera in cameras]),
        width,
        height,
        near_plane=options.near,
        far_plane=options.far,
        radius_clip=options.radius_clip,
        sh_degree=scene.sh_degree if options.sh_degree is None else min(options.sh_degree, scene.sh_degree),
        packed=True,
        tile_size=_TILE,
        backgrounds=torch.tensor([options.background] * len(cameras), device="cuda"),
        render_mode="RGB+ED",
        rasterize_mode="antialiased" if options.antialiased else "classic",
    )
    values, covered = colours.cpu().numpy(), alphas[..., 0].cpu().numpy()
    return [
        Rendered(np.ascontiguousarray(value[..., :3]), alpha, np.ascontiguousarray(value[..., 3]))
        for value, alpha in zip(values, covered, strict=True)
    ]


def coverage(
    scene: GsplatScene, cameras: Sequence[Camera], masks: np.ndarray[Any, Any], time_s: float, near: float
) -> tuple[Float32, Float32]:
    """See `deployments.splat.coverage.weights`: the slope of two colours that count, one the mask and one all."""
    means, quats = scene.at(time_s)
    counted = torch.zeros(len(means), 3, device="cuda", requires_grad=True)
    for camera, mask in zip(cameras, masks, strict=True):
        picture, _, _ = gsplat.rasterization(
            means,
            quats,
            scene.scales,
            scene.opacities,
            counted,
            _stacked([camera.world_to_camera]),
            _stacked([camera.intrinsics]),
            camera.width,
            camera.height,
            near_plane=near,
        )
        inside = torch.from_numpy(mask.astype(np.float32)).cuda()
        picture.backward(torch.stack([inside, torch.ones_like(inside), torch.zeros_like(inside)], dim=-1)[None])
    found = torch.zeros_like(counted) if counted.grad is None else counted.grad
    return found[:, 0].cpu().numpy(), found[:, 1].cpu().numpy()


def render_on_graph(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    sh: Tensor,
    camera: Camera,
    background: tuple[float, float, float],
    antialiased: bool,
    sh_degree: int | None,
) -> Differentiable:
    """See `render_differentiable`: gsplat's steps one by one, so that the centres in the picture are on the graph."""
    width, height = camera.width, camera.height
    radii, centres, depths, conics, compensations = gsplat.fully_fused_projection(
        means,
        None,
        quats,
        scales,
        _stacked([camera.world_to_camera]),
        _stacked([camera.intrinsics]),
        width,
        height,
        calc_compensations=antialiased,
        opacities=opacities,
    )
    means2d = centres[0]
    if means2d.requires_grad:
        means2d.retain_grad()
    seen = (radii[0] > 0).all(dim=-1)
    directions = means - torch.as_tensor(camera.position, dtype=means.dtype, device=means.device)
    stored = math.isqrt(sh.shape[1]) - 1
    degree = stored if sh_degree is None else min(sh_degree, stored)
    colour = (gsplat.spherical_harmonics(degree, directions, sh, masks=seen) + 0.5).clamp_min(0)
    shown = opacities[None] * compensations if antialiased else opacities[None]
    across, down = math.ceil(width / _TILE), math.ceil(height / _TILE)
    _, pairs, listed = gsplat.isect_tiles(means2d[None], radii, depths, _TILE, across, down)
    values, alphas = gsplat.rasterize_to_pixels(
        means2d[None],
        conics,
        torch.cat([colour[None], depths[..., None]], dim=-1),
        shown,
        width,
        height,
        _TILE,
        gsplat.isect_offset_encode(pairs, 1, across, down),
        listed,
        backgrounds=torch.tensor([[*background, 0.0]], device=means.device),
    )
    alpha = alphas[0, ..., 0]
    depth = values[0, ..., 3] / alpha.clamp_min(1e-10)
    return Differentiable(values[0, ..., :3], alpha, depth, means2d, radii[0].amax(dim=-1), seen.nonzero().flatten())


def _stacked(matrices: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]) -> Tensor:
    return torch.from_numpy(np.stack(matrices).astype(np.float32)).cuda()
