"""A radiance field trained on views: `deployments.nerf.train` over what structure from motion found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from deployments.nerf.checkpoint import write
from deployments.nerf.render import render
from deployments.nerf.settings import FieldSettings
from deployments.nerf.train import Trainer as FieldTrainer
from deployments.nerf.train import TrainSettings
from deployments.reconstruction.messages import Plan
from deployments.reconstruction.trainers import Training
from deployments.reconstruction.views import Views
from deployments.rendering.camera import Camera

UInt8 = npt.NDArray[np.uint8]

# The box around the points, without the outermost: these percentiles on each axis, and some room.
_LEAST, _MOST, _ROOM = 0.5, 99.5, 0.1


class NerfTrainer:
    """See `deployments.reconstruction.trainers.Trainer`."""

    def __init__(self, views: Views, plan: Plan, *, seed: int, device: torch.device, checkpoint: Path) -> None:
        images = [view.pixels(plan.side) for view in views.training]
        cameras = [view.camera_at(plan.side) for view in views.training]
        options = TrainSettings(steps=plan.steps, seed=seed)
        self._trainer = FieldTrainer(images, cameras, field_settings(views, images), options, device)
        self._checkpoint = checkpoint
        if checkpoint.exists():
            self._trainer.load(checkpoint)

    @property
    def step(self) -> int:
        """Steps taken."""
        return self._trainer.step

    def train(self, until: int) -> Training:
        """See `Trainer`; the loss is the mean squared error."""
        steps, psnr = self._trainer.options.steps, 0.0
        while self._trainer.step < min(until, steps):
            psnr = self._trainer.advance().psnr
        return Training(self._trainer.step, steps, 0, 10 ** (-psnr / 10))

    def save(self) -> None:
        """See `Trainer`."""
        self._checkpoint.parent.mkdir(exist_ok=True)
        self._trainer.save(self._checkpoint)

    def picture(self, camera: Camera) -> UInt8:
        """See `Trainer`."""
        rgb = render(self._trainer.field, camera).rgb
        return np.asarray((np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8))

    def scene(self) -> bytes:
        """See `Trainer`."""
        return write(self._trainer.field)


def field_settings(views: Views, images: list[UInt8]) -> FieldSettings:
    """A hash grid (Müller et al. 2022) over the box of the points, before their photos' mean colour."""
    least = np.percentile(views.points, _LEAST, axis=0)
    most = np.percentile(views.points, _MOST, axis=0)
    room = _ROOM * (most - least) + 1e-3
    mean = np.mean([image.reshape(-1, 3).mean(axis=0) for image in images], axis=0) / 255
    return FieldSettings(
        variant="hash", least=_vector(least - room), most=_vector(most + room), background=_vector(mean), log2_table=17
    )


def _vector(values: npt.NDArray[np.floating]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
