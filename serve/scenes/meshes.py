"""Meshes of scenes: pictures with depth from all around, and the surface that they agree on.

The surface is worked out in a process of its own: it takes seconds of a core and hundreds of megabytes, which a router
has not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from deployments.jobs.types import Progress
from deployments.rendering.camera import Camera, Vector
from deployments.rendering.messages import RasterOptions, Rendered, RenderRequest, ViewFiles
from deployments.scenes.types import Bounds, SceneInfo, Version
from deployments.worker_pool import Subject, WorkerPool
from deployments.worker_process import bound_memory, end_with_parent
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidRequest
from serve.jobs.operation import Report
from serve.scenes.rendering import SceneRenderer, blamed, sized

if TYPE_CHECKING:
    from deployments.splat.mesh import MeshFormat

Float64 = npt.NDArray[np.float64]

VIEWS: Final = 48
# As `extract_mesh` wants them.
PIXELS_A_VOXEL: Final = 2
# Of a box, on each axis: as far as distances reach on both sides of a surface, and one more each.
_LEAST_VOXELS: Final = 8
# Views of one call to the renderer.
_AT_ONCE: Final = 8
_SECONDS: Final = 300.0
_MEMORY_BYTES: Final = 3_000_000_000
_SCENES: Final = Subject("mesh maker", "scene", "mesh")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A mesh that a client wants.

    Attributes:
        least, most: the box that it is made in; the scene's when None.
        resolution: voxels along the box's longest side.
        time_s: a moving scene's moment.
    """

    format: MeshFormat
    least: Vector | None = None
    most: Vector | None = None
    resolution: int = 128
    time_s: float = 0.0
    model: str | None = None


class MeshMaker:
    """See the module's text."""

    def __init__(self, renderer: SceneRenderer) -> None:
        self._renderer = renderer

    def check(self, wanted: Wanted, info: SceneInfo) -> None:
        """Refuses what could not be made.

        Raises:
            InvalidRequest: `invalid_mesh`.
            NotFound: see `SceneRenderer.pick`.
        """
        self._renderer.pick(info.kind, wanted.model)
        if (wanted.least is None) != (wanted.most is None):
            raise InvalidRequest("A box has both min and max.", code="invalid_mesh", param="box")
        if wanted.least and wanted.most and not all(a < b for a, b in zip(wanted.least, wanted.most, strict=True)):
            raise InvalidRequest("A box has some extent on each axis.", code="invalid_mesh", param="box")

    async def make(
        self,
        wanted: Wanted,
        info: SceneInfo,
        version: Version,
        context: RequestContext,
        report: Report,
        soon: Callable[[RequestContext], RequestContext],
    ) -> tuple[bytes, str]:
        """A file and its media type.

        Args:
            soon: the context of one call, which has the time that a request may have.

        Raises:
            InvalidRequest: `no_surface`: there is none in the box, or the scene is flat.
            ArgusError: a view could not be drawn, or the work took too much.
        """
        model = self._renderer.pick(info.kind, wanted.model)
        least, most = box_of(wanted, version.bounds)
        options = sized(RasterOptions(), math.dist(least, most) / 2)
        pool = WorkerPool(_SCENES, 1, _SECONDS, 1, _start, _MEMORY_BYTES)
        try:
            cameras = await pool.run(_cameras, least, most, wanted.resolution)
            views: list[ViewFiles] = []
            await report(Progress("drawing", 0, len(cameras)))
            step = min(_AT_ONCE, self._renderer.most_views(model))
            for start in range(0, len(cameras), step):
                some = tuple(cameras[start : start + step])
                request = RenderRequest(version.ref, some, ("rgb", "depth", "alpha"), "raw", options, wanted.time_s)
                result = await self._renderer.ask(model, request, soon(context))
                for view in blamed(result.views, ["scene"] * len(some)):
                    if isinstance(view, ArgusError):
                        raise view
                    views.append(view)
                await report(Progress("drawing", len(views), len(cameras)))
            await report(Progress("meshing", 0, 1))
            files = [view.files for view in views]
            return await pool.run(_mesh, least, most, wanted.resolution, files, wanted.format, info.up)
        except InvalidRequest as error:
            if error.param != "bounds":
                raise
            raise error.at("box") from None
        finally:
            await pool.close()


def box_of(wanted: Wanted, bounds: Bounds) -> tuple[Vector, Vector]:
    """Corners of the box that is made a mesh of: the one that is wanted, or the scene's.

    The scene's is that of its centres, which is flat where they are, and a point for a single one: it is made as thick
    as the Gaussians, and some voxels.
    """
    if wanted.least is not None and wanted.most is not None:
        return wanted.least, wanted.most
    least, most = np.array(bounds.least), np.array(bounds.most)
    centre, half = (least + most) / 2, (most - least) / 2
    if float(np.linalg.norm(half)) < 0.99 * bounds.radius:  # then it is the Gaussians' own size, see `Bounds`
        half = np.maximum(half, bounds.radius)
    half = np.maximum(half, half.max() * _LEAST_VOXELS / wanted.resolution)
    return _vector(centre - half), _vector(centre + half)


def _vector(values: Float64) -> Vector:
    return float(values[0]), float(values[1]), float(values[2])


def _start(memory_bytes: int) -> None:
    """Called once in the process."""
    end_with_parent()
    import deployments.splat.mesh  # noqa: F401 - with its libraries loaded, the bound is on the work alone

    bound_memory(memory_bytes)


def _cameras(least: Vector, most: Vector, resolution: int) -> list[Camera]:
    """In the process: the views that `_mesh` wants, in its order."""
    from deployments.splat.mesh import cameras_around

    return list(cameras_around(np.array(least), np.array(most), VIEWS, PIXELS_A_VOXEL * resolution))


def _mesh(
    least: Vector, most: Vector, resolution: int, files: Sequence[dict[Any, Any]], format: MeshFormat, up: Vector
) -> tuple[bytes, str]:
    """In the process: the file and its media type."""
    from deployments.splat.mesh import MEDIA_TYPES, extract_mesh, to_bytes

    left = iter(files)

    def render(cameras: Sequence[Camera]) -> list[Rendered]:
        drawn = [_rendered(next(left)) for _ in cameras]
        assert [picture.depth.shape for picture in drawn] == [(one.height, one.width) for one in cameras]
        return drawn

    mesh = extract_mesh(render, least, most, resolution=resolution, views=VIEWS)
    return to_bytes(mesh, format, up), MEDIA_TYPES[format]


def _rendered(files: dict[Any, Any]) -> Rendered:
    share = np.float32(1 / 255)
    return Rendered(files["rgb"] * share, files["alpha"] * share, files["depth"])
