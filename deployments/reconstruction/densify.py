"""Where Gaussians are moved to and added: Gaussians as samples that are never lost (Kheradmand et al. 2024).

Those that have faded are put where the picture still pulls; a Gaussian that n copies share becomes n weaker, smaller
ones that together look as it did. The count has a bound, so memory and file size have one. That paper draws the places
by opacity; we draw them by how strongly the picture pulled at a Gaussian (the measure of Kerbl et al. 2023), which
spends a small number of Gaussians where there is detail.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from deployments.reconstruction.parameters import Parameters

FADED: Final = 0.005
# Copies that one Gaussian becomes at most.
_MOST_COPIES: Final = 16
# Times the rate of the centres, which for the short runs here is many times that of the paper, whose factor is 5e5.
_NOISE: Final = 1e4


def refine(gaussians: Parameters, pull: Tensor, room: int, draw: torch.Generator) -> int:
    """Moves faded Gaussians and adds new ones.

    Args:
        pull: (N,): how strongly the pictures pulled at each since the last time.
        room: Gaussians to add.

    Returns:
        Gaussians moved and added.
    """
    opacity = gaussians.values["opacities"].detach().sigmoid()
    faded = torch.nonzero(opacity <= FADED)[:, 0]
    weight = (pull * (opacity > FADED)).double().cpu()
    if len(faded) + room == 0 or not bool((weight > 0).any()):
        return 0
    targets = torch.multinomial(weight, len(faded) + room, replacement=True, generator=draw).to(opacity.device)
    copies = torch.bincount(targets, minlength=len(gaussians)).clamp(max=_MOST_COPIES - 1) + 1
    shared = torch.nonzero(copies > 1)[:, 0]
    weaker, smaller = shares(opacity[shared], gaussians.values["scales"].detach()[shared].exp(), copies[shared])
    gaussians.put(shared, {"opacities": torch.logit(weaker, eps=1e-6), "scales": smaller.log()})
    moved, added = targets[: len(faded)], targets[len(faded) :]
    gaussians.put(faded, gaussians.rows(moved))
    gaussians.append(gaussians.rows(added))
    return len(faded) + room


def shares(opacities: Tensor, scales: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity (M,) and scales (M, 3) of each of n Gaussians in one place that together look like one (equation 9 of
    Kheradmand et al. 2024).

    Args:
        copies: (M,): n, from 1 to `_MOST_COPIES`.
    """
    weaker = 1 - (1 - opacities) ** (1 / copies)
    total = torch.zeros_like(opacities)
    for i in range(1, _MOST_COPIES + 1):
        terms = sum(math.comb(i - 1, k) * (-1) ** k * weaker ** (k + 1) / math.sqrt(k + 1) for k in range(i))
        total += torch.where(copies >= i, terms, 0.0)
    return weaker.clamp(min=FADED), scales * (opacities / total)[:, None]


def shake(gaussians: Parameters, rate: float, draw: torch.Generator) -> None:
    """Moves faint Gaussians about within themselves: the noise by which descent explores (ibid., equation 7).

    Args:
        rate: of the centres.
    """
    values = gaussians.values
    with torch.no_grad():
        faintness = torch.sigmoid(100 * (FADED - values["opacities"].sigmoid()))
        noise = torch.randn(len(gaussians), 3, generator=draw).to(faintness.device)
        noise *= (2 * values["scales"]).exp() * (_NOISE * rate * faintness)[:, None]
        unit = torch.nn.functional.normalize(values["quats"], dim=1)
        w, axis = unit[:, :1], unit[:, 1:]
        turn = 2 * torch.linalg.cross(axis, noise)
        values["means"].add_(noise + w * turn + torch.linalg.cross(axis, turn))
