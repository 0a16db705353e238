"""Training pictures with their patch labels, and the linear outputs that teach a vision tower what patches show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from numpy.typing import NDArray
from torch import Tensor, nn

from demo.clip_pool import IGNORED, MASK_SIDE, SIDE, Pool
from demo.scenes import COLOURS, SHAPES

_BACKGROUND_WEIGHT = 0.15
_NOISE = 0.02
#: The outline mask has this many cells along a patch's side.
CELLS = 8 * MASK_SIDE // SIDE


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures and labels of one step, with G x G patches each.

    `pixels` (B, 3, side, side) normalised float32; `classes` (B, 2, G G) int64; `places` (B, G G, 3) float32;
    `outlines` (B, G G, 16) float32 in 0..1, the mask inside each patch; `mirrored` (B,) bool: which are flipped.
    """

    pixels: Tensor
    classes: Tensor
    places: Tensor
    outlines: Tensor
    mirrored: Tensor


class Helpers(nn.Module):
    """Linear outputs that exist only while training: per patch and per picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch_colour = nn.Linear(width, len(COLOURS) + 1)
        self.patch_shape = nn.Linear(width, len(SHAPES) + 1)
        self.place = nn.Linear(width, 3)
        self.outline = nn.Linear(width, CELLS * CELLS)
        self.colour = nn.Linear(width, len(COLOURS))
        self.shape = nn.Linear(width, len(SHAPES))

    def losses(
        self, early: Tensor, patches: Tensor, pooled: Tensor, batch: Batch, subject: Tensor
    ) -> dict[str, Tensor]:
        """Losses of patches (B, G G, width), early ones from half way up, pooled (B, width); subject (B, 2) int64."""
        whole = F.cross_entropy(self.shape(pooled), subject[:, 1])
        return {
            **self.patch_losses(early, patches, batch),
            "whole": 0.5 * whole + 0.25 * F.cross_entropy(self.colour(pooled), subject[:, 0]),
        }

    def patch_losses(self, early: Tensor, patches: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The part of the losses that needs no pooled output."""
        filled = (batch.classes[:, 1] > 0) & (batch.classes[:, 1] != IGNORED)
        places = self.place(early)[filled]
        outlines = F.binary_cross_entropy_with_logits(self.outline(early), batch.outlines)
        return {
            "patch shape": _patch_loss(self.patch_shape(patches), batch.classes[:, 1]),
            "patch colour": 0.5 * _patch_loss(self.patch_colour(patches), batch.classes[:, 0]),
            "place": F.smooth_l1_loss(places, batch.places[filled], beta=0.2),
            "outline": 2.0 * outlines,
        }


def draw_pictures(pool: Pool, chosen: NDArray[np.int64], rng: np.random.Generator, mean: Tensor, std: Tensor) -> Batch:
    """Pictures under random light, half of them mirrored, with their labels; mean and std are (3, 1, 1)."""
    pixels = torch.from_numpy(pool.images[chosen]).permute(0, 3, 1, 2).float() / 255.0
    classes = torch.from_numpy(pool.classes[chosen]).long()
    places = torch.from_numpy(pool.places[chosen]).float()
    masks = torch.from_numpy(pool.masks[chosen]).float() / 255.0
    mirrored = torch.from_numpy(rng.random(len(chosen)) < 0.5)
    for values in (pixels, classes, places, masks):
        values[mirrored] = values[mirrored].flip(-1)
    places[mirrored, 0] *= -1.0
    gain = 1.0 + 0.12 * (2.0 * torch.rand(len(chosen), 1, 1, 1) - 1.0)
    tint = 0.03 * (2.0 * torch.rand(len(chosen), 3, 1, 1) - 1.0)
    noise = _NOISE * torch.rand(len(chosen), 1, 1, 1) * torch.randn_like(pixels)
    pixels = (pixels * gain + tint + noise).clamp(0.0, 1.0)
    grid = classes.shape[-1]
    return Batch(
        (pixels - mean) / std,
        classes.flatten(2),
        places.flatten(2).transpose(1, 2),
        masks.reshape(-1, grid, CELLS, grid, CELLS).transpose(2, 3).reshape(-1, grid * grid, CELLS * CELLS),
        mirrored,
    )


def _patch_loss(logits: Tensor, labels: Tensor) -> Tensor:
    weights = torch.ones(logits.shape[-1])
    weights[0] = _BACKGROUND_WEIGHT
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weights, ignore_index=IGNORED)
