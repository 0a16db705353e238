"""The network of Mildenhall et al. 2020 (figure 7): eight layers, the place once more behind the fifth, colour last."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from torch import Tensor, nn

from deployments.nerf.encoding import frequencies

PLACE_LEVELS: Final = 10
DIRECTION_LEVELS: Final = 4
_PLACE: Final = 3 * (1 + 2 * PLACE_LEVELS)
_DIRECTION: Final = 3 * (1 + 2 * DIRECTION_LEVELS)
_DEPTH: Final = 8
# The output of so many layers is joined with the encoded place.
_SKIP: Final = 5


class NerfMlp(nn.Module):
    """595,844 parameters at the published width of 256.

    Density is softplus(x - 1) as in Barron et al. 2021 (Mip-NeRF), not the paper's ReLU: where ReLU starts at 0
    everywhere, it has no gradient and stays there.
    """

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        inputs = [_PLACE] + [width + (_PLACE if layer == _SKIP else 0) for layer in range(1, _DEPTH)]
        self.layers = nn.ModuleList(nn.Linear(size, width) for size in inputs)
        self.density_out = nn.Linear(width, 1)
        self.feature = nn.Linear(width, width)
        self.view = nn.Linear(width + _DIRECTION, width // 2)
        self.colour_out = nn.Linear(width // 2, 3)

    def density(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Density (N,), per unit of length, and what `colour` needs (N, width), at places (N, 3) from -1 to 1."""
        encoded = frequencies(places, PLACE_LEVELS)
        hidden = encoded
        for number, layer in enumerate(self.layers):
            if number == _SKIP:
                hidden = torch.cat([encoded, hidden], -1)
            hidden = F.relu(layer(hidden))
        return F.softplus(self.density_out(hidden).squeeze(-1) - 1), hidden

    def colour(self, hidden: Tensor, directions: Tensor) -> Tensor:
        """Red, green, blue (N, 3) from 0 to 1, seen along unit vectors (N, 3)."""
        joined = torch.cat([self.feature(hidden), frequencies(directions, DIRECTION_LEVELS)], -1)
        colours: Tensor = torch.sigmoid(self.colour_out(F.relu(self.view(joined))))
        return colours
