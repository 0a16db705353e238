"""Changes to windows that keep their meaning or change it in a known way: mirrors, time, colours, zoom and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from torch import Tensor

from demo.scenes import MOTIONS, MotionKind

_TURNS: dict[MotionKind, MotionKind] = {
    "rotate clockwise": "rotate counter-clockwise",
    "rotate counter-clockwise": "rotate clockwise",
}
_SIDEWAYS: dict[MotionKind, MotionKind] = {"left": "right", "right": "left"}
_UPWARDS: dict[MotionKind, MotionKind] = {"up": "down", "down": "up"}
_SIZES: dict[MotionKind, MotionKind] = {"grow": "shrink", "shrink": "grow"}
_DIAGONAL: dict[MotionKind, MotionKind] = {"left": "up", "up": "left", "right": "down", "down": "right"}
#: What each change makes of each motion.
MIRRORED = {**_SIDEWAYS, **_TURNS}
UPSIDE_DOWN = {**_UPWARDS, **_TURNS}
TRANSPOSED = {**_DIAGONAL, **_TURNS}
BACKWARDS = {**_SIDEWAYS, **_UPWARDS, **_SIZES, **_TURNS}

_ZOOM = 0.12
_SHIFT = 0.06
_GAIN, _TINT, _NOISE = 0.15, 0.04, 0.02


@dataclass(frozen=True, slots=True)
class Windows:
    """Pixels (B, T, 3, side, side), in the end from 0 to 1, label numbers (B, T) and the subject's states (B, T, 5)."""

    pixels: Tensor
    labels: Tensor
    states: Tensor

    def shares(self) -> Tensor:
        """The share of each motion: (B, motions)."""
        return F.one_hot(self.labels, len(MOTIONS)).float().mean(1)

    def at(self, times: Sequence[int]) -> Windows:
        """Some of the pictures."""
        chosen = list(times)
        return Windows(self.pixels[:, chosen], self.labels[:, chosen], self.states[:, chosen])


def augment(frames: Tensor, labels: Tensor, states: Tensor) -> Windows:
    """Changes windows (B, T, side, side, 3) uint8, label numbers (B, T) and states (B, T, 5) at random."""
    seen = Windows(frames.permute(0, 1, 4, 2, 3), labels, states)
    x, y, size, tip, symmetry = seen.states.unbind(-1)
    states = torch.stack([-x, y, size, math.pi - tip, symmetry], -1)
    seen = _sometimes(seen, Windows(seen.pixels.flip(-1), _renamed(seen.labels, MIRRORED), states))
    x, y, size, tip, symmetry = seen.states.unbind(-1)
    states = torch.stack([x, -y, size, -tip, symmetry], -1)
    seen = _sometimes(seen, Windows(seen.pixels.flip(-2), _renamed(seen.labels, UPSIDE_DOWN), states))
    x, y, size, tip, symmetry = seen.states.unbind(-1)
    states = torch.stack([y, x, size, math.pi / 2 - tip, symmetry], -1)
    seen = _sometimes(seen, Windows(seen.pixels.transpose(-1, -2), _renamed(seen.labels, TRANSPOSED), states))
    backwards = Windows(seen.pixels.flip(1), _renamed(seen.labels, BACKWARDS).flip(1), seen.states.flip(1))
    zoomed = _zoomed(_sometimes(seen, backwards))
    return replace(zoomed, pixels=_recoloured(zoomed.pixels))


def _sometimes(seen: Windows, changed: Windows) -> Windows:
    """Each window as it was or changed."""
    chosen = torch.rand(len(seen.pixels), device=seen.pixels.device) < 0.5
    return Windows(
        torch.where(chosen[:, None, None, None, None], changed.pixels, seen.pixels),
        torch.where(chosen[:, None], changed.labels, seen.labels),
        torch.where(chosen[:, None, None], changed.states, seen.states),
    )


def _renamed(labels: Tensor, meaning: dict[MotionKind, MotionKind]) -> Tensor:
    return torch.tensor([MOTIONS.index(meaning.get(kind, kind)) for kind in MOTIONS], device=labels.device)[labels]


def _zoomed(seen: Windows) -> Windows:
    """Two windows of three seen a bit nearer or farther and off the centre, all their pictures alike."""
    batch, times, _, side, _ = seen.pixels.shape
    device = seen.pixels.device
    pixels = seen.pixels.float() / 255.0
    chosen = (torch.rand(batch, device=device) < 2 / 3).float()
    scale = 1.0 + chosen * _ZOOM * (2.0 * torch.rand(batch, device=device) - 1.0)
    shift = chosen[:, None] * _SHIFT * (2.0 * torch.rand(batch, 2, device=device) - 1.0)
    placing = torch.zeros(batch, 2, 3, device=device)
    placing[:, 0, 0] = placing[:, 1, 1] = scale
    placing[:, :, 2] = shift
    grid = F.affine_grid(placing, [batch, 3, side, side], align_corners=False)
    # All pictures of a window as channels of one: they are placed alike.
    stacked = F.grid_sample(pixels.flatten(1, 2), grid, padding_mode="border", align_corners=False)
    places = (seen.states[..., :2] - shift[:, None]) / scale[:, None, None]
    sizes = seen.states[..., 2:3] - scale.log2()[:, None, None]
    states = torch.cat([places, sizes, seen.states[..., 3:]], -1)
    return replace(seen, pixels=stacked.unflatten(1, (times, 3)), states=states)


def _recoloured(pixels: Tensor) -> Tensor:
    """Colours exchanged, gain, tint and fresh noise."""
    batch, device = len(pixels), pixels.device
    order = torch.rand(batch, 3, device=device).argsort(1)
    pixels = pixels.gather(2, order[:, None, :, None, None].expand_as(pixels))
    gain = 1.0 + _GAIN * (2.0 * torch.rand(batch, 1, 1, 1, 1, device=device) - 1.0)
    tint = _TINT * (2.0 * torch.rand(batch, 1, 3, 1, 1, device=device) - 1.0)
    noise = _NOISE * torch.rand(batch, 1, 1, 1, 1, device=device)
    return (pixels * gain + tint + noise * torch.randn_like(pixels)).clamp(0.0, 1.0)
