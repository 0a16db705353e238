"""`argus bench nerf`: radiance fields trained on views of a demo scene, and drawn by the replica beside a plain loop.

Both variants learn from the same views; what is measured are views between them. The replica and the loop draw the same
views of the shipped field in turns, so that other work on the machine meets both.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from benchmarks.report import Column, Report, this_command
from demo.evaluate_nerf import measure
from demo.scenes3d import orbit_cameras
from demo.train_nerf import LEAST, MOST, Lesson, lesson
from deployments.messages import Call
from deployments.nerf.checkpoint import read
from deployments.nerf.field import RadianceField
from deployments.nerf.render import render
from deployments.nerf.replica import NerfReplica
from deployments.nerf.settings import FieldSettings
from deployments.nerf.train import Progress, TrainSettings, train
from deployments.rendering.camera import Camera
from deployments.rendering.messages import RenderRequest, SceneRef, ViewFiles
from deployments.scenes.blobs import blobs_of
from serve.config.checkpoints import DEMO_SCENES
from serve.config.scene_models import NerfModel, SceneStoreModel

_LEAST_PSNR = 25.0
_LEAST_SHARE = 0.8
GOAL = (
    f"the hash grid reaches {_LEAST_PSNR:g} dB on held-out views; the replica draws at least {_LEAST_SHARE:.0%} of the "
    "rays a second of a plain loop"
)
SHIPPED = "ring.nerf"
_SCENE = "table"
_SIDE = 100
_VIEWS = 48
_CALLERS = 4
# A view is so many times larger, along each side, than what is drawn of MLPs that are not measured otherwise.
_SMALL = 5
_COLUMNS = (
    Column("field", "field"),
    Column("steps", "steps", ",d"),
    Column("train_s", "training s", ".0f"),
    Column("psnr", "PSNR dB", ".2f"),
    Column("ssim", "SSIM", ".4f"),
    Column("view_s", f"CPU s a view ({_SIDE}x{_SIDE})", ".2f"),
    Column("loop", "loop rays/s", ",.0f"),
    Column("replica", "replica rays/s", ",.0f"),
    Column("share", "replica / loop", ".2f"),
)


@dataclass(frozen=True, slots=True)
class Fit:
    """One training, and how many held-out views it is measured on; 0 where so few steps have nothing to show."""

    title: str
    settings: FieldSettings
    options: TrainSettings
    held_out: int


def fits(hash_steps: int, mlp_steps: int, published_steps: int) -> tuple[Fit, ...]:
    """The trainings; none where there are no steps."""
    box: dict[str, Any] = {"least": LEAST, "most": MOST}
    every = (
        Fit("hash grid, trained here", FieldSettings(variant="hash", **box), TrainSettings(hash_steps), 8),
        Fit(
            "MLPs, 64 wide, trained here",
            FieldSettings(variant="mlp", width=64, **box),
            TrainSettings(mlp_steps, rays=128, samples=32, rate=2e-3),
            2,
        ),
        Fit(
            "MLPs, 256 wide as published, trained here",
            FieldSettings(variant="mlp", **box),
            TrainSettings(published_steps, rays=256),
            0,
        ),
    )
    return tuple(fit for fit in every if fit.options.steps)


def run(*, trainings: tuple[Fit, ...], rounds: int, views: int, progress: Console) -> Report:
    """The benchmark.

    Args:
        rounds: of drawing, the loop and the replica in turns.
        views: of a round, each way.
    """
    torch.set_num_threads(1)
    report = Report(
        this_command(),
        "Radiance fields",
        GOAL,
        _COLUMNS,
        {
            "scene": _SCENE,
            "side": _SIDE,
            "training_views": _VIEWS,
            "rounds": rounds,
            "views": views,
            "callers": _CALLERS,
            "threads": 1,
            "trainings": [
                {"title": fit.title, "steps": fit.options.steps, **fit.settings.model_dump(mode="json")}
                for fit in trainings
            ],
        },
    )
    shipped = read((DEMO_SCENES / SHIPPED).read_bytes())
    report.rows.append(
        {"field": f"{SHIPPED}, shipped"} | _quality(shipped, 8) | _served(report, rounds, views, progress)
    )
    taught = lesson(_SCENE, _VIEWS, _SIDE)
    for fit in trainings:
        report.rows.append(_trained(fit, taught, progress))
    _judge(report)
    report.notes += [
        "PSNR and SSIM: means over views that no training saw (8; 2 of the MLPs), every sample drawn.",
        "The shipped field learned from views of 128 pixels; at their size it is better by 4 dB (its card).",
        "The loop draws 8,192 rays at a time and writes nothing; the replica answers raw arrays to "
        f"{_CALLERS} callers at once. Rays/s are medians over rounds.",
        "The MLPs get far fewer steps than published (100,000 to 300,000); their figures show what a core can do. The "
        "time of a view of the published ones is that of a 25th of its pixels, times 25.",
    ]
    return report


def _trained(fit: Fit, taught: Lesson, progress: Console) -> dict[str, Any]:
    started = time.monotonic()

    def tell(state: Progress) -> None:
        if state.step % 100 == 0:
            progress.print(f"{fit.title}: step {state.step}, {state.psnr:.1f} dB", highlight=False)

    field = train(taught.images, taught.cameras, fit.settings, fit.options, progress=tell)
    seconds = time.monotonic() - started
    return {"field": fit.title, "steps": fit.options.steps, "train_s": seconds} | _quality(field, fit.held_out)


def _quality(field: RadianceField, views: int) -> dict[str, Any]:
    if not views:
        (small,) = orbit_cameras(1, _SIDE // _SMALL, _SIDE // _SMALL)
        started = time.process_time()
        render(field, small)
        return {"view_s": (time.process_time() - started) * _SMALL**2}
    score = measure(field, _SCENE, _SIDE, count=views)
    return {"psnr": score.psnr, "ssim": score.ssim, "view_s": score.seconds}


def _judge(report: Report) -> None:
    for row in report.rows:
        if "MLPs" not in row["field"] and row["psnr"] < _LEAST_PSNR:
            report.misses.append(f"{row['field']}: {row['psnr']:.2f} dB")
    shipped = report.rows[0]
    if shipped["share"] < _LEAST_SHARE:
        report.misses.append(f"the replica draws {shipped['share']:.2f} of the loop's rays a second")


def _served(report: Report, rounds: int, views: int, progress: Console) -> dict[str, Any]:
    """Rays a second of the shipped field, by the loop and by the replica."""
    cameras = orbit_cameras(views, _SIDE, _SIDE, start_deg=5.0)
    data = (DEMO_SCENES / SHIPPED).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        store = SceneStoreModel(kind="scene_store", path=folder)
        scene = SceneRef("nerf", blobs_of(store).write(data), len(data))
        field = read(data)
        loop, replica = asyncio.run(_in_turns(store, scene, field, cameras, rounds, progress))
    report.settings = {**report.settings, "loop_rays_s": loop, "replica_rays_s": replica}
    one, other = statistics.median(loop), statistics.median(replica)
    share = statistics.median(served / plain for served, plain in zip(replica, loop, strict=True))
    return {"loop": one, "replica": other, "share": share}


async def _in_turns(
    store: SceneStoreModel,
    scene: SceneRef,
    field: RadianceField,
    cameras: list[Camera],
    rounds: int,
    progress: Console,
) -> tuple[list[float], list[float]]:
    replica = NerfReplica("nerf", NerfModel(kind="nerf", scenes="scenes"), store)
    await replica.info()
    await _ask(replica, scene, cameras[:1])
    rays = sum(camera.width * camera.height for camera in cameras)
    loop, served = [], []
    for number in range(rounds):
        started = time.perf_counter()
        for camera in cameras:
            render(field, camera)
        loop.append(rays / (time.perf_counter() - started))
        started = time.perf_counter()
        turns = [cameras[caller::_CALLERS] for caller in range(_CALLERS)]
        await asyncio.gather(*(_ask(replica, scene, own) for own in turns))
        served.append(rays / (time.perf_counter() - started))
        progress.print(f"round {number + 1}: {loop[-1]:,.0f} and {served[-1]:,.0f} rays/s", highlight=False)
    return loop, served


async def _ask(replica: NerfReplica, scene: SceneRef, cameras: list[Camera]) -> None:
    """One caller: a view after the other."""
    for camera in cameras:
        result = await replica.render(RenderRequest(scene, (camera,), encoding="raw"), Call("bench", 600.0))
        view = result.views[0]
        if not isinstance(view, ViewFiles):
            raise view
