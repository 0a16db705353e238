"""What the model thread of a splat replica does: it takes scenes in and draws views of them."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from deployments.base import Adapter
from deployments.rendering.camera import Camera, look_at
from deployments.rendering.checks import check_camera
from deployments.rendering.messages import RasterOptions
from deployments.splat.gaussians import SH_C0, Gaussians
from deployments.splat.rasteriser import Loaded, Rasteriser
from serve.errors import Unavailable

# Costs are in pixels. A drawn pixel takes 20 bytes; what is worked out for each Gaussian before that is about a third
# of what it takes itself.
_SCENE_BYTES_A_PIXEL: Final = 64
# The smallest picture that a configuration may allow.
_PROBE_SIDE: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One view to be drawn; `digest` is its scene's."""

    digest: str
    scene: Loaded
    camera: Camera
    options: RasterOptions
    time_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A scene to be put where the rasteriser wants it."""

    gaussians: Gaussians


Work = View | Arrival


class SplatAdapter(Adapter[Work, Work, Any, Any]):
    """A `View` gives a `Rendered`, an `Arrival` a `Loaded`.

    Args:
        max_pixels: of one view.
        max_cost: of one batch, in pixels; a view that alone costs more makes a batch of its own.
        backlog: drawing waits while it is full.
    """

    def __init__(self, rasteriser: Rasteriser, max_pixels: int, max_cost: float, backlog: Backlog) -> None:
        self._rasteriser = rasteriser
        self._max_pixels = max_pixels
        self._max_cost = max_cost
        self._backlog = backlog
        self._probe: View | None = None

    def preprocess(self, item: Work) -> Work:
        """The item; refuses cameras that cannot be drawn."""
        if isinstance(item, View):
            check_camera(item.camera, self._max_pixels)
        return item

    def forward(self, batch: Sequence[Work]) -> Sequence[Any]:
        """See the class's text.

        Raises:
            Unavailable: `out_of_memory`: of the GPU, for these views or this scene beside what is there now.
        """
        try:
            return self._run(batch)
        except RuntimeError as error:
            # torch's own, known by its name: without a GPU there is no torch here.
            if type(error).__name__ != "OutOfMemoryError":
                raise
            message = "The GPU has no memory left for this now; a smaller picture may fit."
            raise Unavailable(message, code="out_of_memory", retry_after_s=1.0) from error

    def _run(self, batch: Sequence[Work]) -> Sequence[Any]:
        first = batch[0]
        if isinstance(first, Arrival):
            return [self._rasteriser.load(work.gaussians) for work in batch if isinstance(work, Arrival)]
        self._backlog.wait()
        cameras = [work.camera for work in batch if isinstance(work, View)]
        return self._rasteriser.render(first.scene, cameras, first.options, first.time_s)

    def lane(self, prepared: Work) -> Hashable:
        """Views of one scene at one moment, drawn alike and of one size, share a batch."""
        if isinstance(prepared, Arrival):
            return None
        camera = prepared.camera
        return prepared.digest, prepared.time_s, prepared.options, camera.width, camera.height

    def cost(self, prepared: Work) -> float:
        """In pixels."""
        if isinstance(prepared, Arrival):
            return min(self._max_cost, 1 + prepared.gaussians.nbytes / _SCENE_BYTES_A_PIXEL)
        pixels = prepared.camera.width * prepared.camera.height
        return min(self._max_cost, pixels + prepared.scene.nbytes / _SCENE_BYTES_A_PIXEL)

    def probe(self) -> View:
        """A small picture of one Gaussian."""
        if self._probe is None:
            camera = look_at((0, 0, -3), (0, 0, 0), (0, -1, 0), 50, _PROBE_SIDE, _PROBE_SIDE)
            self._probe = View("probe", self._rasteriser.load(_one()), camera, RasterOptions(), 0.0)
        return self._probe


class Backlog:
    """Pixels that were drawn and are not encoded yet: encoding may be slower than drawing, and memory is bounded.

    Args:
        most: above which drawing waits. The batch that is drawn then comes on top.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pixels = 0
        self._changed = threading.Condition()

    @contextmanager
    def holding(self, pixels: int) -> Iterator[None]:
        """Counts pixels for as long as the block takes."""
        self._add(pixels)
        try:
            yield
        finally:
            self._add(-pixels)

    def wait(self) -> None:
        """Blocks while there are more than `most`."""
        with self._changed:
            self._changed.wait_for(lambda: self._pixels <= self._most)

    def _add(self, pixels: int) -> None:
        with self._changed:
            self._pixels += pixels
            self._changed.notify_all()


def _one() -> Gaussians:
    """A white ball at the origin."""
    return Gaussians(
        np.zeros((1, 3), np.float32),
        np.array([[1, 0, 0, 0]], np.float32),
        np.full((1, 3), 0.5, np.float32),
        np.ones(1, np.float32),
        np.full((1, 1, 3), 0.5 / SH_C0, np.float32),
    )
