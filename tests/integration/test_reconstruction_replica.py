"""The deployment that reconstructs: jobs that wait, pause, go on in another replica, and go."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from deployments.reconstruction.folder import WorkFolder
from deployments.reconstruction.messages import Status
from deployments.reconstruction.replica import ReconstructionReplica
from deployments.splat.scene_file import read
from serve.config.scene_models import ReconstructionModel
from serve.errors import Conflict, NotFound, OutOfCapacity
from tests.reconstruction_photos import SPEC, files


def model(path: Path) -> ReconstructionModel:
    return ReconstructionModel(kind="reconstruction", path=str(path), scenes="scenes", max_side=320, keep_s=100)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[ReconstructionReplica]:
    replica = ReconstructionReplica("reconstruction", model(tmp_path / "work"))
    yield replica
    await replica.close()


async def until(replica: ReconstructionReplica, job: str, *states: str) -> Status:
    while (status := await replica.follow(job)).state not in states:
        assert not status.ended, status.failure
        await asyncio.sleep(0.05)
    return status


async def workers() -> list[psutil.Process]:
    """Those of reconstructions; other tests' processes may still be there."""
    running = [p for p in psutil.Process().children() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    return [p for p in running if "deployments.reconstruction.worker" in p.cmdline()]


async def test_one_runs_and_one_waits(replica: ReconstructionReplica) -> None:
    await replica.start("first", SPEC, files())
    await until(replica, "first", "running")
    assert (await replica.start("second", SPEC, files())).state == "queued"
    stats = await replica.stats()
    assert (stats.running, stats.waiting, stats.folders) == (1, 1, 2)
    with pytest.raises(Conflict) as error:
        await replica.result("first")
    assert error.value.code == "reconstruction_not_ended"
    assert (await replica.cancel("first")).state == "paused"
    assert (await until(replica, "second", "running")).state == "running"
    await replica.discard("second")
    with pytest.raises(NotFound):
        await replica.status("second")
    assert await workers() == []


async def test_the_first_that_ended_makes_room_for_another(
    replica: ReconstructionReplica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.reconstruction.replica._MOST_FOLDERS", 2)
    for name in ("old", "older"):
        await replica.start(name, SPEC, files())
        await replica.cancel(name)
    with pytest.raises(OutOfCapacity):
        await replica.start("new", SPEC, files())
    for age, name in enumerate(("old", "older"), start=1):
        folder = WorkFolder(tmp_path / "work" / name)
        folder.tell(replace(folder.status(), state="failed"))
        os.utime(folder.root / "status.json", (1e9 - age, 1e9 - age))
    await replica.start("new", SPEC, files())
    assert (await replica.status("old")).state == "failed"
    with pytest.raises(NotFound):
        await replica.status("older")


async def test_those_that_run_at_once_share_the_gpu_budget(tmp_path: Path) -> None:
    shared = model(tmp_path / "work").model_copy(update={"gpu_memory_gb": 6.0, "concurrency": 2})
    replica = ReconstructionReplica("reconstruction", shared)
    try:
        await replica.start("job", SPEC, files())
    finally:
        await replica.close()
    assert WorkFolder(tmp_path / "work" / "job").spec().gpu_memory_gb == 3.0


async def test_another_replica_goes_on(replica: ReconstructionReplica, tmp_path: Path) -> None:
    """As after a replica was replaced: its folder is all that is left."""
    await replica.start("job", SPEC, files(), [f"{i}.png" for i in range(10)])
    while (await replica.follow("job")).stage in ("intake", "features"):  # noqa: ASYNC110 - it is asked, it tells nobody
        await asyncio.sleep(0.02)
    with pytest.raises(Conflict):
        ReconstructionReplica("reconstruction", model(tmp_path / "work"))  # a folder has one owner
    await replica.close()
    assert await workers() == []
    other = ReconstructionReplica("reconstruction", model(tmp_path / "work"))
    try:
        assert (await other.status("job")).state == "paused"
        status = await until(other, "job", "succeeded")
        assert status.starts == 2
        result = await other.result("job")
        assert (result.kind, result.up) == ("gaussians", (0.0, -1.0, 0.0))
        assert len(read(result.scene)) <= result.count
        assert result.report["intake"]["photos"]["camera0/00003.jpg"] == "3.png"
        assert (await other.preview("job"))[:3] == b"\xff\xd8\xff"
        # Sent again, as after an answer that was lost: it is the job that is there.
        assert (await other.start("job", SPEC, ())).state == "succeeded"
    finally:
        await other.close()


async def test_what_nobody_follows_pauses_and_goes_in_the_end(tmp_path: Path) -> None:
    clock = Clock()
    replica = ReconstructionReplica("reconstruction", model(tmp_path), clock)
    try:
        await replica.start("job", SPEC, files())
        await until(replica, "job", "running")
        clock.now += 61
        while await workers():  # noqa: ASYNC110 - processes end when they end
            await asyncio.sleep(0.05)
        assert (await replica.status("job")).state == "paused"
        await replica.check_health()
        assert (await replica.stats()).folders == 1
        written = (tmp_path / "job" / "status.json").stat().st_mtime
        clock.now = written + 101
        await replica.check_health()
        assert (await replica.stats()).folders == 0
    finally:
        await replica.close()


@pytest.mark.parametrize("job", ["../elsewhere", "", "a/b", "x" * 81, ".hidden"])
async def test_names_lead_nowhere(replica: ReconstructionReplica, job: str) -> None:
    with pytest.raises(NotFound):
        await replica.start(job, SPEC, files())
    with pytest.raises(NotFound):
        await replica.preview(job)


async def test_no_preview_before_training(replica: ReconstructionReplica) -> None:
    await replica.start("job", SPEC, files())
    with pytest.raises(NotFound) as error:
        await replica.preview("job")
    assert error.value.code == "no_preview_yet"
