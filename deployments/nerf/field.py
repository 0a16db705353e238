"""A radiance field: networks, the box that they fill, and the grid of where there is anything in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deployments.nerf.hash_field import HashField
from deployments.nerf.mlp import NerfMlp
from deployments.nerf.occupancy import OccupancyGrid
from deployments.nerf.settings import FieldSettings


class RadianceField(nn.Module):
    """One field.

    Attributes:
        coarse: of the variant `mlp`: tells where the fine network is asked; None for a hash grid.
        grid: of the variant `hash`; None for MLPs, which are drawn from coarse to fine.
    """

    def __init__(self, settings: FieldSettings) -> None:
        super().__init__()
        self.settings = settings
        self.coarse: NerfMlp | None = None
        self.grid: OccupancyGrid | None = None
        self.fine: NerfMlp | HashField
        if settings.variant == "mlp":
            self.coarse, self.fine = NerfMlp(settings.width), NerfMlp(settings.width)
        else:
            self.fine, self.grid = HashField(settings), OccupancyGrid(settings.occupancy)
        self.register_buffer("least", torch.tensor(settings.least), persistent=False)
        self.register_buffer("most", torch.tensor(settings.most), persistent=False)
        self.least: Tensor
        self.most: Tensor

    @property
    def nbytes(self) -> int:
        """Memory of weights and grid, in bytes."""
        return sum(tensor.nbytes for tensor in (*self.parameters(), *self.buffers()))

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.least.device

    def unit(self, points: Tensor) -> Tensor:
        """Points (..., 3) of the world as places from 0 to 1 in the cube that holds the box."""
        return (points - self.least) / self.settings.side

    def query(self, points: Tensor, directions: Tensor, *, coarse: bool = False) -> tuple[Tensor, Tensor]:
        """Density (N,) per unit of the world's length, and colours (N, 3) from 0 to 1, at points (N, 3) within the box
        seen along unit vectors (N, 3)."""
        if self.coarse is None:
            density, features = self.fine.density(self.unit(points))
            return density / self.settings.side, self.fine.colour(features, directions)
        network = self.coarse if coarse else self.fine
        density, features = network.density(2 * self.unit(points) - 1)
        return density / self.settings.side, network.colour(features, directions)
