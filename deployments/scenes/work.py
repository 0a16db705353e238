"""What a worker process of the store does: scene files in, scene files out. `deployments.worker_pool` says why.

It takes paths, not bytes, and leaves what it makes in a file for the store to take: what clients' bytes do to this
process cannot reach the store's files, nor the keys of an object store.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from deployments.rendering.messages import SceneRef
from deployments.scenes.blobs import Blobs
from deployments.scenes.types import Bounds, SceneFile
from deployments.splat import formats, points, scene_file
from deployments.splat.edits import apply, describe
from deployments.splat.edits_types import Edit
from deployments.splat.formats import FormatName
from deployments.splat.formats.names import ExportName
from deployments.splat.gaussians import Gaussians
from deployments.worker_process import bound_memory, end_with_parent

# A scene and its version; the current one for None.
Named = tuple[str, int | None]
# Percentiles between which lies the middle 99 %.
_MIDDLE: Final = (0.5, 99.5)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Bounds of one worker.

    Attributes:
        memory_bytes: of its address space beyond what it has when it is ready.
        max_gaussians: in a scene.
    """

    memory_bytes: int
    max_gaussians: int


_settings: WorkerSettings


def start(settings: WorkerSettings) -> None:
    """Called once in each new process."""
    global _settings  # noqa: PLW0603 - a process has one set of bounds
    end_with_parent()
    _settings = settings
    bound_memory(settings.memory_bytes)


def start_for_fields(settings: WorkerSettings) -> None:
    """The same for a worker that reads radiance fields: torch is not part of what they may take."""
    importlib.import_module("deployments.nerf.checkpoint")
    start(settings)


def ready() -> int:
    """Shows that a worker answers; its process id."""
    return os.getpid()


def read_scene(path: Path, target: Path, format: FormatName | None, filename: str | None) -> SceneFile:
    """Reads a scene's file of any format and writes ours to `target`.

    Raises:
        InvalidMedia, UnsupportedMedia, PayloadTooLarge: see `formats.read` and `formats.detect`.
    """
    gaussians, source = _read_file(path, format, filename)
    return _write(gaussians, target, source, "uploaded")


def read_field(path: Path) -> SceneFile:
    """Reads a radiance field's file, which the store takes as it is.

    Raises:
        InvalidMedia: see `deployments.nerf.checkpoint.read`.
    """
    from deployments.nerf import checkpoint

    data = path.read_bytes()
    settings = checkpoint.read(data).settings
    least, most = np.array(settings.least), np.array(settings.most)
    radius = float(np.linalg.norm(most - least)) / 2
    bounds = Bounds(settings.least, settings.most, _vector((least + most) / 2), radius)
    return SceneFile(SceneRef("nerf", sha256(data).hexdigest(), len(data)), "nerf", "uploaded", 0, 0, bounds)


def edit_scene(path: Path, target: Path, source: str, edits: Sequence[Edit], merged: Mapping[Named, Path]) -> SceneFile:
    """Edits the scene in a file of ours and writes it to `target`.

    Args:
        source: see `SceneInfo`.
        merged: files of the scenes that the edits merge in.

    Raises:
        InvalidRequest, PayloadTooLarge: see `deployments.splat.edits.apply`.
    """

    def fetch(name: str, version: int | None) -> Gaussians:
        return _read(merged[name, version])

    edited = apply(_read(path), edits, fetch, max_gaussians=_settings.max_gaussians)
    return _write(edited, target, source, describe(edits))


def export_scene(path: Path, target: Path, format: ExportName) -> str:
    """Writes the scene in a file of ours in another format to `target`; the digest of that file."""
    scene = _read(path)
    data = points.write(scene) if format == "points" else formats.write(scene, format)
    target.write_bytes(data)
    return sha256(data).hexdigest()


def bounds_of(gaussians: Gaussians) -> Bounds:
    """The box that holds the middle 99 % of the centres on each axis, at time 0, and the sphere around it."""
    least, most = np.percentile(gaussians.means.astype(np.float64), _MIDDLE, axis=0)
    half = float(np.linalg.norm(most - least)) / 2
    # Gaussians in one place, or a single one, are as large as they are.
    extent = 3 * float(np.median(gaussians.scales.max(axis=1)))
    return Bounds(_vector(least), _vector(most), _vector((least + most) / 2), max(half, extent))


def _read_file(path: Path, format: FormatName | None, filename: str | None) -> tuple[Gaussians, FormatName]:
    # A function of its own: the file's bytes are not kept while ours are made.
    data = path.read_bytes()
    source = format or formats.detect(data, filename)
    return formats.read(data, source, max_gaussians=_settings.max_gaussians), source


def _read(path: Path) -> Gaussians:
    return scene_file.read(Blobs(str(path.parent)).read(path.name))


def _write(gaussians: Gaussians, target: Path, source: str, edit: str) -> SceneFile:
    data = scene_file.write(gaussians)
    target.write_bytes(data)
    motion_s = 0.0 if gaussians.motion is None else gaussians.motion.period_s
    ref = SceneRef("gaussians", sha256(data).hexdigest(), len(data), motion_s)
    return SceneFile(ref, source, edit, len(gaussians), gaussians.sh_degree, bounds_of(gaussians))


def _vector(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
