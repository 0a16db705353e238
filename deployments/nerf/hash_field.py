"""Small MLPs over a hash grid (Mueller et al. 2022, section 5.4)."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from torch import Tensor, nn

from deployments.nerf.encoding import HashGrid, spherical_harmonics
from deployments.nerf.settings import FieldSettings

_FEATURES: Final = 16
_HARMONICS: Final = 16
# e^11 per cube's side is opaque within any sample; beyond, exp would overflow in float32.
_MOST_LOG_DENSITY: Final = 11.0


class HashField(nn.Module):
    """Density is exp(x), so that it can grow over many magnitudes, as in the paper; the first of 16 features is x."""

    def __init__(self, settings: FieldSettings) -> None:
        super().__init__()
        self.grid = HashGrid(
            settings.levels, settings.features, settings.log2_table, settings.coarsest, settings.finest
        )
        hidden = settings.hidden
        self.density_in = nn.Linear(self.grid.out_features, hidden)
        self.density_out = nn.Linear(hidden, _FEATURES)
        self.colour_in = nn.Linear(_FEATURES + _HARMONICS, hidden)
        self.colour_middle = nn.Linear(hidden, hidden)
        self.colour_out = nn.Linear(hidden, 3)

    def density(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Density (N,), per cube's side, and what `colour` needs (N, 16), at places (N, 3) from 0 to 1."""
        features = self.density_out(F.relu(self.density_in(self.grid(places))))
        return features[:, 0].clamp(max=_MOST_LOG_DENSITY).exp(), features

    def colour(self, features: Tensor, directions: Tensor) -> Tensor:
        """Red, green, blue (N, 3) from 0 to 1, seen along unit vectors (N, 3)."""
        hidden = F.relu(self.colour_in(torch.cat([features, spherical_harmonics(directions)], -1)))
        colours: Tensor = torch.sigmoid(self.colour_out(F.relu(self.colour_middle(hidden))))
        return colours
