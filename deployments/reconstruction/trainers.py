"""What the training stage asks of a method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from deployments.reconstruction.messages import Plan, Spec
from deployments.reconstruction.views import Views
from deployments.rendering.camera import Camera

UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Training:
    """How far training is.

    Attributes:
        count: Gaussians; 0 for a radiance field.
        loss: mean of the latest steps.
    """

    step: int
    steps: int
    count: int
    loss: float


class Trainer(Protocol):
    """One training. Made anew over the same checkpoint, it goes on from there, and ends as if it had never stopped."""

    @property
    def step(self) -> int:
        """Steps taken."""

    def train(self, until: int) -> Training:
        """Goes on up to a step, or to the end."""

    def save(self) -> None:
        """Writes the checkpoint."""

    def picture(self, camera: Camera) -> UInt8:
        """A view as it looks now, (height, width, 3)."""

    def scene(self) -> bytes:
        """The scene's file as the store takes it."""


def device_of(spec: Spec) -> torch.device:
    """A GPU when there is one and its memory was given to this work: what else is on it has a claim to the rest."""
    given = spec.gpu_memory_gb is None or spec.gpu_memory_gb > 0
    return torch.device("cuda" if given and torch.cuda.is_available() else "cpu")


def make_trainer(views: Views, spec: Spec, plan: Plan, checkpoint: Path) -> Trainer:
    """That of the method, on `device_of` the spec."""
    device = device_of(spec)
    torch.set_num_threads(spec.threads)
    if spec.method == "nerf":
        from deployments.reconstruction.nerf_training import NerfTrainer

        return NerfTrainer(views, plan, seed=spec.seed, device=device, checkpoint=checkpoint)
    from deployments.reconstruction.splat_training import SplatTrainer

    return SplatTrainer(views, plan, seed=spec.seed, threads=spec.threads, device=device, checkpoint=checkpoint)
