"""How the small language models learn to look things up: a helpful start, and lessons on single words.

Left alone, a model that small guesses for a thousand steps before it connects the "star" of a question with the
picture's star. So its first attention starts by looking for its like, and while training, outputs that are dropped at
the end ask of every word half way up: at "star" which colours the stars have and where they are, at "red" which shapes
the red things have, at "object" what the largest object is, at "objects" how many there are, and at each patch whether
it is the centre of something.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from torch import Tensor, nn

from demo.clip_pool import IGNORED
from demo.packing import Packed, Packer, word_tokens
from demo.scenes import COLOURS, MAX_OBJECTS, SHAPES, Scene
from demo.vision_batches import Batch

_NAMES = (*SHAPES, *COLOURS)
_PLURALS = tuple(f"{shape}es" if shape.endswith("s") else f"{shape}s" for shape in SHAPES)
_FAST_PAIRS = 5


class Lookups(nn.Module):
    """Outputs on hidden states half way up: 18 attributes, a place, and a count."""

    words: Tensor

    def __init__(self, packer: Packer, width: int, vocabulary: int) -> None:
        super().__init__()
        self.attributes = nn.Linear(width, len(_NAMES))
        self.place = nn.Linear(width, 2)
        self.count = nn.Linear(width, MAX_OBJECTS + 1)
        # From tokens to the rows of `_table`: shapes, their plurals, colours, "object", "objects"; -1 for other words.
        words = torch.full((vocabulary,), -1)
        words[word_tokens(packer, SHAPES)] = torch.arange(len(SHAPES))
        for number, plural in enumerate(_PLURALS):
            pieces = packer.encode(f" {plural}")
            if len(pieces) == 1:
                words[pieces[0]] = number
        words[word_tokens(packer, COLOURS)] = torch.arange(len(SHAPES), len(_NAMES))
        words[word_tokens(packer, ("object", "objects"))] = torch.tensor([len(_NAMES), len(_NAMES) + 1])
        self.register_buffer("words", words, persistent=False)

    def pairs(self, tokens: Tensor) -> Tensor:
        """For tokens (B, L): the number of the pair that a shape's word completes with the colour before it, or -1."""
        words = self.words[tokens]
        before = F.pad(words, (1, 0), value=-1)[:, :-1]
        completed = (words >= 0) & (words < len(SHAPES)) & (before >= len(SHAPES)) & (before < len(_NAMES))
        return torch.where(completed, (before - len(SHAPES)) * len(SHAPES) + words, -1)

    def loss(self, hidden: Tensor, packed: Packed, scenes: Sequence[Sequence[Scene]]) -> Tensor:
        """For states (B, L, width) and the pictures of each row; words of no picture's turn are left alone."""
        rows = self.words[packed.tokens]
        where, columns = torch.nonzero((rows >= 0) & (packed.images >= 0), as_tuple=True)
        words, pairs = rows[where, columns], self.pairs(packed.tokens)[where, columns]
        shown = [scene for row in scenes for scene in row]
        starts = torch.tensor([0, *map(len, scenes)]).cumsum(0)
        about = starts[where] + packed.images[where, columns]
        attributes, places, counts = (torch.stack(values) for values in zip(*map(_table, shown), strict=True))
        states = F.layer_norm(hidden[where, columns], hidden.shape[-1:])
        wanted = attributes[about, words]
        # At a shape only colours are asked for, at a colour only shapes, at "objects" neither.
        asked = wanted >= 0
        scores = F.binary_cross_entropy_with_logits(self.attributes(states), wanted.clamp(min=0.0), reduction="none")
        # Of two stars, one of them red, "star" has no place but "red star" has.
        of_pairs = torch.stack([pair_table(scene)[0] for scene in shown])[about, pairs.clamp(min=0)]
        goal = torch.where((pairs >= 0)[:, None], of_pairs, places[about, words])
        known = goal.isfinite().all(-1)
        off = F.smooth_l1_loss(self.place(states)[known], goal[known], beta=0.1, reduction="sum")
        return (
            3.0 * (scores * asked).sum() / asked.sum()
            + 2.0 * off / max(1, 2 * int(known.sum()))
            + 0.6 * F.cross_entropy(self.count(states), counts[about, words])
        )

    def centres(self, hidden: Tensor, scenes: Sequence[Scene]) -> Tensor:
        """For states (B, G G, width) of pictures' patches: one counts where an object's centre lies, zero elsewhere.

        What is told apart so can be counted later on.
        """
        wanted = centre_patches(scenes, math.isqrt(hidden.shape[1])).long()
        scores = self.count(F.layer_norm(hidden, hidden.shape[-1:]))
        losses = F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), reduction="none")
        inside = wanted.flatten() == 1
        return losses[inside].mean() + losses[~inside].mean()


def centre_patches(scenes: Sequence[Scene], grid: int) -> Tensor:
    """Which patches (B, G G) hold the centre of an object, be it the hole of a ring."""
    centres = torch.zeros(len(scenes), grid * grid, dtype=torch.bool)
    for row, scene in enumerate(scenes):
        for item in scene.objects:
            centres[row, min(int(item.y * grid), grid - 1) * grid + min(int(item.x * grid), grid - 1)] = True
    return centres


def place_codes(batch: Batch, scenes: Sequence[Scene]) -> Tensor:
    """What each patch (B, P, 6) should tell of places: its own x and y; where there is an object the object's x, y and
    size; and whether an object's centre lies here; all of them with a spread of two or so."""
    grid = math.isqrt(batch.classes.shape[-1])
    line = (torch.arange(grid) + 0.5) / grid
    own = torch.stack([line.repeat(grid), line.repeat_interleave(grid)], dim=-1).expand(*batch.places.shape[:2], 2)
    shape = batch.classes[:, 1]
    filled = ((shape > 0) & (shape != IGNORED))[..., None]
    away = batch.places[..., :2] * batch.places[..., 2:].exp() / 2.0
    told = torch.cat([6.0 * (own + away) - 3.0, 2.0 * batch.places[..., 2:] + 3.0], dim=-1)
    centre = 4.0 * centre_patches(scenes, grid).float()[..., None]
    return torch.cat([4.0 * own - 2.0, told * filled, centre], dim=-1)


def placing_loss(patches: Tensor, codes: Tensor) -> Tensor:
    """How badly patches (B, P, width) tell their codes along six fixed directions.

    Without this a projector passes on what patches show and drops where they lie.
    """
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(patches.shape[-1], codes.shape[-1], generator=generator)).Q
    return F.smooth_l1_loss(F.layer_norm(patches, patches.shape[-1:]) @ directions, codes)


def _table(scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """For each word: the attributes (20, 18), -1 where not asked, the place (20, 2) of a single thing, the count."""
    attributes = torch.full((len(_NAMES) + 2, len(_NAMES)), -1.0)
    places = torch.full((len(_NAMES) + 2, 2), torch.nan)
    counts = torch.zeros(len(_NAMES) + 2, dtype=torch.int64)
    attributes[: len(SHAPES), len(SHAPES) :] = 0.0
    attributes[len(SHAPES) : len(_NAMES) + 1, : len(SHAPES)] = 0.0
    attributes[len(_NAMES), len(SHAPES) :] = 0.0
    for item in reversed(scene.objects):
        shape, colour = SHAPES.index(item.shape), len(SHAPES) + COLOURS.index(item.colour)
        attributes[shape, colour] = attributes[colour, shape] = 1.0
        for word in (shape, colour, len(_NAMES)):
            places[word] = torch.tensor([2.0 * item.x - 1.0, 2.0 * item.y - 1.0])
            counts[word] += 1
    for word in range(len(_NAMES)):
        if counts[word] > 1:
            places[word] = torch.nan
    subject = scene.subject
    attributes[len(_NAMES), SHAPES.index(subject.shape)] = 1.0
    attributes[len(_NAMES), len(SHAPES) + COLOURS.index(subject.colour)] = 1.0
    counts[len(_NAMES) :] = len(scene.objects)
    return attributes, places, counts


def pair_table(scene: Scene) -> tuple[Tensor, Tensor]:
    """For each pair of colour and shape: the place (80, 2) of a single such thing, and how many there are (80,)."""
    places = torch.full((len(COLOURS) * len(SHAPES), 2), torch.nan)
    counts = torch.zeros(len(places), dtype=torch.int64)
    for item in scene.objects:
        number = COLOURS.index(item.colour) * len(SHAPES) + SHAPES.index(item.shape)
        places[number] = torch.tensor([2.0 * item.x - 1.0, 2.0 * item.y - 1.0])
        counts[number] += 1
    places[counts > 1] = torch.nan
    return places, counts


@torch.no_grad()
def look_for_alike(
    query: nn.Linear, key: nn.Linear, value: nn.Linear, out: nn.Linear, *, heads: int, rotary: bool
) -> None:
    """Start an attention such that a token looks for tokens of like content and takes over what they hold.

    With rotary positions the dimensions that turn fast, which tell neighbours apart, are left as they are.
    """
    width = query.weight.shape[0] // heads
    slow = torch.ones(width, dtype=torch.bool)
    if rotary:
        slow[:_FAST_PAIRS] = slow[width // 2 : width // 2 + _FAST_PAIRS] = False
    for head in range(heads):
        rows = torch.arange(head * width, (head + 1) * width)[slow]
        basis = torch.linalg.qr(torch.randn(query.weight.shape[1], len(rows))).Q.T
        query.weight[rows] = key.weight[rows] = 1.2 * basis
    nn.init.orthogonal_(value.weight, gain=0.7)
    nn.init.orthogonal_(out.weight, gain=0.7)
