"""Gaussians trained on views: 3D Gaussian splatting (Kerbl et al. 2023) with a bounded count (`densify`).

What is drawn by lot is seeded by the step, so a run that goes on from a checkpoint ends as one that never stopped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from deployments.reconstruction import densify
from deployments.reconstruction.folder import replacing
from deployments.reconstruction.losses import photo_loss
from deployments.reconstruction.messages import Plan
from deployments.reconstruction.parameters import NAMES, Parameters, extent, initial, rates
from deployments.reconstruction.trainers import Training
from deployments.reconstruction.views import Views
from deployments.rendering.camera import Camera
from deployments.splat import scene_file
from deployments.splat.differentiable import Differentiable, render_differentiable

UInt8 = npt.NDArray[np.uint8]

# Parts of the run after which pictures are twice as large; they start at a quarter.
_GROW: Final = (0.15, 0.4)
# Parts of the run between which Gaussians move and come, and how often.
_REFINE_FROM, _REFINE_TO, _REFINEMENTS = 0.05, 0.8, 40
# Weights of opacity and size, which let what is not needed fade (Kheradmand et al. 2024).
_OPACITY_WEIGHT, _SIZE_WEIGHT = 0.01, 0.01
_KEY: Final = "argus"


class SplatTrainer:
    """See the module's text.

    Args:
        checkpoint: where the state is kept; training goes on from it when it is there.
    """

    def __init__(
        self, views: Views, plan: Plan, *, seed: int, threads: int, device: torch.device, checkpoint: Path
    ) -> None:
        self._plan, self._seed, self._threads, self._device = plan, seed, threads, device
        self._views = views.training
        self._checkpoint = checkpoint
        self._extent = extent([view.camera for view in self._views])
        self._pictures: dict[int, tuple[Tensor, Camera]] = {}
        self._side = 0
        self.step = 0
        if checkpoint.exists():
            self._gaussians, self._pull = self._restored()
        else:
            self._gaussians = initial(views, plan.count, plan.sh_degree, seed, device)
            self._pull = torch.zeros(len(self._gaussians), device=device)
        self._loss = 0.0

    def train(self, until: int) -> Training:
        """See `Trainer`."""
        torch.set_num_threads(self._threads)
        while self.step < min(until, self._plan.steps):
            self._one()
        return Training(self.step, self._plan.steps, len(self._gaussians), self._loss)

    def save(self) -> None:
        """See `Trainer`."""
        tensors = {"pull": self._pull}
        for part in ("values", "first", "second"):
            kept: dict[str, Tensor] = getattr(self._gaussians, part)
            tensors |= {f"{part}.{name}": value.detach().contiguous() for name, value in kept.items()}
        # Every field of Parameters and the step; nothing else changes from step to step.
        state = {"step": self.step, "adam": self._gaussians.steps, "loss": self._loss}
        with replacing(self._checkpoint) as new:
            new.write_bytes(save(tensors, {_KEY: json.dumps(state)}))

    def scene(self) -> bytes:
        """See `Trainer`."""
        return scene_file.write(self._gaussians.gaussians())

    def picture(self, camera: Camera) -> UInt8:
        """See `Trainer`."""
        with torch.no_grad():
            rgb = self._drawn(camera).rgb
        return np.asarray((rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())

    def _one(self) -> None:
        plan, step = self._plan, self.step
        progress = step / plan.steps
        photo, camera = self._picture(self._position(step), _side_at(progress, plan.side))
        drawn = self._drawn(camera)
        values = self._gaussians.values
        loss = photo_loss(drawn.rgb, photo)
        whole = (
            loss + _OPACITY_WEIGHT * values["opacities"].sigmoid().mean() + _SIZE_WEIGHT * values["scales"].exp().mean()
        )
        whole.backward()  # type: ignore[no-untyped-call]
        self._loss = 0.98 * self._loss + 0.02 * float(loss.detach()) if step else float(loss.detach())
        self._felt(drawn, camera)
        now = rates(self._extent, step, plan.steps)
        self._gaussians.step(now)
        draw = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        densify.shake(self._gaussians, now["means"], draw)
        self.step = step + 1
        self._refine(draw)

    def _felt(self, drawn: Differentiable, camera: Camera) -> None:
        """Adds how strongly this picture pulled at each Gaussian, in parts of the picture."""
        if drawn.means2d.grad is not None:
            pull = drawn.means2d.grad * torch.tensor([camera.width, camera.height], device=self._device) / 2
            self._pull += pull.norm(dim=1)

    def _refine(self, draw: torch.Generator) -> None:
        steps = self._plan.steps
        first, last = int(_REFINE_FROM * steps), int(_REFINE_TO * steps)
        every = max(1, (last - first) // _REFINEMENTS)
        if not first < self.step <= last or (self.step - first) % every:
            return
        # Even growth in ratio, so that half way between first and last all are there.
        count, left = len(self._gaussians), max(1, ((first + last) // 2 - self.step) // every + 1)
        target = int(count * (self._plan.count / count) ** (1 / left))
        densify.refine(self._gaussians, self._pull, max(0, min(target, self._plan.count) - count), draw)
        self._pull = torch.zeros(len(self._gaussians), device=self._device)

    def _drawn(self, camera: Camera) -> Differentiable:
        degree = min(self._plan.sh_degree, int(4 * self.step / self._plan.steps * (self._plan.sh_degree + 1)))
        return render_differentiable(*self._gaussians.activated(), camera, sh_degree=degree, threads=self._threads)

    def _position(self, step: int) -> int:
        """Of the view of a step: every view once, in an order of its own each time around."""
        around, at = divmod(step, len(self._views))
        order = torch.randperm(
            len(self._views), generator=torch.Generator().manual_seed(self._seed * 1_000_003 + around)
        )
        return int(order[at])

    def _picture(self, position: int, side: int) -> tuple[Tensor, Camera]:
        if side != self._side:
            self._pictures, self._side = {}, side
        if position not in self._pictures:
            view = self._views[position]
            self._pictures[position] = torch.from_numpy(view.pixels(side).copy()), view.camera_at(side)
        pixels, camera = self._pictures[position]
        return pixels.to(self._device).float() / 255, camera

    def _restored(self) -> tuple[Parameters, Tensor]:
        tensors = load_file(self._checkpoint, device=str(self._device))
        state = json.loads(_metadata(self._checkpoint)[_KEY])
        self.step, self._loss = int(state["step"]), float(state["loss"])
        parts = ({name: tensors[f"{part}.{name}"] for name in NAMES} for part in ("values", "first", "second"))
        values, first, second = parts
        leaves = {name: value.requires_grad_() for name, value in values.items()}
        gaussians = Parameters(leaves, first, second, int(state["adam"]))
        return gaussians, tensors["pull"]


def _side_at(progress: float, side: int) -> int:
    """Pictures grow while training: what is large is found first, and fast."""
    halvings = sum(progress < part for part in _GROW)
    return max(min(side, 64), side >> halvings)


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata: dict[str, str] = file.metadata()
    return metadata
