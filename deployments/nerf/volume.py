"""Sampling along rays and volume rendering (Max 1995; Mildenhall et al. 2020, sections 4 and 5.2).

A ray is cut into intervals, each with one sample: `edges` (N, S + 1), rising, are where they begin and end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

# Keeps a division by what covers nothing finite.
_TINY: Final = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """N rays as they end up in a picture: rgb (N, 3) in front of the background, alpha (N,), depth (N,).

    Depth is the expected distance along the ray of what covers it; 0 where nothing does.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor


def box_range(origins: Tensor, directions: Tensor, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays (N, 3) enter and leave a box: (N,) and (N,), in lengths of their directions; not before their origins.
    Both are 0 for a ray that misses it."""
    # A direction of 0 gives infinities of the right sign, unless the origin lies in the very face.
    inverse = 1 / torch.where(directions == 0, torch.full_like(directions, 1e-12), directions)
    one, other = (least - origins) * inverse, (most - origins) * inverse
    near = torch.minimum(one, other).amax(-1).clamp(min=0)
    far = torch.maximum(one, other).amin(-1)
    hit = far > near
    return torch.where(hit, near, 0), torch.where(hit, far, 0)


def stratified(near: Tensor, far: Tensor, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Equal intervals between near (N,) and far (N,), and in each a sample.

    Args:
        generator: on the CPU, for a uniform place of each sample; with None it is the middle.

    Returns:
        edges (N, count + 1), samples (N, count).
    """
    share = torch.linspace(0, 1, count + 1, dtype=near.dtype, device=near.device)
    edges = near[:, None] + (far - near)[:, None] * share
    return edges, within(edges, generator)


def within(edges: Tensor, generator: torch.Generator | None) -> Tensor:
    """A sample (N, S) in each interval; see `stratified`."""
    if generator is None:
        return 0.5 * (edges[:, 1:] + edges[:, :-1])
    place = torch.rand(len(edges), edges.shape[1] - 1, dtype=edges.dtype, generator=generator).to(edges.device)
    return edges[:, :-1] + place * edges.diff(dim=1)


def importance(edges: Tensor, weights: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Places drawn from the weights by the inverse of their cumulative distribution: (N, count), rising.

    Args:
        edges: (N, S + 1).
        weights: (N, S), at least 0, of the intervals; a place is uniform within one. No gradient flows into them.
        generator: on the CPU; with None the places are the distribution's quantiles at equal steps.
    """
    # A little everywhere, so that a ray through nothing has a distribution too.
    mass = weights.detach() + 1e-5
    cumulative = torch.cat([torch.zeros_like(mass[:, :1]), mass.cumsum(1)], 1)
    cumulative = cumulative / cumulative[:, -1:]
    steps = torch.linspace(0, 1, count + 1, dtype=edges.dtype, device=edges.device)
    wanted = within(steps.repeat(len(edges), 1), generator)
    after = torch.searchsorted(cumulative, wanted, right=True).clamp(1, edges.shape[1] - 1)
    low, high = cumulative.gather(1, after - 1), cumulative.gather(1, after)
    start, end = edges.gather(1, after - 1), edges.gather(1, after)
    share = ((wanted - low) / (high - low).clamp(min=_TINY)).clamp(0, 1)
    return start + share * (end - start)


def ray_weights(density: Tensor, lengths: Tensor | float) -> Tensor:
    """How much each sample gives to its pixel: (N, S), transmittance times alpha, for densities and lengths (N, S)."""
    stopped = density * lengths
    transmittance = torch.exp(-(stopped.cumsum(1) - stopped))
    return transmittance * -torch.expm1(-stopped)


def composite(weights: Tensor, colours: Tensor, samples: Tensor, background: Tensor) -> Drawn:
    """Puts samples together: weights (N, S), colours (N, S, 3), their distances (N, S), background (3,) or (N, 3)."""
    alpha = weights.sum(1)
    rgb = (weights[..., None] * colours).sum(1) + (1 - alpha)[:, None] * background
    depth = (weights * samples).sum(1) / alpha.clamp(min=_TINY)
    return Drawn(rgb, alpha, depth)
