"""Gaussians drawn so that a loss of the picture has a gradient: for reconstruction.

On the CPU the kernels of the rasteriser draw, and kernels of their own take the gradient back; on a GPU all of it is
gsplat's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deployments.rendering.camera import Camera
from deployments.rendering.messages import RasterOptions
from deployments.splat.cpu import CpuScene, Ellipses, bases, draw, gradient, lens, pose, see
from deployments.splat.cpu_jit import Threads
from deployments.splat.cpu_project import REACH_X, REACH_Y, Float32, U, covariances
from deployments.splat.cpu_project_gradient import project_gradient
from deployments.splat.gaussians import Gaussians

Background = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Differentiable:
    """A picture on the graph.

    Attributes:
        rgb: (height, width, 3), background included.
        alpha: (height, width).
        depth: (height, width): expected depth; 0 where nothing is.
        means2d: (N, 2): centres in pixels, 0 for those that are not seen; after `backward` its `grad` is filled.
        radii: (N,) int32: half the longer side of an ellipse's box in pixels, 0 for those that are not seen.
        visible: (M,) int64: which are seen.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    means2d: Tensor
    radii: Tensor
    visible: Tensor


def render_differentiable(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    sh: Tensor,
    camera: Camera,
    *,
    background: Background = (0.0, 0.0, 0.0),
    antialiased: bool = False,
    sh_degree: int | None = None,
    threads: int = 1,
) -> Differentiable:
    """Draws Gaussians.

    Args:
        means: (N, 3) float32; as all of them on one device.
        quats: (N, 4), w, x, y, z; of any length above 0.
        scales: (N, 3), above 0.
        opacities: (N,), from 0 to 1.
        sh: (N, K, 3), K being 1, 4, 9 or 16.
        sh_degree: highest degree evaluated; all there are when None.
        threads: on the CPU.
    """
    if means.is_cuda:
        from deployments.splat.gsplat_cuda import render_on_graph

        return render_on_graph(means, quats, scales, opacities, sh, camera, background, antialiased, sh_degree)
    gaussians = Gaussians(*(_array(values) for values in (means, quats, scales, opacities, sh)))  # type: ignore[arg-type]
    options = RasterOptions(background, antialiased, sh_degree)
    pool = _threads(threads)
    covariance = np.empty((len(gaussians), 6), np.float32)
    pool.over(len(gaussians), lambda begin, end: covariances(begin, end, gaussians.quats, gaussians.scales, covariance))
    ellipses = see(CpuScene(gaussians, covariance), camera, options, pool)
    ids = torch.from_numpy(ellipses.order.astype(np.int64))
    means2d, radii = torch.zeros(len(means), 2), torch.zeros(len(means), dtype=torch.int32)
    means2d[ids] = torch.from_numpy(ellipses.values[:, U : U + 2])
    radii[ids] = torch.from_numpy(np.ceil(ellipses.values[:, [REACH_X, REACH_Y]].max(axis=1)).astype(np.int32))
    means2d.requires_grad_()
    rgb, alpha, depth = _Draw.apply(  # type: ignore[no-untyped-call]
        means, quats, scales, opacities, sh, means2d, _View(gaussians, ellipses, camera, options, pool)
    )
    return Differentiable(rgb, alpha, depth, means2d, radii, ids)


@lru_cache
def _threads(count: int) -> Threads:
    return Threads(count)


def _array(values: Tensor) -> Float32:
    array: Float32 = values.detach().contiguous().numpy()
    return array


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """What `_Draw` needs beside tensors."""

    gaussians: Gaussians
    ellipses: Ellipses
    camera: Camera
    options: RasterOptions
    threads: Threads


class _Draw(torch.autograd.Function):
    """Gaussians to pixels. The places in the picture go in as a tensor of their own only to receive their gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        sh: Tensor,
        means2d: Tensor,
        view: _View,
    ) -> tuple[Tensor, Tensor, Tensor]:
        camera = view.camera
        picture = draw(view.ellipses, camera.width, camera.height, view.options.background, view.threads)
        ctx.view = view
        rgb, alpha, depth = (torch.from_numpy(array) for array in (picture.rgb, picture.alpha, picture.depth))
        ctx.save_for_backward(rgb, alpha, depth)
        return rgb, alpha, depth

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        rgb, alpha, depth = (tensor.numpy() for tensor in ctx.saved_tensors)
        by_rgb, by_alpha, by_depth = (slope.numpy() for slope in slopes)
        # depth = far / alpha, far being the sum of weight times depth.
        by_far = np.where(alpha > 0, by_depth / np.maximum(alpha, np.float32(1e-10)), np.float32(0))
        by_weight = by_alpha - by_far * depth
        by_sums = np.stack([*np.moveaxis(by_rgb, 2, 0), by_far, by_weight])
        total = (rgb * by_rgb).sum(axis=2) + depth * alpha * by_far + alpha * by_weight
        view: _View = ctx.view
        by_ellipse = gradient(view.ellipses, by_sums, total, view.threads)
        by_place = np.zeros((len(view.gaussians), 2), np.float32)
        by_place[view.ellipses.order] = by_ellipse[:, U : U + 2]
        arrays = (*_by_gaussian(view, by_ellipse), by_place)
        return (*(torch.from_numpy(array) for array in arrays), None)


def _by_gaussian(view: _View, by_ellipse: Float32) -> list[Float32]:
    """Of means, quats, scales, opacities and harmonics."""
    gaussians, camera = view.gaussians, view.camera
    own = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
    found = [np.zeros_like(array) for array in own]
    rotation, eye = pose(camera)
    view.threads.over(
        len(view.ellipses.order),
        lambda begin, end: project_gradient(
            begin,
            end,
            view.ellipses.order,
            by_ellipse,
            view.ellipses.values,
            *own,
            bases(gaussians, view.options),
            rotation,
            eye,
            lens(camera),
            view.options.antialiased,
            *found,
        ),
    )
    return found
