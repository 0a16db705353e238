"""Fitting a radiance field to pictures with known cameras; it can be stopped at any step and taken up again."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from deployments.nerf.field import RadianceField
from deployments.nerf.rays import CameraRays, Rays, moved
from deployments.nerf.render import HASH_SAMPLES, MLP_SAMPLES, diagonal, draw_hash, draw_mlp
from deployments.nerf.settings import FieldSettings
from deployments.rendering.camera import Camera

_GRID_EVERY: Final = 16
# So many steps long every cell is looked at; later a share of them.
_GRID_WARM_UP: Final = 256
_GRID_SHARE: Final = 0.125
_MOST_RAYS: Final = 8192
_KEY: Final = "argus"


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a field is fitted.

    Attributes:
        steps: of the optimiser.
        points: samples asked of a hash grid in a step; the number of rays follows from how empty the scene is.
        rays: of a step, of MLPs.
        samples: see `render.Quality`; the variant's usual number when None.
        rate: learning rate at the start; by default 1e-2 for hash grids, 5e-4 for MLPs, as published. At the end it is
            a tenth of that.
        seed: of the first weights and of everything drawn.
    """

    steps: int = 2000
    points: int = 16_384
    rays: int = 512
    samples: int | None = None
    rate: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands.

    Attributes:
        psnr: of the last steps' rays, in dB, smoothed.
        rays: of the last step.
        seconds: spent so far, those before an interruption included.
    """

    step: int
    steps: int
    psnr: float
    rays: int
    seconds: float


def train(
    images: Sequence[npt.NDArray[np.uint8]],
    cameras: Sequence[Camera],
    settings: FieldSettings,
    options: TrainSettings | None = None,
    *,
    device: torch.device | str = "cpu",
    state: Path | None = None,
    save_s: float = 60.0,
    progress: Callable[[Progress], None] = lambda _: None,
) -> RadianceField:
    """Fits a field to pictures.

    Args:
        images: (height, width, 3) of a scene before the settings' background, or (height, width, 4) with alpha, not
            premultiplied, of a scene that shall have none of its own.
        cameras: one an image, of its size.
        state: where training is kept; if there is such a file, it is taken up from there.
        save_s: seconds from one saving to the next.
        progress: called after each step; what it raises ends training, and the state is saved.

    Raises:
        ValueError: images and cameras do not fit each other, or the file at `state` is that of another training.
    """
    trainer = Trainer(images, cameras, settings, options or TrainSettings(), torch.device(device))
    if state is not None and state.is_file():
        trainer.load(state)
    saved = time.monotonic()
    try:
        while trainer.step < trainer.options.steps:
            progress(trainer.advance())
            if state is not None and time.monotonic() - saved > save_s:
                trainer.save(state)
                saved = time.monotonic()
    finally:
        if state is not None:
            trainer.save(state)
    return trainer.field.eval().requires_grad_(False)


class Trainer:
    """One training, a step at a time."""

    def __init__(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        cameras: Sequence[Camera],
        settings: FieldSettings,
        options: TrainSettings,
        device: torch.device,
    ) -> None:
        self.options = options
        self._pixels = _Pixels(images, cameras, settings.background)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.field = RadianceField(settings).to(device)
        self._device = device
        hashed = settings.variant == "hash"
        self._samples = options.samples or (HASH_SAMPLES if hashed else MLP_SAMPLES)
        self._rays = max(options.points // self._samples, 1) if hashed else options.rays
        self._rate = options.rate or (1e-2 if hashed else 5e-4)
        self._optimizer = torch.optim.Adam(
            self.field.parameters(),
            lr=self._rate,
            betas=(0.9, 0.99 if hashed else 0.999),
            eps=1e-15 if hashed else 1e-8,
        )
        self._generator = torch.Generator().manual_seed(options.seed)
        self._error = 0.0
        self._seconds = 0.0
        self.step = 0

    def advance(self) -> Progress:
        """One step of the optimiser."""
        started = time.monotonic()
        rays, wanted, background = self._pixels.draw(self._rays, self._generator)
        rays, wanted, background = moved(rays, self._device), wanted.to(self._device), background.to(self._device)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * 0.1 ** (self.step / self.options.steps)
        if self.field.grid is None:
            coarse, drawn = draw_mlp(self.field, rays, self._samples, background, self._generator)
            error = F.mse_loss(drawn.rgb, wanted)
            loss = error + F.mse_loss(coarse.rgb, wanted)
        else:
            drawn, asked = draw_hash(self.field, rays, self._samples, background, self._generator)
            loss = error = F.mse_loss(drawn.rgb, wanted)
            fitting = len(rays) * self.options.points / max(asked, 1)
            self._rays = round(min(max(fitting, 0.5 * len(rays), 16), 2 * len(rays), _MOST_RAYS))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.step += 1
        self._look_around()
        share = max(0.02, 1 / self.step)
        self._error += share * (float(error.detach()) - self._error)
        self._seconds += time.monotonic() - started
        psnr = -10 * math.log10(max(self._error, 1e-12))
        return Progress(self.step, self.options.steps, psnr, len(rays), self._seconds)

    def _look_around(self) -> None:
        grid = self.field.grid
        if grid is None or self.step % _GRID_EVERY:
            return
        side = self.field.settings.side
        share = 1.0 if self.step <= _GRID_WARM_UP else _GRID_SHARE
        grid.update(
            lambda places: self.field.fine.density(places)[0],
            diagonal(self.field) / self._samples / side,
            self._generator,
            share,
        )

    def save(self, path: Path) -> None:
        """Writes everything that the next step depends on; the file at `path` is whole at every moment."""
        tensors = {f"field.{name}": tensor for name, tensor in self.field.state_dict().items()}
        if self.field.grid is not None:
            tensors["seen"] = self.field.grid.seen
        for number, values in self._optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": value for name, value in values.items()}
        tensors["generator"] = self._generator.get_state()
        metadata = self._identity() | {
            "step": self.step,
            "rays": self._rays,
            "error": self._error,
            "seconds": self._seconds,
        }
        new = path.with_name(f"{path.name}.new")
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            new,
            {_KEY: json.dumps(metadata, sort_keys=True)},
        )
        new.replace(path)

    def load(self, path: Path) -> None:
        """Takes up what `save` wrote.

        Raises:
            ValueError: it is of another training.
        """
        with safe_open(path, "pt") as file:
            metadata = json.loads(file.metadata()[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        if any(metadata[name] != value for name, value in self._identity().items()):
            raise ValueError(f"{path} is the state of another training")
        self.field.load_state_dict(_under(tensors, "field."))
        if self.field.grid is not None:
            self.field.grid.seen = tensors["seen"].to(self._device)
        adam: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under(tensors, "adam.").items():
            number, key = name.split(".")
            adam.setdefault(int(number), {})[key] = tensor
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": adam})
        self._generator.set_state(tensors["generator"])
        self.step, self._rays = metadata["step"], metadata["rays"]
        self._error, self._seconds = metadata["error"], metadata["seconds"]

    def _identity(self) -> dict[str, Any]:
        """What makes two trainings the same."""
        return {
            "settings": self.field.settings.model_dump(mode="json"),
            "options": dataclasses.asdict(self.options),
            "pixels": self._pixels.count,
        }


class _Pixels:
    """All pixels of all images."""

    def __init__(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        cameras: Sequence[Camera],
        background: tuple[float, float, float] | None,
    ) -> None:
        if not images or len(images) != len(cameras):
            raise ValueError(f"there are {len(images)} images and {len(cameras)} cameras")
        for number, (image, camera) in enumerate(zip(images, cameras, strict=True)):
            channels = 4 if background is None else 3
            if image.shape != (camera.height, camera.width, channels) or image.dtype != np.uint8:
                raise ValueError(
                    f"image {number} is {image.dtype} {image.shape}; its camera and the field's background ask for "
                    f"uint8 {(camera.height, camera.width, channels)}"
                )
        self._background = background
        self._values = torch.from_numpy(np.concatenate([image.reshape(-1, image.shape[2]) for image in images]))
        self._ends = torch.tensor([camera.width * camera.height for camera in cameras]).cumsum(0)
        self._widths = torch.tensor([camera.width for camera in cameras])
        self._rays = CameraRays(cameras)
        self.count = len(self._values)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Rays, Tensor, Tensor]:
        """Rays of pixels chosen at random, their colours (N, 3), and what is behind them: (N, 3), or (3,)."""
        chosen = torch.randint(self.count, (count,), generator=generator)
        camera = torch.searchsorted(self._ends, chosen, right=True)
        within = chosen - torch.cat([torch.zeros(1, dtype=torch.long), self._ends])[camera]
        width = self._widths[camera]
        rays = self._rays.through(camera, within % width, within // width)
        values = self._values[chosen].float() / 255
        if self._background is not None:
            return rays, values, torch.tensor(self._background)
        # Whatever is behind: so the field must say what is empty, instead of painting it.
        behind = torch.rand(count, 3, generator=generator)
        return rays, values[:, :3] * values[:, 3:] + behind * (1 - values[:, 3:]), behind


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
