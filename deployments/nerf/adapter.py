"""What the model thread of a NeRF replica does: it takes fields in and draws rays of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from deployments.base import Adapter
from deployments.gpu import cap_allocator
from deployments.nerf.field import RadianceField
from deployments.nerf.rays import Rays, join, moved, pixel_rays
from deployments.nerf.render import draw, drawn_arrays
from deployments.nerf.settings import FieldSettings
from deployments.rendering.camera import Camera, look_at
from serve.config.scene_models import NerfModel
from serve.errors import Unavailable

Float32 = npt.NDArray[np.float32]
Vector = tuple[float, float, float]

_PROBE_SIDE = 8


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Some rays of a view: those through the pixels `start` up to `stop`, row by row.

    Attributes:
        digest: of the field.
        samples: see `deployments.nerf.render.Quality`.
        background: of a field that has none of its own.
    """

    digest: str
    field: RadianceField
    camera: Camera
    start: int
    stop: int
    samples: int
    background: Vector


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A field to be put on the device."""

    field: RadianceField


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A chunk and its rays, on the CPU."""

    chunk: Chunk
    rays: Rays


class NerfAdapter(Adapter[Chunk | Arrival, Prepared | Arrival, Any, Any]):
    """A `Chunk` gives what `drawn_arrays` makes of its rays, an `Arrival` the field on the device.

    Rays of one field that are drawn with equal samples share a batch, whoever asks, whatever the view.
    """

    def __init__(self, config: NerfModel) -> None:
        torch.set_num_threads(config.placement.threads)
        self._device = torch.device("cuda" if config.gpu_memory_gb and torch.cuda.is_available() else "cpu")
        if self._device.type == "cuda":
            cap_allocator(config.gpu_memory_gb)
        self._rays = config.rays
        self._probe = _probe(self._device)

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return self._device.type

    def preprocess(self, item: Chunk | Arrival) -> Prepared | Arrival:
        """Works out the rays."""
        if isinstance(item, Arrival):
            return item
        return Prepared(item, pixel_rays(item.camera, item.start, item.stop))

    def forward(self, batch: Sequence[Prepared | Arrival]) -> Sequence[RadianceField | Float32]:
        """See the class's text.

        Raises:
            Unavailable: `out_of_memory`: of the GPU, for these rays or this field beside what is there now.
        """
        try:
            return self._run(batch)
        except torch.OutOfMemoryError as error:
            raise Unavailable(
                "The GPU has no memory left for this now.", code="out_of_memory", retry_after_s=1.0
            ) from error

    @torch.inference_mode()
    def _run(self, batch: Sequence[Prepared | Arrival]) -> Sequence[RadianceField | Float32]:
        chunks = [item for item in batch if isinstance(item, Prepared)]
        if not chunks:
            return [item.field.to(self._device) for item in batch if isinstance(item, Arrival)]
        rays = join([item.rays for item in chunks])
        behind = torch.cat([_behind(item) for item in chunks]).to(self._device)
        first = chunks[0].chunk
        drawn = drawn_arrays(draw(first.field, moved(rays, self._device), first.samples, behind), rays)
        return np.split(drawn, np.cumsum([len(item.rays) for item in chunks])[:-1])

    def lane(self, prepared: Prepared | Arrival) -> Hashable:
        """See the class's text."""
        return None if isinstance(prepared, Arrival) else (prepared.chunk.digest, prepared.chunk.samples)

    def cost(self, prepared: Prepared | Arrival) -> float:
        """In rays; an arrival counts as a batch."""
        return float(self._rays if isinstance(prepared, Arrival) else len(prepared.rays))

    def probe(self) -> Chunk:
        """A small picture of an untrained field."""
        return self._probe


def _behind(item: Prepared) -> torch.Tensor:
    colour = item.chunk.field.settings.background or item.chunk.background
    return torch.tensor(colour, dtype=torch.float32).expand(len(item.rays), 3)


def _probe(device: torch.device) -> Chunk:
    settings = FieldSettings(
        variant="hash", least=(-1, -1, -1), most=(1, 1, 1), levels=2, log2_table=8, finest=32, occupancy=8
    )
    field = RadianceField(settings).to(device).eval().requires_grad_(False)
    camera = look_at((0, 0, -3), (0, 0, 0), (0, -1, 0), 50, _PROBE_SIDE, _PROBE_SIDE)
    return Chunk("probe", field, camera, 0, _PROBE_SIDE**2, 16, (0.0, 0.0, 0.0))
