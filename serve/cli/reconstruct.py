"""`argus reconstruct`: a scene from photos on this machine, without a cluster; the same stages as the served model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Final, get_args

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from deployments.jobs.types import Failure
from deployments.reconstruction.archive import natural
from deployments.reconstruction.messages import Mapper, Matching, Method, Quality, Spec, Status, Up
from deployments.splat.formats.names import EXTENSIONS, FORMATS
from serve.cli.console import errors, output
from serve.errors import ArgusError, ConfigError
from serve.jobs.failures import restored

# Files of a folder that are photos.
_PHOTOS: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif"})
_LOOK_S: Final = 0.25
_WORK: Final = ".work"
# Of the words below, what each stage does.
_STAGES: Final = {
    "intake": "looking at the photos",
    "features": "finding features",
    "matching": "matching photos",
    "mapping": "aligning photos",
    "views": "undistorting",
    "training": "training",
    "evaluation": "evaluating",
    "export": "filming",
}


def reconstruct(
    photos: Annotated[list[Path], typer.Argument(help="Photos, a folder of them, a zip file, or a video.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results; work that was stopped goes on.")],
    quality: Annotated[str, typer.Option(help="preview, standard or high.")] = "standard",
    method: Annotated[str, typer.Option(help="3dgs, or nerf (a radiance field).")] = "3dgs",
    matching: Annotated[str, typer.Option(help="auto, exhaustive or sequential.")] = "auto",
    mapper: Annotated[str, typer.Option(help="incremental or global.")] = "incremental",
    up: Annotated[str, typer.Option(help="Axis that points up: auto, x, y, z, -x, -y, -z.")] = "auto",
    max_photos: Annotated[int, typer.Option(min=3, max=5000, help="Use no more; frames of a video.")] = 300,
    max_side: Annotated[int, typer.Option(min=64, max=8192, help="Longest side at which photos are aligned.")] = 1600,
    side: Annotated[
        int | None, typer.Option(min=16, help="Longest side trained at, in place of the quality's.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of training, likewise.")] = None,
    gaussians: Annotated[int | None, typer.Option(min=100, help="Most Gaussians, likewise.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0 takes every core.")] = 0,
    gpu_memory_gb: Annotated[
        float | None,
        typer.Option(min=0, help="GPU memory that training may take, in GB; all when left out, 0 trains on the CPU."),
    ] = None,
    formats: Annotated[str, typer.Option("--formats", help=f"Files of the scene: {', '.join(FORMATS)}.")] = "ply,spz",
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew, whatever lies in the folder.")] = False,
) -> None:
    """Make a 3D scene from photos or a video; Ctrl-C stops, the same command goes on."""
    spec = Spec(
        _one_of("--method", method, get_args(Method)),
        _one_of("--quality", quality, get_args(Quality)),
        _one_of("--matching", matching, get_args(Matching)),
        _one_of("--mapper", mapper, get_args(Mapper)),
        _one_of("--up", up, get_args(Up)),
        max_photos,
        max_side,
        threads or os.cpu_count() or 1,
        gpu_memory_gb,
        side=side,
        steps=steps,
        count=gaussians,
    )
    wanted = [_one_of("--formats", name.strip(), FORMATS) for name in formats.split(",")]
    files = _files(photos)
    status = _work(out, spec, files, fresh=fresh)
    if status.failure is not None:
        errors.print(f"[red]error[/red] {status.failure.message}", highlight=False)
        errors.print(_again(status.failure), highlight=False)
        raise typer.Exit(1)
    whole = _export(out, [] if method == "nerf" else wanted)
    _show(out)
    if not whole:
        raise typer.Exit(1)


def _work(out: Path, spec: Spec, files: Sequence[Path], *, fresh: bool) -> Status:
    from deployments.reconstruction.child import Child
    from deployments.reconstruction.folder import WorkFolder

    root = out / _WORK
    if fresh:
        shutil.rmtree(root, ignore_errors=True)
    _same(root, spec, files)
    folder = WorkFolder.create(root, spec, files, [path.name for path in files])
    status = folder.status()
    if status.failure is not None and not _lies_in_the_photos(status.failure):
        folder.tell(replace(status, state="paused", failure=None))
    child = Child(folder, spec.threads)
    child.begin()
    try:
        return _follow(child)
    except KeyboardInterrupt:
        stage = folder.status().stage
        errors.print(f"Stopped while {_STAGES[stage]}. The same command goes on from there.", highlight=False)
        raise typer.Exit(130) from None
    finally:
        child.stop()


def _follow(child: Any) -> Status:
    """Shows how far the work is, until it has ended."""
    columns = (TextColumn("{task.description:<22}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    advised = False
    with Progress(*columns, TextColumn("{task.fields[left]}"), console=errors) as progress:
        task = progress.add_task("", total=1.0, left="")
        while True:
            status: Status = child.look()
            left = "" if status.eta_s is None or status.ended else f"about {_minutes(status.eta_s)} left"
            doing = "done" if status.state == "succeeded" else _STAGES[status.stage]
            progress.update(task, completed=status.fraction, description=doing, left=left)
            if not advised and child.folder.is_done("intake"):
                advised = True
                for advice in child.folder.report("intake")["advice"]:
                    progress.console.print(f"  [yellow]note[/yellow] {advice}", highlight=False)
            if status.ended:
                return status
            time.sleep(_LOOK_S)


def _lies_in_the_photos(failure: Failure) -> bool:
    """Whether the same photos fail again; a crash or a full disk may have passed."""
    return restored(failure).fault == "client"


def _again(failure: Failure) -> str:
    """What to do after a failure."""
    if _lies_in_the_photos(failure):
        return "With other photos or options, name another folder or give --fresh."
    return "The same command goes on from the last stage that was finished; with --fresh it begins anew."


def _export(out: Path, formats: Sequence[str]) -> bool:
    """Puts the results into the folder: film and report, and the scene in each format, or in ours where none is named.

    Returns:
        Whether all of them are there; what cannot be written in one format is said, and keeps nothing else back.
    """
    work = out / _WORK
    for name in ("turntable.mp4", "report.json"):
        shutil.copyfile(work / name, out / name)
    if not formats:
        shutil.copyfile(work / "scene.safetensors", out / "scene.safetensors")
        return True
    from deployments.splat import formats as writers
    from deployments.splat.scene_file import read

    scene = read((work / "scene.safetensors").read_bytes())
    whole = True
    for name in formats:
        target = out / f"scene{EXTENSIONS[name]}"  # type: ignore[index]
        try:
            data = writers.write(scene, name)  # type: ignore[arg-type]
        except ArgusError as error:
            target.unlink(missing_ok=True)  # one of a run before is of another scene
            errors.print(f"[red]error[/red] {target.name} is not written: {error.message}", highlight=False)
            whole = False
        else:
            target.write_bytes(data)
    return whole


def _show(out: Path) -> None:
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    found, trained, alignment = report["evaluation"], report["training"], report["mapping"]
    table = Table(show_header=False, box=None)
    table.add_row("aligned", f"{alignment['aligned']} of {report['intake']['used']} photos")
    table.add_row("error", f"{alignment['reprojection_error_px']:.2f} px")
    if trained["gaussians"]:
        table.add_row("Gaussians", f"{trained['gaussians']:,}")
    where = "held-out views" if found["held_out"] else "training views; too few photos to hold any out"
    table.add_row("PSNR, SSIM", f"{found['psnr']:.2f} dB, {found['ssim']:.3f} ({where})")
    for path in sorted(out.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            table.add_row(path.name, f"{path.stat().st_size / 1e6:.1f} MB")
    output.print(table, highlight=False)


def _files(photos: Sequence[Path]) -> list[Path]:
    """What was named, folders by what is in them."""
    files: list[Path] = []
    for path in photos:
        if path.is_dir():
            found = [p for p in path.iterdir() if p.suffix.lower() in _PHOTOS and not p.name.startswith(".")]
            files += sorted(found, key=lambda p: natural(p.name))
        elif path.is_file():
            files.append(path)
        else:
            raise ConfigError(f"{path} does not exist", param="PHOTOS")
    if not files:
        raise ConfigError("there are no photos in what was named", param="PHOTOS")
    return files


def _same(root: Path, spec: Spec, files: Sequence[Path]) -> None:
    """Sees that work that lies there is this work.

    Raises:
        ConfigError: it is another.
    """
    known = [[str(path.resolve()), path.stat().st_size] for path in files]
    mark = hashlib.sha256(json.dumps([asdict(spec) | {"threads": 0}, known]).encode()).hexdigest()
    noted = root.with_name(f"{_WORK}.sha256")
    if root.exists() and noted.exists() and noted.read_text(encoding="ascii") != mark:
        message = f"{root.parent} holds work on other photos or with other options; name another folder or give --fresh"
        raise ConfigError(message, param="--out")
    root.parent.mkdir(parents=True, exist_ok=True)
    noted.write_text(mark, encoding="ascii")


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _one_of(option: str, given: str, known: Sequence[str]) -> Any:
    if given not in known:
        raise ConfigError(f"{option}: got {given!r}; it must be one of {', '.join(known)}")
    return given
