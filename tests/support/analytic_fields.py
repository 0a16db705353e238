"""Radiance fields whose pictures are known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deployments.nerf.field import RadianceField
from deployments.nerf.settings import FieldSettings, Variant, Vector

Density = Callable[[Tensor], Tensor]


class AnalyticField(RadianceField):
    """Of one colour, with a density that a function gives; of a hash grid's field only those cells count as occupied
    whose corners or middles have any."""

    def __init__(
        self,
        density: Density,
        colour: Vector = (1.0, 0.5, 0.25),
        variant: Variant = "hash",
        least: Vector = (-1.0, -1.0, -1.0),
        most: Vector = (1.0, 1.0, 1.0),
        cells: int = 32,
    ) -> None:
        settings = FieldSettings(
            variant=variant, least=least, most=most, occupancy=cells, width=8, levels=1, log2_table=8, hidden=8
        )
        super().__init__(settings)
        self._density, self._colour = density, torch.tensor(colour)
        self.asked = 0
        if self.grid is not None:
            steps = (torch.arange(2 * cells + 1) / (2 * cells)) * settings.side
            points = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1) + self.least
            full = (density(points.view(-1, 3)) > 0).float().view(1, 1, *points.shape[:3])
            self.grid.bits = torch.nn.functional.max_pool3d(full, 3, 2).bool().flatten()

    def query(self, points: Tensor, directions: Tensor, *, coarse: bool = False) -> tuple[Tensor, Tensor]:
        """Counts what is asked."""
        self.asked += len(points)
        return self._density(points), self._colour.expand(len(points), 3)


def ball(radius: float = 0.6, density: float = 400.0, centre: Vector = (0.0, 0.0, 0.0)) -> Density:
    """A solid ball."""
    middle = torch.tensor(centre)
    return lambda points: density * ((points - middle).norm(dim=1) < radius).float()
