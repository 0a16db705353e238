"""`argus reconstruct` as a user runs it: photos in, files out; stopped by Ctrl-C, it goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from deployments.jobs.types import Failure
from deployments.reconstruction.folder import WorkFolder, write_json
from deployments.reconstruction.messages import Status
from deployments.splat import formats, scene_file
from tests.reconstruction_photos import SPEC, files
from tests.support.gaussians import random_scene

ROOT = Path(__file__).parents[2]
SMALL = ["--quality", "preview", "--side", "80", "--steps", "80", "--gaussians", "1200", "--threads", "1"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, data in enumerate(files()):
        (folder / f"IMG_{number}.png").write_bytes(data)
    (folder / "notes.txt").write_text("not a photo")
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "serve", "reconstruct", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=ROOT, timeout=280, check=False)


def test_stopped_and_gone_on_with(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    work = WorkFolder(out / ".work")
    with subprocess.Popen(
        # What runs in a shell's background ignores Ctrl-C, and so do its children.
        ["env", "--default-signal=INT", *command(photos, "-o", out, *SMALL)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as first:
        while not (work.exists and work.is_done("features")):
            assert first.poll() is None
            time.sleep(0.05)
        workers = psutil.Process(first.pid).children()
        assert work.spec().gpu_memory_gb is None  # all of a GPU, where there is one
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "The same command goes on from there" in said
    assert psutil.wait_procs(workers, timeout=30)[1] == []
    features = (work.root / "done" / "features.json").stat().st_mtime_ns

    second = run(photos, "-o", out, *SMALL)
    assert second.returncode == 0, second.stderr
    assert (work.root / "done" / "features.json").stat().st_mtime_ns == features
    assert "10 of 10 photos" in second.stdout
    assert "only 10 photos" in second.stderr.replace("\n", " ")
    ply = formats.read((out / "scene.ply").read_bytes(), max_gaussians=10_000)
    spz = formats.read((out / "scene.spz").read_bytes(), max_gaussians=10_000)
    assert 500 < len(ply) == len(spz) <= 1200
    assert (out / "turntable.mp4").read_bytes()[4:8] == b"ftyp"
    report = json.loads((out / "report.json").read_text())
    assert report["intake"]["photos"]["camera0/00000.jpg"] == "IMG_0.png"
    assert report["evaluation"]["held_out"]

    other = run(photos / "IMG_0.png", photos / "IMG_1.png", photos / "IMG_2.png", "-o", out)
    assert other.returncode == 1
    assert "--fresh" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jpg"], "does not exist"),
        ([".", "--quality", "best"], "--quality"),
        ([".", "--formats", "obj"], "--formats"),
        ([str(ROOT / "deployments")], "no photos"),
    ],
)
def test_refused(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = run(*arguments, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_photos_that_do_not_fit_together_say_what_to_do(photos: Path, tmp_path: Path) -> None:
    done = run(photos / "IMG_0.png", photos / "IMG_0.png", photos / "IMG_1.png", "-o", tmp_path / "out", *SMALL)
    assert done.returncode == 1
    assert "Only 2 photos can be used" in done.stderr.replace("\n", " ")
    assert "--fresh" in done.stderr


def test_what_was_no_fault_of_the_photos_is_tried_again(photos: Path, tmp_path: Path) -> None:
    """A failure is told at once only when the same photos would fail again."""
    given = [photos / "IMG_0.png", photos / "IMG_0.png", photos / "IMG_1.png"]
    work = WorkFolder.create(tmp_path / "out" / ".work", SPEC, given)
    crashed = Failure(
        "ModelFailed", "reconstruction_crashed", "The worker was ended by SIGKILL in stage intake 3 times."
    )
    work.tell(Status("failed", failure=crashed))
    done = run(*given, "-o", tmp_path / "out", *SMALL)
    assert done.returncode == 1
    assert "Only 2 photos can be used" in done.stderr.replace("\n", " ")
    assert "SIGKILL" not in done.stderr
    starts = work.status().starts
    assert starts == 1
    again = run(*given, "-o", tmp_path / "out", *SMALL)
    assert "Only 2 photos can be used" in again.stderr.replace("\n", " ")
    assert work.status().starts == starts


def test_a_format_that_cannot_be_written_keeps_nothing_else_back(photos: Path, tmp_path: Path) -> None:
    """The work is done; of its scene, which reaches too far for SPZ, all else comes out."""
    out = tmp_path / "out"
    work = WorkFolder.create(out / ".work", SPEC, [photos / "IMG_0.png"])
    scene = random_scene(50)
    scene.means[0] = 1e8
    work.scene.write_bytes(scene_file.write(scene))
    work.turntable.write_bytes(b"a film")
    measured = {"held_out": 1, "psnr": 27.5, "ssim": 0.9}
    parts = {"intake": {"used": 1}, "mapping": {"aligned": 1, "reprojection_error_px": 0.5}}
    report = {**parts, "training": {"gaussians": 50}, "evaluation": measured}
    (work.root / "report.json").write_text(json.dumps(report))
    write_json(work.root / "done" / "intake.json", {"advice": []})
    work.tell(Status("succeeded", "export", fraction=1.0))
    done = run(photos / "IMG_0.png", "-o", out, *SMALL, "--formats", "spz,ply")
    assert done.returncode == 1
    assert "scene.spz is not written" in done.stderr
    assert "24 bits" in done.stderr
    assert len(formats.read((out / "scene.ply").read_bytes(), max_gaussians=100)) == 50
    assert (out / "turntable.mp4").read_bytes() == b"a film"
    assert json.loads((out / "report.json").read_text()) == report
    assert "27.50 dB" in done.stdout
    assert not (out / "scene.spz").exists()
