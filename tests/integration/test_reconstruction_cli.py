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

from deployments.reconstruction.folder import WorkFolder
from deployments.splat import formats
from tests.reconstruction_photos import files

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
