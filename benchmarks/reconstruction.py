"""From photos to a scene, stage by stage: times, how far the found cameras are from the true ones, and how well views
that were not trained on come out."""

from __future__ import annotations

import importlib.util
import io
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console

from benchmarks.report import Column, Report, this_command
from demo.scenes3d.views import Photo, photos
from deployments.reconstruction.child import Child
from deployments.reconstruction.folder import WorkFolder, read_json
from deployments.reconstruction.messages import Method, Spec
from deployments.reconstruction.views import load_views

GOAL = (
    "every photo of the studio is aligned, to within 1 % of the cameras' distance and half a degree; views that were "
    "held out reach 25 dB"
)
_LEAST_PSNR = 25.0
_MOST_SHIFT = 0.01
_MOST_TURN_DEG = 0.5
_LOOK_S = 0.5
_COLUMNS = (
    Column("what", "photos"),
    Column("stage", "stage"),
    Column("seconds", "seconds", ".1f"),
    Column("result", "result"),
)

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    media: Sequence[bytes]
    spec: Spec
    truth: Sequence[Photo] = ()


def run(*, count: int, spec: Spec, methods: Sequence[Method], real: bool, progress: Console) -> Report:
    """Reconstructs the studio, and the photos of a building that MVTB brings along.

    Args:
        count: photos of the studio.
        real: whether the photos of the building are reconstructed too.
    """
    report = Report(
        this_command(),
        f"Reconstruction: {count} photos of the studio; {spec.quality}, {spec.threads} threads",
        GOAL,
        _COLUMNS,
        {"photos": count, "spec": spec.to_json(), "plans": {m: _plan(replace(spec, method=m)) for m in methods}},
    )
    taken = photos(count)
    media = [_png(photo.pixels) for photo in taken]
    for method in methods:
        _measure(report, _Case(f"studio, {method}", media, replace(spec, method=method), taken), progress)
    if real:
        building = _building()
        if building:
            _measure(report, _Case("building", building, spec), progress)
        else:
            report.notes.append("The photos of the building are in the package mvtb-data, which is not installed.")
    report.notes.append("The turntable and the evaluation are drawn at the size that was trained at.")
    return report


def _measure(report: Report, case: _Case, progress: Console) -> None:
    root = Path(tempfile.mkdtemp(prefix="argus-reconstruction-"))
    try:
        names = [photo.name for photo in case.truth] or [f"photo {i + 1}" for i in range(len(case.media))]
        folder = WorkFolder.create(root / "work", case.spec, case.media, names)
        _run(folder, case, progress)
        _rows(report, folder, case)
    finally:
        shutil.rmtree(root)


def _run(folder: WorkFolder, case: _Case, progress: Console) -> None:
    child = Child(folder, case.spec.threads)
    child.begin()
    try:
        with progress.status(case.name) as spinner:
            while not (status := child.look()).ended:
                spinner.update(f"{case.name}: {status.stage}, {100 * status.fraction:.0f} %")
                time.sleep(_LOOK_S)
    finally:
        child.stop()


def _rows(report: Report, folder: WorkFolder, case: _Case) -> None:
    status = folder.status()
    for stage in folder.finished():
        said = folder.report(stage)
        report.rows.append(
            {"what": case.name, "stage": stage, "seconds": said["seconds"], "result": _said(stage, said)}
        )
    total = sum(folder.report(stage)["seconds"] for stage in folder.finished())
    if status.failure is not None:
        report.rows.append({"what": case.name, "stage": status.stage, "result": status.failure.message})
        report.misses.append(f"{case.name}: {status.failure.message}")
        return
    report.rows.append({"what": case.name, "stage": "all", "seconds": total, "result": "succeeded"})
    found = read_json(folder.root / "report.json")
    if not case.truth:
        return
    shift, turn_deg = pose_error(folder, case.truth)
    report.rows.append(
        {
            "what": case.name,
            "stage": "cameras",
            "result": f"{100 * shift:.2f} % of the distance, {turn_deg:.2f} degrees",
        }
    )
    if found["mapping"]["aligned"] < len(case.truth):
        report.misses.append(f"{case.name}: {found['mapping']['aligned']} of {len(case.truth)} photos were aligned")
    if shift > _MOST_SHIFT or turn_deg > _MOST_TURN_DEG:
        report.misses.append(f"{case.name}: cameras are off by {100 * shift:.2f} % and {turn_deg:.2f} degrees")
    if case.spec.method == "3dgs" and found["evaluation"]["psnr"] < _LEAST_PSNR:
        report.misses.append(f"{case.name}: held-out views reach {found['evaluation']['psnr']:.2f} dB")


def _said(stage: str, said: dict[str, Any]) -> str:
    if stage == "evaluation":
        where = "held-out" if said["held_out"] else "training"
        return f"{said['psnr']:.2f} dB, SSIM {said['ssim']:.3f} on {len(said['views'])} {where} views"
    keys = {
        "intake": ("used", "overlap"),
        "features": ("features_mean",),
        "matching": ("pairs", "matches_mean"),
        "mapping": ("aligned", "points", "reprojection_error_px"),
        "views": ("training_views", "held_out_views"),
        "training": ("steps", "gaussians"),
        "export": ("scene_bytes", "turntable_bytes"),
    }[stage]
    return ", ".join(f"{key} {said[key]}" for key in keys)


def pose_error(folder: WorkFolder, truth: Sequence[Photo]) -> tuple[float, float]:
    """How far the found cameras are from the true ones, after the similarity that fits their places best.

    Returns:
        Root mean square of the shifts in parts of the cameras' mean distance from their middle, and the median turn in
        degrees.
    """
    by_name = {photo.name: photo.camera for photo in truth}
    views = [view for view in load_views(folder).views if view.name in by_name]
    found = np.stack([view.camera.position for view in views])
    true = np.stack([by_name[view.name].position for view in views])
    scale, rotation, shift = similarity(found, true)
    distance = np.linalg.norm(true - true.mean(axis=0), axis=1).mean()
    off = np.linalg.norm(scale * found @ rotation.T + shift - true, axis=1)
    turns = []
    for view in views:
        # Camera to world in the true frame, against the truth.
        between = rotation @ view.camera.world_to_camera[:3, :3].T @ by_name[view.name].world_to_camera[:3, :3]
        turns.append(np.degrees(np.arccos(np.clip((np.trace(between) - 1) / 2, -1, 1))))
    return float(np.sqrt((off**2).mean()) / distance), float(np.median(turns))


def similarity(source: Float64, target: Float64) -> tuple[float, Float64, Float64]:
    """Scale, rotation (3, 3) and shift (3,) that take points (N, 3) to others, by least squares (Umeyama 1991)."""
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    a, b = source - mean_source, target - mean_target
    u, size, vt = np.linalg.svd(b.T @ a / len(source))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ flip @ vt
    scale = float((size * np.diag(flip)).sum() / (a**2).sum(axis=1).mean())
    return scale, rotation, mean_target - scale * rotation @ mean_source


def _plan(spec: Spec) -> dict[str, Any]:
    import torch

    return asdict(spec.plan(cuda=torch.cuda.is_available()))


def _building() -> list[bytes]:
    found = importlib.util.find_spec("mvtbdata")
    if found is None or found.origin is None:
        return []
    folder = Path(found.origin).parent / "images"
    return [path.read_bytes() for path in sorted(folder.glob("building2-*.png"))]


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
