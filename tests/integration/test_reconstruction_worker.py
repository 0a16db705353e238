"""The worker process of a reconstruction: killed in any stage it goes on, and it never outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.reconstruction import pose_error
from deployments.nerf.checkpoint import read as read_field
from deployments.reconstruction.child import Child
from deployments.reconstruction.folder import WorkFolder, read_json
from deployments.reconstruction.messages import STAGES, Spec, Stage, Status
from deployments.splat.scene_file import read
from tests.reconstruction_photos import SPEC, STEPS, files, taken

ROOT = Path(__file__).parents[2]
NAMES = [photo.name for photo in taken()]


def made(root: Path, spec: Spec = SPEC, media: tuple[bytes, ...] | None = None) -> WorkFolder:
    return WorkFolder.create(root, spec, media or files(), NAMES)


def finish(child: Child) -> Status:
    while not (status := child.look()).ended:
        time.sleep(0.05)
    return status


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """A run that nobody disturbed."""
    folder = made(tmp_path_factory.mktemp("undisturbed") / "job")
    child = Child(folder, 1)
    child.begin()
    assert finish(child).state == "succeeded"
    return folder


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    child = Child(made(tmp_path / "job"), 1)
    yield child
    child.stop()


def test_photos_become_a_scene(undisturbed: WorkFolder) -> None:
    report = read_json(undisturbed.root / "report.json")
    assert report["mapping"]["aligned"] == len(NAMES)
    shift, turn_deg = pose_error(undisturbed, taken())
    assert shift < 0.03
    assert turn_deg < 1.5
    scene = read(undisturbed.scene.read_bytes())
    assert len(scene) > 500
    # Where the solids stand is the middle, and up is against y: the floor lies below what stands on it.
    assert np.abs(np.median(scene.means, axis=0)).max() < 1
    assert undisturbed.turntable.read_bytes()[4:8] == b"ftyp"
    assert undisturbed.preview.read_bytes()[:3] == b"\xff\xd8\xff"
    assert report["evaluation"]["held_out"]
    assert list(report["intake"]["photos"].values()) == NAMES
    status = undisturbed.status()
    assert (status.fraction, status.starts, status.preview > 0) == (1.0, 1, True)


def test_every_other_option_from_photos_to_a_scene(tmp_path: Path) -> None:
    """A radiance field, cameras by the global mapper, and each photo matched with its neighbours."""
    spec = replace(SPEC, method="nerf", mapper="global", matching="sequential", side=16, steps=20)
    child = Child(made(tmp_path / "job", spec), 1)
    child.begin()
    assert finish(child).state == "succeeded"
    report = read_json(child.folder.root / "report.json")
    assert (report["matching"]["matching"], report["mapping"]["mapper"]) == ("sequential", "global")
    assert report["mapping"]["aligned"] == len(NAMES) and report["mapping"]["not_aligned"] == []
    shift, turn_deg = pose_error(child.folder, taken())
    assert shift < 0.03
    assert turn_deg < 1.5
    assert (report["scene"]["kind"], report["training"]["method"]) == ("nerf", "nerf")
    field = read_field(child.folder.scene.read_bytes())
    # The scene's middle is where its photos look.
    assert all(low < 0 < high for low, high in zip(field.settings.least, field.settings.most, strict=True))
    assert report["evaluation"]["psnr"] > 12, "a field that has learned nothing is grey"
    assert child.folder.turntable.read_bytes()[4:8] == b"ftyp"


def test_killed_in_every_stage_it_ends_as_if_it_had_not_been(child: Child, undisturbed: WorkFolder) -> None:
    left = set(STAGES)
    child.begin()
    killed: list[Stage] = []
    while not (status := child.look()).ended:
        if status.state == "running" and status.stage in left and status.starts > len(killed):
            os.kill(child.pid or 0, signal.SIGKILL)
            left.discard(status.stage)
            killed.append(status.stage)
        time.sleep(0.005)
    assert status.state == "succeeded"
    assert status.starts == len(killed) + 1
    assert len(killed) >= len(STAGES) - 2
    theirs, ours = (read_json(folder.root / "report.json") for folder in (undisturbed, child.folder))
    assert ours["mapping"]["aligned"] == theirs["mapping"]["aligned"]
    assert ours["evaluation"]["psnr"] == pytest.approx(theirs["evaluation"]["psnr"], abs=0.5)


def test_training_that_was_killed_goes_on_from_its_checkpoint(child: Child) -> None:
    checkpoint = child.folder.training / "checkpoint.safetensors"
    child.begin()
    while not checkpoint.exists():
        assert not child.look().ended
        time.sleep(0.02)
    os.kill(child.pid or 0, signal.SIGKILL)
    steps = []
    while not (status := child.look()).ended:
        if status.starts == 2 and status.stage == "training" and status.total:
            steps.append(status.done)
        time.sleep(0.02)
    assert status.state == "succeeded"
    # A twentieth of the steps lies between two checkpoints, so it did not begin anew.
    assert steps == [] or min(steps) >= STEPS // 20


def test_a_worker_that_dies_again_and_again_is_given_up(child: Child) -> None:
    child.begin()
    deaths = 0
    while not (status := child.look()).ended:
        # Before it has even begun: no stage is finished in between.
        if child.runs:
            os.kill(child.pid or 0, signal.SIGKILL)
            deaths += 1
        time.sleep(0.02)
    assert status.failure is not None
    assert status.failure.code == "reconstruction_crashed"
    assert "SIGKILL" in status.failure.message
    assert deaths <= 6


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    made(tmp_path / "job")
    script = (
        "import sys, time; from pathlib import Path\n"
        "from deployments.reconstruction.child import Child\n"
        "from deployments.reconstruction.folder import WorkFolder\n"
        "child = Child(WorkFolder(Path(sys.argv[1])), 1); child.begin(); print(child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "job")], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        worker = psutil.Process(pid)
        while WorkFolder(tmp_path / "job").status().state != "running":
            time.sleep(0.05)
        parent.kill()
    worker.wait(timeout=30)
    assert not psutil.pid_exists(pid)


def test_looking_at_how_far_colmap_is_never_ends_it(tmp_path: Path) -> None:
    """It ends its process when it finds its database locked; so this is a process of its own, and looks often."""
    script = (
        "import sys; from pathlib import Path\n"
        "from deployments.reconstruction import alignment, intake\n"
        "from deployments.reconstruction.folder import WorkFolder\n"
        "alignment._LOOK_S, told = 0.0002, []\n"
        "folder = WorkFolder(Path(sys.argv[1]))\n"
        "intake.take_in(folder, folder.spec(), lambda done, total: None)\n"
        "alignment.find_features(folder, folder.spec(), 10, lambda done, total: told.append(done))\n"
        "alignment.match(folder, folder.spec(), 10, from_video=False, tell=lambda done, total: told.append(done))\n"
        "print(max(told))"
    )
    command = [sys.executable, "-c", script, str(made(tmp_path / "job").root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 10, "pairs of photos were counted as they came"


def test_what_a_photographer_can_act_on(tmp_path: Path) -> None:
    """Photos of different things: the job fails, and says what to do."""
    from PIL import Image

    rng = np.random.default_rng(1)
    media = []
    for number in range(4):
        pixels = rng.integers(0, 256, (30, 40, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        media.append(path.read_bytes())
    folder = WorkFolder.create(tmp_path / "job", SPEC, media)
    child = Child(folder, 1)
    child.begin()
    status = finish(child)
    assert status.state == "failed"
    assert status.failure is not None
    assert (status.failure.kind, status.failure.code) == ("InvalidMedia", "photos_do_not_overlap")
    assert "two thirds of each photo" in status.failure.message
    assert "only 4 photos" in " ".join(status.advice)


def test_the_photos_that_may_be_why_are_named(tmp_path: Path) -> None:
    """Photos of different things, one of them out of focus."""
    from PIL import Image, ImageFilter

    rng = np.random.default_rng(2)
    media = []
    for number in range(4):
        pixels = rng.integers(0, 256, (30, 40, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        photo = Image.fromarray(pixels)
        path = tmp_path / f"{number}.png"
        (photo.filter(ImageFilter.GaussianBlur(12)) if number == 2 else photo).save(path)
        media.append(path.read_bytes())
    child = Child(WorkFolder.create(tmp_path / "job", SPEC, media, [f"IMG_{number}.jpg" for number in range(4)]), 1)
    child.begin()
    failure = finish(child).failure
    assert failure is not None and failure.message.endswith("shaken or out of focus: IMG_2.jpg.")
