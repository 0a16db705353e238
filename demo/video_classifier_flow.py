"""Where each patch's content moves, as training targets, and the patches around the subject.

A clip has one label, and which way a thing turns is in none of its patches alone: a small model trained on labels only
had not come upon it after half a million windows. The motion field says it patch by patch. Taught that, the model told
a turn's direction after some fifteen thousand clips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from torch import Tensor, nn
from transformers import TimesformerForVideoClassification

from demo.scenes import MOTIONS
from demo.video_classifier_model import GRID, PATCH, WIDTH, Look

#: Of the subject's place, size and direction over the whole window; cuts of a story are far beyond.
_MOST_CHANGE = 3.0
#: Around the subject, whose edges reach into the patches beside it; half a picture is 1.
_MARGIN = 0.1
#: Of patches in which nothing moves, and of the whole beside the answer's own loss.
_REST_WEIGHT, _WEIGHT = 0.1, 4.0


@dataclass(frozen=True, slots=True)
class Near:
    """A square of `side` patches for each clip: `corners` (B, 2) int64, row and column of its first patch."""

    corners: Tensor
    side: int

    def centres(self) -> Tensor:
        """x and y of the patches' middles, from -1 to 1, row by row: (B, places, 2)."""
        steps = torch.arange(self.side, device=self.corners.device)
        middles = (self.corners[:, :, None] + steps + 0.5) * (2.0 / GRID) - 1.0
        down, right = middles.unbind(1)
        across = right[:, None, :].expand(-1, self.side, -1)
        return torch.stack([across, down[:, :, None].expand(-1, -1, self.side)], -1).flatten(1, 2)

    def cut(self, pixels: Tensor) -> Tensor:
        """The squares of pictures (B, T, 3, height, width)."""
        steps = torch.arange(self.side * PATCH, device=pixels.device)
        rows, columns = (PATCH * self.corners[:, :, None] + steps).unbind(1)
        clips = torch.arange(len(pixels), device=pixels.device)[:, None, None]
        return pixels.permute(0, 3, 4, 1, 2)[clips, rows[:, :, None], columns[:, None, :]].permute(0, 3, 4, 1, 2)


def everywhere(clips: int, device: torch.device) -> Near:
    """All patches of the pictures."""
    return Near(torch.zeros(clips, 2, dtype=torch.int64, device=device), GRID)


def around(states: Tensor, side: int) -> Near:
    """Squares about where the subjects (B, T, 5) are in the mean, a patch or so aside at random, inside pictures."""
    middles = (states[..., :2].mean(1).flip(-1) + 1.0) * (GRID / 2)
    aside = 1.5 * torch.rand_like(middles) - 0.75
    return Near((middles - side / 2 + aside).round().long().clamp(0, GRID - side), side)


def look_near(model: TimesformerForVideoClassification, pixels: Tensor, near: Near) -> Look:
    """What a TimeSformer sees of clips (B, T, 3, side, side) if the squares were all that there is of its pictures.

    For training only: attention costs less with fewer patches, and the patches keep their places.
    """
    seen = model.timesformer.embeddings
    batch, times = pixels.shape[:2]
    patches = seen.patch_embeddings.projection(near.cut(pixels).flatten(0, 1)).flatten(2).transpose(1, 2)
    steps = torch.arange(near.side, device=pixels.device)
    rows, columns = (near.corners[:, :, None] + steps).unbind(1)
    table = seen.position_embeddings[0, 1:].unflatten(0, (GRID, GRID))
    places = table[rows[:, :, None], columns[:, None, :]].flatten(1, 2)
    patches = patches.unflatten(0, (batch, times)) + places[:, None] + seen.time_embeddings[:, :, None]
    first = (seen.cls_token + seen.position_embeddings[:, :1]).expand(batch, -1, -1)
    hidden = torch.cat([first, patches.transpose(1, 2).flatten(1, 2)], 1)
    layers = []
    whole = model.config.image_size
    model.config.image_size = near.side * PATCH  # from which the layers tell places and times apart
    try:
        for layer in model.timesformer.encoder.layer:
            hidden = layer(hidden)[0]
            layers.append(hidden[:, 1:].unflatten(1, (near.side**2, times)).transpose(1, 2))
    finally:
        model.config.image_size = whole
    last = model.timesformer.layernorm(hidden)
    return Look(model.classifier(last[:, 0]), layers)


def changes(labels: Tensor, states: Tensor) -> Tensor:
    """Change of x, y, doublings and direction, (B, M, 4), over the whole window were it always as fast; 0 at rest.

    Of label numbers (B, M) and states (B, M, 5).
    """
    moving = (labels != MOTIONS.index("still"))[..., None].float()
    faster = torch.gradient(states[..., :4], dim=1)[0] * states.shape[1]
    return faster.clamp(-_MOST_CHANGE, _MOST_CHANGE) * moving


def motion_field(labels: Tensor, states: Tensor, near: Near) -> tuple[Tensor, Tensor]:
    """Where each patch's content moves, (B, M, places, 2), and whether the patch is on the subject, (B, M, places).

    A rigid motion's field: the centre's own, and around it what turning and growing add.
    """
    change = changes(labels, states)[:, :, None]
    beside = near.centres()[:, None] - states[:, :, None, :2]
    on = (beside.norm(dim=-1) <= 2.0 ** states[:, :, None, 2] + _MARGIN).float()
    across = torch.stack([-beside[..., 1], beside[..., 0]], -1)
    field = change[..., :2] + math.log(2.0) * change[..., 2:3] * beside + change[..., 3:] * across
    return field * on[..., None], on


class Flow(nn.Module):
    """Outputs that exist only while training: from each layer but the first, where each patch's content moves."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.outputs = nn.ModuleList(nn.Linear(WIDTH, 2) for _ in range(layers - 1))

    def loss(self, layers: Sequence[Tensor], labels: Tensor, states: Tensor, near: Near) -> Tensor:
        """For tokens (B, M, places, width) of every layer."""
        field, on = motion_field(labels, states, near)
        weights = (_REST_WEIGHT + (1.0 - _REST_WEIGHT) * on)[..., None]
        losses = []
        for output, tokens in zip(self.outputs, layers[1:], strict=True):
            found = output(F.layer_norm(tokens.float(), (WIDTH,)))
            missed = F.smooth_l1_loss(found, field, beta=0.1, reduction="none")
            losses.append((missed * weights).sum() / (2.0 * weights.sum()))
        return _WEIGHT * torch.stack(losses).mean()
