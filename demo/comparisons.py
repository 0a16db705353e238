"""Lessons on what takes more than one look: how two things lie to each other, and which picture a question means.

As in demo/lookups.py, outputs that are dropped at the end ask for steps of the way to an answer. After the first layer
each patch is asked which picture it belongs to, and each word which picture its question means; half way up, each pair
such as "red star" in which pictures there is one; three quarters up, a question for two pictures' shapes or colours
what these are, and the second thing of a relation how far it lies from the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from torch import Tensor, nn

from demo.lookups import Lookups, pair_table
from demo.packing import NO_SINGLE_IMAGE, Packed
from demo.scenes import COLOURS, SHAPES, Scene

MAX_IMAGES = 3
_ORDINAL_SCORE, _WITHIN_SCORE, _STRESS = 12.0, 25.0, 30.0
_RELATIONS = ("left or right", "above or below")
_SAME = ("same shape", "same colour")


class Comparisons(nn.Module):
    """Outputs on hidden states of a language model of four layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch_image = nn.Linear(width, MAX_IMAGES)
        self.meant_image = nn.Linear(width, MAX_IMAGES)
        self.present = nn.Linear(width, MAX_IMAGES)
        self.shapes = nn.Linear(width, 2 * len(SHAPES))
        self.colours = nn.Linear(width, 2 * len(COLOURS))
        self.between = nn.Linear(width, 2)

    def losses(
        self,
        states: Sequence[Tensor],
        packed: Packed,
        scenes: Sequence[Sequence[Scene]],
        lookups: Lookups,
        patches: Tensor,
    ) -> dict[str, Tensor]:
        """For the states (B, L, width) that leave each layer, the pictures of each row, and which tokens (B, L) are
        patches."""
        first, half, late = (F.layer_norm(state, state.shape[-1:]) for state in states[:3])
        pairs = lookups.pairs(packed.tokens)
        return {
            "images": self._images(first, packed, scenes, lookups.words[packed.tokens] >= 0, patches),
            "present": self._present(half, packed, scenes, pairs),
            "same": self._same(late, packed, scenes),
            "between": self._between(late, packed, scenes, pairs),
        }

    def _images(
        self, states: Tensor, packed: Packed, scenes: Sequence[Sequence[Scene]], words: Tensor, patches: Tensor
    ) -> Tensor:
        pictures = len(scenes[0])
        numbers = image_numbers(patches, pictures)
        belongs = F.cross_entropy(self.patch_image(states[patches]), numbers[patches])
        if pictures == 1:  # Where there is no choice, words would only learn to expect the first.
            return belongs
        meant = words & (packed.images >= 0)
        return belongs + 2.0 * F.cross_entropy(self.meant_image(states[meant]), packed.images[meant])

    def _present(self, states: Tensor, packed: Packed, scenes: Sequence[Sequence[Scene]], pairs: Tensor) -> Tensor:
        where, columns = torch.nonzero((pairs >= 0) & (packed.images >= NO_SINGLE_IMAGE), as_tuple=True)
        counts = torch.stack([torch.stack([pair_table(scene)[1] for scene in row]) for row in scenes])
        wanted = (counts[where, :, pairs[where, columns]] > 0).float()
        scores = self.present(states[where, columns])[:, : wanted.shape[1]]
        return _mean(F.binary_cross_entropy_with_logits(scores, wanted, reduction="none"))

    def _same(self, states: Tensor, packed: Packed, scenes: Sequence[Sequence[Scene]]) -> Tensor:
        losses = [states.new_zeros(0)]
        for item in packed.asked:
            if item.form not in _SAME:
                continue
            subjects = [scene.subject for scene in scenes[item.row]]
            if item.form == "same shape":
                wanted, outputs = [SHAPES.index(subject.shape) for subject in subjects], self.shapes
            else:
                wanted, outputs = [COLOURS.index(subject.colour) for subject in subjects], self.colours
            scores = outputs(states[item.row, item.end - 1]).unflatten(0, (2, -1))
            losses.append(F.cross_entropy(scores, torch.tensor(wanted), reduction="none"))
        return _mean(torch.cat(losses))

    def _between(self, states: Tensor, packed: Packed, scenes: Sequence[Sequence[Scene]], pairs: Tensor) -> Tensor:
        found, wanted = [], []
        for item in packed.asked:
            image = int(packed.images[item.row, item.start])
            if item.form not in _RELATIONS or image < 0:
                continue
            columns = item.start + torch.nonzero(pairs[item.row, item.start : item.end] >= 0).flatten()
            if len(columns) == 2:
                places = pair_table(scenes[item.row][image])[0][pairs[item.row, columns]]
                found.append(states[item.row, columns[1]])
                wanted.append(places[0] - places[1])
        if not found:
            return states.new_zeros(())
        goal = torch.stack(wanted)
        known = goal.isfinite().all(-1)
        return _mean(F.smooth_l1_loss(self.between(torch.stack(found))[known], goal[known], beta=0.1, reduction="none"))


def image_numbers(patches: Tensor, pictures: int) -> Tensor:
    """Which picture each of the tokens (B, L) that are patches belongs to, where all rows have so many pictures."""
    return (patches.cumsum(dim=1) - 1) * pictures // patches.sum(dim=1, keepdim=True)


@torch.no_grad()
def look_for_ordinals(layer: nn.Module, embeddings: Tensor, patches: Tensor, words: Tensor, ordinals: Tensor) -> None:
    """Let the first head of a first layer look from certain words to "first", "second" and "third" where there are any.

    For embeddings (V, width), patches (N, width), and the tokens of words and ordinals. Next to hundreds of patches a
    single word is not found by chance. Where no ordinal stands nothing changes.
    """
    attention = layer.self_attn
    seen = layer.input_layernorm(torch.cat([embeddings, patches]))
    spread = seen.T @ seen / len(seen) + 1e-3 * torch.eye(seen.shape[1])
    # Directions along which these words are at one and all else is near zero.
    query, key = (
        torch.linalg.solve(spread + _STRESS * x.T @ x / len(x), _STRESS * x.mean(0))
        for x in (seen[words], seen[ordinals])
    )
    # The slowest rotation hardly turns between two words of a sentence.
    row = attention.head_dim // 2 - 1
    strength = (_ORDINAL_SCORE * attention.head_dim**0.5) ** 0.5
    attention.q_proj.weight[row] += strength * query / (seen[words] @ query).mean()
    attention.k_proj.weight[row] += strength * key / (seen[ordinals] @ key).mean()


@dataclass(frozen=True, slots=True)
class Seen:
    """What a layer's attention reads, (N, width) each: words with the pictures that they mean (N,), patches with the
    pictures that they belong to (N,), and all else."""

    words: Tensor
    meant: Tensor
    patches: Tensor
    images: Tensor
    others: Tensor


@torch.no_grad()
def look_within_images(layer: nn.Module, seen: Seen, heads: int = 3) -> None:
    """Let the first heads of a layer look from words to patches of the picture that is meant.

    The layer below must tell both already. Where there is but one picture little changes.
    """
    attention = layer.self_attn
    query = _recognise(seen.words, seen.meant, torch.cat([seen.patches, seen.others]))
    key = _recognise(seen.patches, seen.images, torch.cat([seen.words, seen.others]))
    strength = (_WITHIN_SCORE * attention.head_dim**0.5) ** 0.5
    for head in range(heads):
        # Again the slowest rotations, one for each picture.
        last = head * attention.head_dim + attention.head_dim // 2
        attention.q_proj.weight[last - MAX_IMAGES : last] += strength * query.T
        attention.k_proj.weight[last - MAX_IMAGES : last] += strength * key.T


def _recognise(states: Tensor, numbers: Tensor, others: Tensor) -> Tensor:
    """Directions (width, pictures) along which states tell their picture's number, and others lie at zero."""
    wanted = F.one_hot(numbers, MAX_IMAGES).float() - 1.0 / MAX_IMAGES
    spread = states.T @ states / len(states) + others.T @ others / len(others)
    return torch.linalg.solve(spread + 0.02 * torch.eye(states.shape[1]), states.T @ wanted / len(states))


def _mean(losses: Tensor) -> Tensor:
    """The mean, and zero of nothing."""
    return losses.sum() / max(1, losses.numel())
