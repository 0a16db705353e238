"""Gaussians as what is optimised: logarithms, logits and harmonics, with Adam's moments row by row.

Rows come, go and are copied while training, and a killed run goes on exactly where it stopped; so the optimiser is a
few lines here and its whole state is tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from deployments.reconstruction.views import Views
from deployments.rendering.camera import Camera
from deployments.splat.gaussians import SH_C0, Gaussians

NAMES: Final = ("means", "quats", "scales", "opacities", "sh0", "sh_rest")
# Rates of Kerbl et al. 2023, but twice theirs for the scales, which our short runs gain by; that of the centres is in
# units of the cameras' extent and falls to a hundredth.
_RATES: Final[Mapping[str, float]] = {
    "means": 1.6e-4,
    "quats": 1e-3,
    "scales": 1e-2,
    "opacities": 5e-2,
    "sh0": 2.5e-3,
    "sh_rest": 2.5e-3 / 20,
}
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-15
# Steps of the runs that the rates were found for, and how much faster a shorter run may go: all, and the centres.
_USUAL_STEPS, _MOST_HASTE, _MOST_DASH = 30_000, 4.0, 37.5
_FIRST_OPACITY: Final = 0.3
# Share of the Gaussians that start far behind everything, for sky and walls without features.
_FAR_SHARE: Final = 0.1


@dataclass(slots=True, eq=False)
class Parameters:
    """N Gaussians.

    Attributes:
        values: by name: means (N, 3), quats (N, 4), scales (N, 3) logarithms, opacities (N,) logits, sh0 (N, 1, 3),
            sh_rest (N, K - 1, 3). Leaves that have a gradient.
        first, second: Adam's moments, of the same shapes.
        steps: that Adam has taken.
    """

    values: dict[str, Tensor]
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    steps: int = 0

    @staticmethod
    def of(values: Mapping[str, Tensor]) -> Parameters:
        """Without moments."""
        first, second = ({name: torch.zeros_like(value) for name, value in values.items()} for _ in range(2))
        return Parameters({name: value.detach().requires_grad_() for name, value in values.items()}, first, second)

    def __len__(self) -> int:
        return len(self.values["means"])

    def step(self, rates: Mapping[str, float]) -> None:
        """One step of Adam (Kingma and Ba 2015) along the gradients, which are then gone."""
        self.steps += 1
        with torch.no_grad():
            for name, value in self.values.items():
                if value.grad is None or not value.numel():
                    continue
                first, second = self.first[name], self.second[name]
                first.lerp_(value.grad, 1 - _BETA1)
                second.mul_(_BETA2).addcmul_(value.grad, value.grad, value=1 - _BETA2)
                size = rates[name] / (1 - _BETA1**self.steps)
                spread = (second / (1 - _BETA2**self.steps)).sqrt_().add_(_EPSILON)
                value.addcdiv_(first, spread, value=-size)
                value.grad = None

    def put(self, rows: Tensor, values: Mapping[str, Tensor]) -> None:
        """Replaces rows; their moments start anew."""
        with torch.no_grad():
            for name, value in values.items():
                self.values[name][rows] = value
            for name in NAMES:
                self.first[name][rows] = 0
                self.second[name][rows] = 0

    def append(self, values: Mapping[str, Tensor]) -> None:
        """Adds rows without moments."""
        for name, value in values.items():
            self.values[name] = torch.cat([self.values[name].detach(), value]).requires_grad_()
            for moments in (self.first, self.second):
                moments[name] = torch.cat([moments[name], torch.zeros_like(value)])

    def rows(self, which: Tensor) -> dict[str, Tensor]:
        """Copies of rows."""
        return {name: value.detach()[which] for name, value in self.values.items()}

    def activated(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What is drawn, on the graph: means, quats, scales, opacities, harmonics."""
        values = self.values
        sh = torch.cat([values["sh0"], values["sh_rest"]], dim=1)
        return values["means"], values["quats"], values["scales"].exp(), values["opacities"].sigmoid(), sh

    def gaussians(self) -> Gaussians:
        """As a scene, without those that cannot be seen."""
        with torch.no_grad():
            means, quats, scales, opacities, sh = (tensor.cpu().numpy() for tensor in self.activated())
        unit = quats / np.maximum(np.linalg.norm(quats, axis=1, keepdims=True), 1e-12)
        good = np.isfinite(means).all(1) & np.isfinite(scales).all(1) & (opacities >= 1 / 255)
        return Gaussians(means, unit.astype(np.float32), np.maximum(scales, 1e-9), opacities, sh).select(good)


def rates(extent: float, step: int, steps: int) -> dict[str, float]:
    """Adam's rates at a step. A run shorter than those that the published rates were found for goes faster: centres by
    as much as it is shorter, since they have the same way to go, all else by the root of that.

    Args:
        extent: of the cameras, in the scene's unit.
    """
    shorter = max(1.0, _USUAL_STEPS / steps)
    haste = min(_MOST_HASTE, shorter**0.5)
    found = {name: rate * haste for name, rate in _RATES.items()}
    found["means"] = _RATES["means"] * min(_MOST_DASH, shorter) * extent * 0.01 ** (step / steps)
    return found


def initial(views: Views, count: int, sh_degree: int, seed: int, device: torch.device) -> Parameters:
    """Gaussians at the points of structure from motion, round, as large as their neighbours are away; and a shell far
    behind everything.

    Args:
        count: most Gaussians.
    """
    draw = np.random.default_rng(seed)
    points, colours = views.points.astype(np.float64), views.colours / 255.0
    room = max(1, int(count * (1 - _FAR_SHARE)) // 2)
    if len(points) > room:
        kept = draw.choice(len(points), room, replace=False)
        points, colours = points[kept], colours[kept]
    distances, _ = cKDTree(points).query(points, k=min(4, len(points)))
    near = np.sqrt((distances[:, 1:] ** 2).mean(axis=1)) if len(points) > 1 else np.ones(1)
    size = np.clip(near, 1e-4, 0.3)
    shell, shell_colours, shell_size = _shell(views, max(8, int(count * _FAR_SHARE)), draw)
    means = np.concatenate([points, shell])
    whole = np.concatenate([colours, shell_colours])
    scales = np.log(np.concatenate([size, np.full(len(shell), shell_size)]))
    quats = np.zeros((len(means), 4))
    quats[:, 0] = 1
    logit = np.log(_FIRST_OPACITY / (1 - _FIRST_OPACITY))
    arrays = {
        "means": means,
        "quats": quats,
        "scales": np.repeat(scales[:, None], 3, axis=1),
        "opacities": np.full(len(means), logit),
        "sh0": ((whole - 0.5) / SH_C0)[:, None],
        "sh_rest": np.zeros((len(means), (sh_degree + 1) ** 2 - 1, 3)),
    }
    tensors = {name: torch.tensor(array, dtype=torch.float32, device=device) for name, array in arrays.items()}
    return Parameters.of(tensors)


def extent(cameras: list[Camera]) -> float:
    """How far the cameras are from their middle at most, with a tenth to spare; at least a twentieth of the unit."""
    places = np.stack([camera.position for camera in cameras])
    return max(0.05, 1.1 * float(np.linalg.norm(places - places.mean(axis=0), axis=1).max()))


def _shell(
    views: Views, count: int, draw: np.random.Generator
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float64]], np.ndarray[tuple[int, ...], np.dtype[np.float64]], float]:
    """Points on a sphere around everything that some photo sees, in that photo's colour, and a size that closes it."""
    places = np.stack([view.camera.position for view in views.training])
    radius = 4.0 * max(float(np.linalg.norm(places, axis=1).max()), float(np.abs(views.points).max()), 1.0)
    # Evenly spread: a spiral at the golden angle (Vogel 1979).
    number = np.arange(count)
    height = 1 - (2 * number + 1) / count
    angle = number * np.pi * (3 - np.sqrt(5)) + draw.uniform(0, 2 * np.pi)
    level = np.sqrt(1 - height * height)
    shell = radius * np.stack([level * np.cos(angle), height, level * np.sin(angle)], axis=1)
    sums, seen = np.zeros((count, 3)), np.zeros(count)
    for view in views.training:
        pixels, camera = view.pixels(128), view.camera_at(128)
        local = shell @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3]
        before = local[:, 2] > 1e-6
        depth = np.where(before, local[:, 2], 1.0)
        x = np.floor(camera.fx * local[:, 0] / depth + camera.cx).astype(int)
        y = np.floor(camera.fy * local[:, 1] / depth + camera.cy).astype(int)
        inside = before & (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
        sums[inside] += pixels[y[inside], x[inside]] / 255.0
        seen[inside] += 1
    found = seen > 0
    return shell[found], sums[found] / seen[found, None], radius * float(np.sqrt(4 * np.pi / count)) * 0.5
