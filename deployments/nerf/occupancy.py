"""A grid of where there is anything, so that rays pass through nothing at no cost (Mueller et al. 2022, appendix C)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

_DECAY: Final = 0.95
# A cell is empty when less than so much of a ray's light would be stopped in one sample, and less than in the mean cell
# (at the beginning there is next to nothing anywhere).
_LEAST_STOPPED: Final = 0.01
_CHUNK: Final = 1 << 16


class OccupancyGrid(nn.Module):
    """Cells of a unit cube. At first all count as occupied.

    Args:
        cells: along each axis.
    """

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.register_buffer("bits", torch.ones(cells**3, dtype=torch.bool))
        #: A falling maximum of the density seen in each cell; empty until `update`, since only training needs it.
        self.register_buffer("seen", torch.zeros(0), persistent=False)
        self.bits: Tensor
        self.seen: Tensor

    def along(self, origins: Tensor, directions: Tensor, distances: Tensor) -> Tensor:
        """(N, S) bool: whether cells are occupied at so many distances (N, S) along rays (N, 3), in the cube's unit."""
        cells = []
        for origin, direction in zip(origins.unbind(1), directions.unbind(1), strict=True):
            place = (origin * self.cells)[:, None] + distances * (direction * self.cells)[:, None]
            cells.append(place.int().clamp_(0, self.cells - 1))
        x, y, z = cells
        return self.bits[(x * self.cells + y) * self.cells + z]

    @torch.no_grad()
    def update(
        self, density: Callable[[Tensor], Tensor], step: float, generator: torch.Generator, share: float = 1.0
    ) -> None:
        """Looks at a random place of each of some cells.

        Args:
            density: (N,) at places (N, 3) from 0 to 1, per unit of length of the cube.
            step: between samples, in that unit.
            generator: on the CPU.
            share: of the cells that are looked at: half of them from all, half from those that are occupied.
        """
        device = self.bits.device
        if not len(self.seen):
            self.seen = torch.zeros(len(self.bits), device=device)
        if share >= 1:
            chosen = torch.arange(len(self.bits), device=device)
        else:
            count = max(int(share * len(self.bits) / 2), 1)
            anywhere = torch.randint(len(self.bits), (count,), generator=generator).to(device)
            full = self.bits.nonzero().squeeze(1)
            if len(full) > count:
                full = full[torch.randint(len(full), (count,), generator=generator).to(device)]
            chosen = torch.cat([anywhere, full]).unique()  # type: ignore[no-untyped-call]
        place = torch.stack([chosen // self.cells**2, chosen // self.cells % self.cells, chosen % self.cells], -1)
        jitter = torch.rand(place.shape, generator=generator).to(device)
        places = (place + jitter) / self.cells
        found = torch.cat([density(places[start : start + _CHUNK]) for start in range(0, len(places), _CHUNK)])
        self.seen[chosen] = torch.maximum(self.seen[chosen] * _DECAY, found)
        stopped = self.seen * step
        self.bits = stopped > stopped.mean().clamp(max=_LEAST_STOPPED)
