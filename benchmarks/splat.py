"""`argus bench splat`: Gaussians drawn on the CPU, beside what gsplat can do there and beside the plain reference.

gsplat draws on CUDA devices only; of its steps its torch functions run on a CPU up to projected ellipses and their
colours, and that step is compared with ours. The reference is the one of the tests: numpy, float64, one Gaussian after
the other; it says how right the pictures are, and how long the plain way takes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import Column, Report, this_command
from deployments.rendering.camera import Camera, orbit
from deployments.rendering.messages import RasterOptions
from deployments.splat.cpu import CpuRasteriser, CpuScene, see
from deployments.splat.cpu_jit import Threads
from deployments.splat.gaussians import SH_C0, Gaussians

GOAL = "at least 15 pictures a second of 100,000 Gaussians at 640x360 on 2 threads, and 45 dB beside the reference"
_FPS = 15.0
_DECIBELS = 45.0
_PAUSE_S = 0.03
_OPTIONS = RasterOptions()
_COLUMNS = (
    Column("scene", "scene"),
    Column("size", "pixels"),
    Column("threads", "threads", "d"),
    Column("fps", "fps", ".1f"),
    Column("best_ms", "best ms", ".1f"),
    Column("median_ms", "median ms", ".1f"),
    Column("cpu_ms", "CPU ms", ".1f"),
    Column("projection_ms", "projection ms", ".1f"),
    Column("gsplat_torch_ms", "gsplat's torch ms", ".1f"),
    Column("reference_s", "reference s", ".1f"),
    Column("psnr_db", "PSNR dB", ".0f"),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One scene and one camera.

    Attributes:
        compared: whether the reference draws it too.
    """

    name: str
    gaussians: Gaussians
    camera: Camera
    compared: bool


def run(*, rounds: int, quick: bool) -> Report:
    """The benchmark.

    Args:
        rounds: times that each is measured; the shortest counts, since other work on the machine only adds.
        quick: the small scene alone.
    """
    report = Report(
        this_command(),
        "Gaussians on the CPU",
        GOAL,
        _COLUMNS,
        {"rounds": rounds, "threads": (1, 2), "options": str(_OPTIONS), "sh_degree": 3},
    )
    report.rows.extend(rows(rounds=rounds, quick=quick))
    report.notes += [
        "fps: of the best round. CPU: of all threads together, which other work on the machine hardly changes.",
        "projection: culling, projection, sorting and colours, best round; gsplat's torch",
        "functions do the same without sorting. reference: numpy in float64, once; PSNR of its red, green and blue.",
    ]
    for row in report.rows:
        where = f"{row['scene']} at {row['size']} on {row['threads']} threads"
        if row["scene"] == "cloud 100k" and row["threads"] == 2 and row["fps"] < _FPS:
            report.misses.append(f"{where}: {row['fps']:.1f} fps")
        if row["psnr_db"] is not None and row["psnr_db"] < _DECIBELS:
            report.misses.append(f"{where}: {row['psnr_db']:.0f} dB")
    return report


def rows(*, rounds: int, quick: bool) -> list[dict[str, Any]]:
    """One row for each scene and number of threads."""
    found = []
    for case in _cases(quick):
        right, reference_s = _reference(case) if case.compared else (None, None)
        for threads in (1, 2):
            found.append(_row(case, threads, rounds, right) | {"reference_s": reference_s})
    return found


def _row(case: Case, threads: int, rounds: int, right: np.ndarray[Any, Any] | None) -> dict[str, Any]:
    rasteriser, pool = CpuRasteriser(threads), Threads(threads)
    scene = rasteriser.load(case.gaussians)
    (picture,) = rasteriser.render(scene, [case.camera], _OPTIONS)
    steps: dict[str, Callable[[], Any]] = {
        "picture": lambda: rasteriser.render(scene, [case.camera], _OPTIONS),
        "projection": lambda: see(scene, case.camera, _OPTIONS, pool),
    }
    theirs = _gsplat(scene, case.camera)
    if theirs is not None:
        steps["gsplat"] = theirs
    torch.set_num_threads(threads)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    busy: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            # torch's threads spin for a while after their work.
            time.sleep(_PAUSE_S)
            began, worked = time.perf_counter(), time.process_time()
            step()
            seconds[name].append(time.perf_counter() - began)
            busy[name].append(time.process_time() - worked)
    best = min(seconds["picture"])
    return {
        "scene": case.name,
        "gaussians": len(case.gaussians),
        "size": f"{case.camera.width}x{case.camera.height}",
        "threads": threads,
        "fps": 1 / best,
        "best_ms": best * 1e3,
        "median_ms": statistics.median(seconds["picture"]) * 1e3,
        "cpu_ms": min(busy["picture"]) * 1e3,
        "projection_ms": min(seconds["projection"]) * 1e3,
        "gsplat_torch_ms": min(seconds["gsplat"]) * 1e3 if theirs is not None else None,
        "psnr_db": None if right is None else _psnr(picture.rgb, right),
    }


def _gsplat(scene: CpuScene, camera: Camera) -> Callable[[], Any] | None:
    """What gsplat's torch functions can do on a CPU: covariances, projection and colours; None without gsplat."""
    try:
        from gsplat.cuda._torch_impl import (
            _fully_fused_projection,
            _quat_scale_to_covar_preci,
            _spherical_harmonics,
        )
    except ImportError:
        return None
    gaussians = scene.gaussians
    means, quats, scales, sh = (
        torch.from_numpy(array) for array in (gaussians.means, gaussians.quats, gaussians.scales, gaussians.sh)
    )
    covariances, _ = _quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    pose, intrinsics = (
        torch.from_numpy(matrix.astype(np.float32))[None] for matrix in (camera.world_to_camera, camera.intrinsics)
    )
    eye = torch.from_numpy(camera.position.astype(np.float32))

    @torch.inference_mode()
    def project() -> Any:
        ellipses = _fully_fused_projection(means, covariances, pose, intrinsics, camera.width, camera.height)
        colours = (_spherical_harmonics(gaussians.sh_degree, means - eye, sh) + 0.5).clamp_min(0)
        return ellipses, colours

    return project


def _reference(case: Case) -> tuple[np.ndarray[Any, Any], float]:
    from tests.support import splat_reference

    began = time.perf_counter()
    picture = splat_reference.render(case.gaussians, case.camera, _OPTIONS)
    return picture["rgb"], time.perf_counter() - began


def _psnr(picture: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    return float(-10 * np.log10(max(1e-12, np.mean((picture - right) ** 2))))


def _cases(quick: bool) -> list[Case]:
    small = Case("cloud 10k", _cloud(10_000), _before(320, 240), True)
    if quick:
        return [small]
    cases = [
        small,
        Case("cloud 100k", _cloud(100_000), _before(640, 360), True),
        Case("cloud 1M", _cloud(1_000_000), _before(1280, 720), False),
    ]
    plant = _plant()
    return cases if plant is None else [*cases, plant]


def _cloud(count: int) -> Gaussians:
    """Random Gaussians of degree 3 that fill a picture of any size alike: the more, the smaller."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(count, 3)) * (1.6, 0.9, 1.0)
    scales = np.exp(rng.normal(-4.6, 0.5, (count, 3))) * (100_000 / count) ** (1 / 3)
    quats = rng.normal(size=(count, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    opacities = rng.uniform(0.1, 1, count)
    sh = rng.normal(0, 0.3, (count, 16, 3))
    return Gaussians(*(array.astype(np.float32) for array in (means, quats, scales, opacities, sh)))


def _before(width: int, height: int) -> Camera:
    pose = np.eye(4)
    pose[2, 3] = 4.5
    return Camera(width, height, 0.9 * width, 0.9 * width, width / 2, height / 2, pose)


def _plant() -> Case | None:
    """A scan of a plant by Marcel Padilla (CC BY 4.0), where the test data is."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data" / "splats" / "plant.splat"
    if not path.exists():
        return None
    raw = np.fromfile(path, [("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])
    quats = raw["quats"].astype(np.float32) - 128
    gaussians = Gaussians(
        np.ascontiguousarray(raw["means"]),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        np.ascontiguousarray(raw["scales"]),
        raw["rgba"][:, 3].astype(np.float32) / 255,
        (raw["rgba"][:, None, :3].astype(np.float32) / 255 - 0.5) / np.float32(SH_C0),
    )
    least, most = np.quantile(gaussians.means, [0.02, 0.98], axis=0)
    x, y, z = ((least + most) / 2).tolist()
    radius = 1.2 * float(np.linalg.norm(most - least))
    return Case("plant 114k", gaussians, orbit((x, y, z), radius, 40, 15, (0, -1, 0), 45, 640, 360), True)
