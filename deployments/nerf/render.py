"""Drawing rays of a field: as exactly as in training, or coarser and sooner."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from deployments.nerf.field import RadianceField
from deployments.nerf.rays import Rays, moved, pixel_rays
from deployments.nerf.volume import Drawn, box_range, composite, importance, ray_weights, stratified, within
from deployments.rendering.camera import Camera
from deployments.rendering.messages import Float32, Rendered

#: Samples on the longest ray through the box of a hash grid, and the coarse ones of MLPs (fine ones are twice as many).
HASH_SAMPLES: Final = 256
MLP_SAMPLES: Final = 64
# At no effort there are so many times fewer.
_FEWEST: Final = 8
# A ray ends where less than this shines through.
_OPAQUE: Final = 1e-3
# Occupied samples of a ray that are asked at once: fewer end rays sooner, more make larger batches.
_BLOCK: Final = 8


@dataclass(frozen=True, slots=True)
class Quality:
    """What an effort buys.

    Attributes:
        samples: on the longest ray through a hash grid's box, or coarse ones of MLPs.
        stride: side, in pixels, of the squares that share a ray.
    """

    samples: int
    stride: int


def quality(field: RadianceField, effort: float) -> Quality:
    """For an effort from 0 to 1: samples double with each third; below 1/4 one ray stands for 4x4 pixels, below 1/2 for
    2x2."""
    most = HASH_SAMPLES if field.grid is not None else MLP_SAMPLES
    samples = round(most * 2 ** (-math.log2(_FEWEST) * (1 - effort)))
    return Quality(samples, 4 if effort < 0.25 else 2 if effort < 0.5 else 1)


def draw(
    field: RadianceField,
    rays: Rays,
    samples: int,
    background: Tensor,
    generator: torch.Generator | None = None,
) -> Drawn:
    """Rays (N,) on the field's device; gradients flow into the field when they are enabled.

    Args:
        samples: see `Quality`.
        background: (3,) or (N, 3).
        generator: for random places of the samples, as in training; else they lie in the middle of their intervals.
    """
    if field.grid is None:
        return draw_mlp(field, rays, samples, background, generator)[1]
    return draw_hash(field, rays, samples, background, generator)[0]


def draw_mlp(
    field: RadianceField, rays: Rays, samples: int, background: Tensor, generator: torch.Generator | None = None
) -> tuple[Drawn, Drawn]:
    """By the coarse network, and by the fine one, which is asked where the coarse one found something."""
    near, far = box_range(rays.origins, rays.directions, field.least, field.most)
    edges, places = stratified(near, far, samples, generator)
    weights, colours = _asked(field, rays, edges, places, coarse=True)
    first = composite(weights, colours, places, background)
    more = importance(edges, weights, 2 * samples, generator)
    edges = torch.cat([edges, more], 1).sort(1).values
    places = within(edges, generator)
    weights, colours = _asked(field, rays, edges, places, coarse=False)
    return first, composite(weights, colours, places, background)


def _asked(field: RadianceField, rays: Rays, edges: Tensor, places: Tensor, *, coarse: bool) -> tuple[Tensor, Tensor]:
    points = rays.origins[:, None] + places[..., None] * rays.directions[:, None]
    directions = rays.directions[:, None].expand_as(points)
    density, colours = field.query(points.flatten(0, 1), directions.flatten(0, 1), coarse=coarse)
    return ray_weights(density.view(places.shape), edges.diff(dim=1)), colours.view(points.shape)


def draw_hash(
    field: RadianceField, rays: Rays, samples: int, background: Tensor, generator: torch.Generator | None = None
) -> tuple[Drawn, int]:
    """By equal steps through what the grid calls occupied; also how many samples were asked.

    Without gradients, a block of each ray's samples is asked after the other, and rays that have become opaque take
    part no more.
    """
    met = _march(field, rays, samples, generator)
    device = rays.origins.device
    most = int(met.rank.max()) + 1 if len(met.rank) else 0
    width = max(most, 1) if torch.is_grad_enabled() else _BLOCK
    stopped, reach = torch.zeros(len(rays), device=device), torch.zeros(len(rays), device=device)
    rgb = torch.zeros(len(rays), 3, device=device)
    asked = 0
    for start in range(0, most, width):
        now = (met.rank >= start) & (met.rank < start + width)
        if start:
            now &= (stopped < -math.log(_OPAQUE))[met.ray]
        which = now.nonzero().squeeze(1)
        if not len(which):
            break
        ray, place, length = met.ray[which], met.place[which], met.length[which]
        directions = rays.directions[ray]
        density, colours = field.query(rays.origins[ray] + place[:, None] * directions, directions)
        slot = ray * width + met.rank[which] - start
        along = torch.zeros(len(rays) * width, device=device).index_put((slot,), density * length)
        through = torch.exp(-stopped)[:, None]
        weights = (ray_weights(along.view(-1, width), 1) * through).flatten()[slot]
        rgb = rgb.index_add(0, ray, weights[:, None] * colours)
        reach = reach.index_add(0, ray, weights * place)
        stopped = stopped + along.view(-1, width).sum(1)
        asked += len(which)
    alpha = -torch.expm1(-stopped)
    depth = reach / alpha.clamp(min=1e-10)
    return Drawn(rgb + (1 - alpha)[:, None] * background, alpha, depth), asked


@dataclass(frozen=True, slots=True, eq=False)
class _Met:
    """Samples in occupied cells, ray by ray and from near to far: whose, how many before it, where, how long."""

    ray: Tensor
    rank: Tensor
    place: Tensor
    length: Tensor


@torch.no_grad()
def _march(field: RadianceField, rays: Rays, samples: int, generator: torch.Generator | None) -> _Met:
    assert field.grid is not None
    near, far = box_range(rays.origins, rays.directions, field.least, field.most)
    step = diagonal(field) / samples
    # No ray is longer in the box than its diagonal, except by rounding where a camera is far away.
    count = min(math.ceil(float((far - near).max() / step)), samples + 1) if len(rays) else 0
    begins = near[:, None] + step * torch.arange(count, device=near.device)
    full = field.grid.along(field.unit(rays.origins), rays.directions / field.settings.side, begins + 0.5 * step)
    ray, column = (full & (begins < far[:, None])).nonzero(as_tuple=True)
    counts = torch.bincount(ray, minlength=len(rays))
    rank = torch.arange(len(ray), device=ray.device) - (counts.cumsum(0) - counts)[ray]
    begin = begins[ray, column]
    length = torch.minimum(far[ray] - begin, torch.full_like(begin, step))
    share = 0.5 if generator is None else torch.rand(len(ray), generator=generator).to(ray.device)
    return _Met(ray, rank, begin + share * length, length)


def diagonal(field: RadianceField) -> float:
    """Length of the longest ray through the box."""
    return float((field.most - field.least).norm())


@torch.no_grad()
def render(
    field: RadianceField,
    camera: Camera,
    *,
    effort: float = 1.0,
    background: Sequence[float] = (0.0, 0.0, 0.0),
    chunk: int = 8192,
    between: Callable[[], None] = lambda: None,
) -> Rendered:
    """One view.

    Args:
        background: of a field that was trained without one of its own.
        chunk: rays drawn at once: the bound on memory.
        between: called before each chunk; what it raises ends the drawing.
    """
    asked = quality(field, effort)
    grid = reduced(camera, asked.stride)
    behind = torch.tensor(field.settings.background or tuple(background), dtype=torch.float32, device=field.device)
    parts = []
    for start in range(0, grid.width * grid.height, chunk):
        between()
        rays = pixel_rays(grid, start, min(start + chunk, grid.width * grid.height))
        parts.append(drawn_arrays(draw(field, moved(rays, field.device), asked.samples, behind), rays))
    return assembled(parts, grid, camera)


def reduced(camera: Camera, stride: int) -> Camera:
    """The view on a grid of squares of `stride` pixels."""
    return camera.resized(max(camera.width // stride, 1), max(camera.height // stride, 1))


def drawn_arrays(drawn: Drawn, rays: Rays) -> Float32:
    """(N, 5) float32: red, green, blue, alpha, and depth along the camera's axis; 0 where there is next to nothing."""
    # Less than gsplat's least alpha is nothing to a depth.
    depth = torch.where(drawn.alpha > 1 / 255, drawn.depth * rays.forward.to(drawn.depth.device), 0)
    together = torch.cat([drawn.rgb, drawn.alpha[:, None], depth[:, None]], 1)
    return together.float().cpu().numpy()


def assembled(parts: Sequence[Float32], grid: Camera, camera: Camera) -> Rendered:
    """The view on the camera's own pixels, from all rays of `grid` in order."""
    pixels = np.concatenate(parts).reshape(grid.height, grid.width, 5)
    if (grid.height, grid.width) != (camera.height, camera.width):
        rows = np.arange(camera.height) * grid.height // camera.height
        columns = np.arange(camera.width) * grid.width // camera.width
        pixels = pixels[rows[:, None], columns]
    rgb, alpha, depth = (np.ascontiguousarray(part) for part in (pixels[..., :3], pixels[..., 3], pixels[..., 4]))
    return Rendered(rgb, alpha, depth)
