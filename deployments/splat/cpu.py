"""Gaussians drawn on the CPU: project, sort by depth, list by tile, blend; all kernels of numba."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from deployments.rendering.camera import Camera
from deployments.rendering.messages import RasterOptions, Rendered
from deployments.splat.cpu_blend import blend
from deployments.splat.cpu_gradient import blend_gradient
from deployments.splat.cpu_jit import Threads
from deployments.splat.cpu_project import (
    COLUMNS,
    TILE,
    Float32,
    Float64,
    Int16,
    Int64,
    arrange,
    covariances,
    order_by_depth,
    project,
)
from deployments.splat.cpu_tiles import count_tiles, list_tiles
from deployments.splat.gaussians import Gaussians

# Pairs of a tile and an ellipse in one list, so that a scene of huge Gaussians is drawn in bands and not in one list
# that no memory holds.
_PAIRS_AT_ONCE = 1 << 24
_PIECES_A_THREAD = 4
Lens = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class CpuScene:
    """Gaussians, and their covariances as they stand at one moment.

    Attributes:
        covariances: (N, 6) float32: xx, xy, xz, yy, yz, zz.
    """

    gaussians: Gaussians
    covariances: Float32

    @property
    def nbytes(self) -> int:
        """Memory that it takes, in bytes."""
        return self.gaussians.nbytes + self.covariances.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Ellipses:
    """What a camera sees of a scene, nearest first.

    Attributes:
        order: (M,) int32: which Gaussian each is.
        values: (M, COLUMNS) float32.
        boxes: (M, 4) int16: first and end tile across, first and end tile down.
    """

    order: np.ndarray[tuple[int], np.dtype[np.int32]]
    values: Float32
    boxes: Int16


class CpuRasteriser:
    """See `deployments.splat.rasteriser.Rasteriser`."""

    def __init__(self, threads: int = 1) -> None:
        self.device: Literal["cpu", "cuda"] = "cpu"
        self._threads = Threads(threads)

    def load(self, gaussians: Gaussians) -> CpuScene:
        """The scene with its covariances.

        Arrays that cannot be written, or are not aligned, are copied: numba would compile every kernel anew for them.
        """
        gaussians = replace(
            gaussians,
            means=_usual(gaussians.means),
            quats=_usual(gaussians.quats),
            scales=_usual(gaussians.scales),
            opacities=_usual(gaussians.opacities),
            sh=_usual(gaussians.sh),
        )
        out = np.empty((len(gaussians), 6), np.float32)
        self._threads.over(
            len(gaussians), lambda begin, end: covariances(begin, end, gaussians.quats, gaussians.scales, out)
        )
        return CpuScene(gaussians, out)

    def render(
        self, scene: CpuScene, cameras: Sequence[Camera], options: RasterOptions, time_s: float = 0.0
    ) -> list[Rendered]:
        """One picture a camera, one after the other."""
        if scene.gaussians.motion is not None:
            scene = self.load(scene.gaussians.at(time_s))
        return [self._draw(scene, camera, options) for camera in cameras]

    def _draw(self, scene: CpuScene, camera: Camera, options: RasterOptions) -> Rendered:
        ellipses = see(scene, camera, options, self._threads)
        return draw(ellipses, camera.width, camera.height, options.background, self._threads)


def _usual(array: Float32) -> Float32:
    return np.require(array, np.float32, ["C", "A", "W"])


def see(scene: CpuScene, camera: Camera, options: RasterOptions, threads: Threads) -> Ellipses:
    """The ellipses of a scene in a camera's picture, in the order of drawing."""
    gaussians = scene.gaussians
    count = len(gaussians)
    shapes = np.empty((count, COLUMNS), np.float32)
    boxes = np.empty((count, 4), np.int16)
    depths = np.empty(count, np.float32)
    rotation, eye = pose(camera)
    limits = (float(options.near), float(options.far), float(options.radius_clip))
    threads.over(
        count,
        lambda begin, end: project(
            begin,
            end,
            gaussians.means,
            scene.covariances,
            gaussians.opacities,
            gaussians.sh,
            bases(gaussians, options),
            rotation,
            eye,
            lens(camera),
            limits,
            options.antialiased,
            shapes,
            boxes,
            depths,
        ),
    )
    order = order_by_depth(depths)
    values = np.empty((len(order), COLUMNS), np.float32)
    ordered = np.empty((len(order), 4), np.int16)
    threads.over(len(order), lambda begin, end: arrange(begin, end, order, shapes, boxes, values, ordered))
    return Ellipses(order, values, ordered)


def lens(camera: Camera) -> Lens:
    """fx, fy, cx, cy, width, height, for the kernels."""
    fx, fy, cx, cy = float(camera.fx), float(camera.fy), float(camera.cx), float(camera.cy)
    return fx, fy, cx, cy, float(camera.width), float(camera.height)


def pose(camera: Camera) -> tuple[Float64, Float64]:
    """Rotation from the world (3, 3) and position (3,), for the kernels."""
    rotation = np.ascontiguousarray(camera.world_to_camera[:3, :3], np.float64)
    return rotation, np.ascontiguousarray(camera.position, np.float64)


def bases(gaussians: Gaussians, options: RasterOptions) -> int:
    """Harmonics that are evaluated: 1, 4, 9 or 16."""
    degree = gaussians.sh_degree if options.sh_degree is None else min(options.sh_degree, gaussians.sh_degree)
    return (degree + 1) ** 2


def draw(
    ellipses: Ellipses, width: int, height: int, background: tuple[float, float, float], threads: Threads
) -> Rendered:
    """The picture of ellipses."""
    across = tiles_across(width)
    starts = tile_starts(ellipses, width, height, threads)
    rgb = np.empty((height, width, 3), np.float32)
    alpha, depth = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
    behind = np.asarray(background, np.float32)

    def draw_tiles(first: int, end: int) -> None:
        listed = list_tiles(first, end, ellipses.values, ellipses.boxes, across, starts)
        blend(first, end, starts, listed, ellipses.values, across, behind, rgb, alpha, depth)

    threads.each(pieces(starts, threads.count), draw_tiles)
    return Rendered(rgb, alpha, depth)


def gradient(ellipses: Ellipses, slopes: Float32, total: Float32, threads: Threads) -> Float32:
    """(M, COLUMNS): how a loss of the picture changes with the ellipses' columns; see `blend_gradient`."""
    height, width = total.shape
    across = tiles_across(width)
    starts = tile_starts(ellipses, width, height, threads)

    def tiles(first: int, end: int) -> Float32:
        listed = list_tiles(first, end, ellipses.values, ellipses.boxes, across, starts)
        return blend_gradient(first, end, starts, listed, ellipses.values, across, slopes, total)

    found: list[Float32] = threads.each(pieces(starts, threads.count), tiles)
    for other in found[1:]:
        found[0] += other
    return found[0]


def tiles_across(pixels: int) -> int:
    """Tiles that cover so many pixels."""
    return -(-pixels // TILE)


def tile_starts(ellipses: Ellipses, width: int, height: int, threads: Threads) -> Int64:
    """(tiles + 1,): where each tile's list would start if those of all tiles were one list."""
    across, down = tiles_across(width), tiles_across(height)
    starts = np.zeros(across * down + 1, np.int64)
    threads.over(
        down,
        lambda first, end: count_tiles(first, end, ellipses.values, ellipses.boxes, across, starts[1:]),
    )
    return np.cumsum(starts)


def pieces(starts: Int64, threads: int) -> list[tuple[int, int]]:
    """Ranges of tiles of about equal work, each with at most `_PAIRS_AT_ONCE` pairs or of one tile."""
    tiles = len(starts) - 1
    wanted = 1 if threads == 1 else threads * _PIECES_A_THREAD
    # A tile without ellipses is some work as well.
    work = starts + np.arange(tiles + 1)
    most = min(_PAIRS_AT_ONCE, -(-int(work[-1]) // wanted))
    cuts = [0]
    while cuts[-1] < tiles:
        cut = int(np.searchsorted(work, work[cuts[-1]] + most, side="right")) - 1
        cuts.append(min(max(cut, cuts[-1] + 1), tiles))
    return list(pairwise(cuts))
