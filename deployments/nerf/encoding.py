"""How places and directions become inputs of a network."""

from __future__ import annotations

import itertools
import math
from typing import Final

import torch
from torch import Tensor, nn

# Of the spatial hash of Mueller et al. 2022 (there pi_2 and pi_3; Teschner et al. 2003), as signed 32-bit numbers.
_PRIMES: Final = (2_654_435_761 - (1 << 32), 805_459_861)
# Half the width of the uniform distribution that a table starts from (Mueller et al., section 4).
_INITIAL: Final = 1e-4


def frequencies(values: Tensor, levels: int) -> Tensor:
    """The positional encoding of Mildenhall et al. 2020 as their code has it: the values themselves, then sine and
    cosine of each times 1, 2, 4, ...

    Args:
        values: (..., D).
        levels: L in the paper: 10 for places, 4 for directions.

    Returns:
        (..., D * (1 + 2 * levels)): 63 for places, 27 for directions.
    """
    scales = 2.0 ** torch.arange(levels, dtype=values.dtype, device=values.device)
    angles = values[..., None, :] * scales[:, None]
    waves = torch.stack([angles.sin(), angles.cos()], -2)
    return torch.cat([values, waves.flatten(-3)], -1)


def spherical_harmonics(directions: Tensor) -> Tensor:
    """Real spherical harmonics up to degree 3 of unit vectors: (..., 3) to (..., 16), orthonormal on the sphere."""
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    values = [
        torch.full_like(x, 0.5 * math.sqrt(1 / math.pi)),
        -math.sqrt(3 / (4 * math.pi)) * y,
        math.sqrt(3 / (4 * math.pi)) * z,
        -math.sqrt(3 / (4 * math.pi)) * x,
        0.5 * math.sqrt(15 / math.pi) * x * y,
        -0.5 * math.sqrt(15 / math.pi) * y * z,
        0.25 * math.sqrt(5 / math.pi) * (3 * zz - 1),
        -0.5 * math.sqrt(15 / math.pi) * x * z,
        0.25 * math.sqrt(15 / math.pi) * (xx - yy),
        -0.25 * math.sqrt(35 / (2 * math.pi)) * y * (3 * xx - yy),
        0.5 * math.sqrt(105 / math.pi) * x * y * z,
        -0.25 * math.sqrt(21 / (2 * math.pi)) * y * (5 * zz - 1),
        0.25 * math.sqrt(7 / math.pi) * z * (5 * zz - 3),
        -0.25 * math.sqrt(21 / (2 * math.pi)) * x * (5 * zz - 1),
        0.25 * math.sqrt(105 / math.pi) * z * (xx - yy),
        -0.25 * math.sqrt(35 / (2 * math.pi)) * x * (xx - 3 * yy),
    ]
    return torch.stack(values, -1)


class HashGrid(nn.Module):
    """The multi-resolution hash encoding of Mueller et al. 2022: trilinear interpolation in grids whose vertices lie in
    tables. A grid that fits into its table has an entry for each vertex; in a finer one vertices share entries.

    Args:
        levels: of grids; the numbers of cells along an axis grow geometrically from `coarsest` to `finest`.
        features: values at a vertex.
        log2_table: logarithm of the most entries of a level.
    """

    def __init__(self, levels: int, features: int, log2_table: int, coarsest: int, finest: int) -> None:
        super().__init__()
        growth = (finest / coarsest) ** (1 / max(levels - 1, 1))
        #: Along an axis, of each level.
        self.cells = tuple(int(coarsest * growth**level + 1e-6) for level in range(levels))
        self.out_features = levels * features
        self._most = 1 << log2_table
        #: Where each level's entries begin, and where the last one's end.
        self.starts = (0, *itertools.accumulate(min((count + 1) ** 3, self._most) for count in self.cells))
        #: By feature, since gathering single values is several times faster than gathering pairs, on a CPU.
        self.table = nn.Parameter(torch.empty(features, self.starts[-1]).uniform_(-_INITIAL, _INITIAL))

    def forward(self, places: Tensor) -> Tensor:
        """Features (N, levels * features) at places (N, 3) from 0 to 1."""
        # Places last, so that each operation runs along memory.
        across = places.T.contiguous()
        found = [self._corners(across, level) for level in range(len(self.cells))]
        index = torch.stack([entries for entries, _ in found])
        weights = torch.stack([shares for _, shares in found])
        flat = index.flatten()
        values = [(row.index_select(0, flat).view(index.shape) * weights).sum(1) for row in self.table]
        return torch.stack(values, 1).flatten(0, 1).T

    def _corners(self, places: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Entries (8, N) of the corners of the cells of places (3, N), and their shares in the interpolation (8, N)."""
        cells, start = self.cells[level], self.starts[level]
        scaled = places * cells
        # The last vertex belongs to the last cell.
        lowest = scaled.detach().floor().clamp(0, cells - 1)
        share = scaled - lowest
        vertex = lowest.int()
        corner = torch.stack([vertex, vertex + 1])
        if (cells + 1) ** 3 <= self._most:
            x, y, z = corner[:, 0], corner[:, 1] * (cells + 1), corner[:, 2] * (cells + 1) ** 2
            entries = x[:, None, None] + y[:, None] + z
        else:
            # Products that overflow wrap around, and only their low bits are used.
            x, y, z = corner[:, 0], corner[:, 1] * _PRIMES[0], corner[:, 2] * _PRIMES[1]
            entries = (x[:, None, None] ^ y[:, None] ^ z) & (self._most - 1)
        a, b, c = torch.stack([1 - share, share]).unbind(1)
        return (entries + start).flatten(0, 2), (a[:, None, None] * b[:, None] * c).flatten(0, 2)
