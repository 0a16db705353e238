"""Benchmarks of 3D scenes."""

from __future__ import annotations

from typing import Annotated

import typer

from serve.cli.bench.command import Check, JsonFile, Quick, app, finish, one_of
from serve.cli.console import errors


@app.command("scene-files")
def scene_files(
    cases: Annotated[int, typer.Option(min=1, help="Files of each format and kind of damage.")] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the damage.")] = 1,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Damaged 3D scene files of every format, read as the store reads uploads (about 2 minutes)."""
    from benchmarks import scene_files as benchmark

    finish(benchmark.run(cases=cases, seed=seed, progress=errors), json, check)


@app.command()
def splat(
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is measured.")] = 9,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Gaussians drawn on the CPU, beside gsplat's torch functions and a plain reference (about 3 minutes)."""
    from benchmarks import splat as benchmark

    finish(benchmark.run(rounds=3 if quick else rounds, quick=quick), json, check)


@app.command("splat-serving")
def splat_serving(
    gaussians: Annotated[int, typer.Option(min=1000, help="Gaussians in the scene.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is measured.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of each measurement.")] = 15.0,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Views of a 3D scene through the cluster beside the rasteriser alone, 1 to 32 viewers (about 5 minutes)."""
    from benchmarks import splat_serving as benchmark

    rounds, seconds = (1, 4.0) if quick else (rounds, seconds)
    finish(benchmark.run(gaussians=gaussians, rounds=rounds, seconds=seconds, progress=errors), json, check)


@app.command()
def nerf(
    hash_steps: Annotated[int, typer.Option(min=0, help="Steps of a hash grid trained here.")] = 400,
    mlp_steps: Annotated[int, typer.Option(min=0, help="Steps of a small MLP trained here.")] = 200,
    published_steps: Annotated[int, typer.Option(min=0, help="Steps of the MLP as published; about 30 s each.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Times that drawing is measured.")] = 5,
    views: Annotated[int, typer.Option(min=1, help="Views of a round, each way.")] = 8,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Radiance fields: training, held-out views, and rays through the replica beside a plain loop (about 8 minutes)."""
    from benchmarks import nerf as benchmark

    trainings = benchmark.fits(50, 0, 0) if quick else benchmark.fits(hash_steps, mlp_steps, published_steps)
    finish(benchmark.run(trainings=trainings, rounds=rounds, views=views, progress=errors), json, check)


@app.command()
def reconstruction(
    count: Annotated[int, typer.Option("--photos", min=8, help="Photos of the studio.")] = 24,
    quality: Annotated[str, typer.Option(help="preview, standard or high.")] = "preview",
    nerf: Annotated[bool, typer.Option(help="The studio as a radiance field too.")] = True,
    real: Annotated[bool, typer.Option(help="Photos of a building too, if mvtb-data is installed.")] = True,
    threads: Annotated[int, typer.Option(min=1, help="Of every stage.")] = 1,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Photos to a scene on this machine: time by stage, errors of the cameras, held-out views (about 10 minutes)."""
    from benchmarks import reconstruction as benchmark
    from deployments.reconstruction.messages import CPU_PLANS, Spec

    one_of("--quality", quality, tuple(CPU_PLANS["3dgs"]))
    spec = Spec(quality=quality, max_side=640, threads=threads, steps=200 if quick else None)  # type: ignore[arg-type]
    report = benchmark.run(
        count=count,
        spec=spec,
        methods=("3dgs", "nerf") if nerf and not quick else ("3dgs",),
        real=real and not quick,
        progress=errors,
    )
    finish(report, json, check)
