"""The deployment that reconstructs: a folder and a worker process for each job, a bounded number at once.

It keeps nothing but the folders. A job goes on while somebody follows it: the router that runs the job asks every few
seconds, and when it dies, the work pauses until another router, or the same, asks again. So a cancelled job costs
nothing, and a replica that was replaced goes on with whatever is asked for.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from deployments.folder_lock import FolderLock, wait_for_predecessor
from deployments.gpu_memory import GpuMemory
from deployments.reconstruction.child import Child
from deployments.reconstruction.folder import WorkFolder, read_json
from deployments.reconstruction.messages import Result, Spec, Status
from serve.config.scene_models import ReconstructionModel
from serve.errors import Conflict, NotFound, OutOfCapacity

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")
# Seconds between looks at the processes, and those after which a job that nobody follows is paused.
_LOOK_S: Final = 0.5
_PATIENCE_S: Final = 60.0
# Folders of all jobs, ended ones included.
_MOST_FOLDERS: Final = 1000


@dataclass(frozen=True, slots=True)
class ReconstructionStats:
    """How busy the replica is."""

    running: int
    waiting: int
    folders: int


class ReconstructionReplica:
    """See the module's text. Run exactly one.

    Args:
        name: the model's in the cluster file.
        clock: Unix time.

    Raises:
        Conflict: `store_locked`: another replica has the folder.
    """

    def __init__(self, name: str, model: ReconstructionModel, clock: Callable[[], float] = time.time) -> None:
        self._model, self._clock = model, clock
        self._root = Path(model.path)
        self._root.mkdir(parents=True, exist_ok=True)
        wait_for_predecessor(self._root)
        self._lock = FolderLock(self._root)
        for unfinished in self._root.glob(".*.*"):  # folders whose making was cut short
            if unfinished.is_dir():
                shutil.rmtree(unfinished, ignore_errors=True)
        self._gpu = GpuMemory(name, model.gpu_memory_gb)
        self._running: dict[str, Child] = {}
        self._waiting: list[str] = []
        self._followed: dict[str, float] = {}
        self._tending: asyncio.Task[None] | None = None

    async def start(self, job_id: str, spec: Spec, media: Sequence[bytes], names: Sequence[str] = ()) -> Status:
        """Begins a job, or goes on with one that is known by its id.

        Args:
            media: photos, an archive of photos, or a video; see `deployments.reconstruction.given`.
            names: of them, as their owner knows them.

        Raises:
            OutOfCapacity: too many jobs that have not ended are kept.
        """
        folder = self._folder(job_id)
        if not folder.exists:
            if self._count() >= _MOST_FOLDERS:
                await asyncio.to_thread(self._make_room)
            own = self._bounded(spec)
            await asyncio.to_thread(WorkFolder.create, folder.root, own, media, names)
        return await self.follow(job_id)

    async def follow(self, job_id: str) -> Status:
        """How far a job is. Whoever asks wants it done: one that was paused goes on.

        Raises:
            NotFound: `reconstruction_not_found`.
        """
        folder = self._known(job_id)
        self._followed[job_id] = self._clock()
        status = folder.status()
        if not status.ended and job_id not in self._running and job_id not in self._waiting:
            self._waiting.append(job_id)
        self._tend()
        if self._tending is None:
            self._tending = asyncio.create_task(self._tend_always())
        return await self.status(job_id)

    async def status(self, job_id: str) -> Status:
        """How far a job is, only.

        Raises:
            NotFound: `reconstruction_not_found`.
        """
        status = self._known(job_id).status()
        return replace(status, state="queued") if job_id in self._waiting else status

    async def preview(self, job_id: str) -> bytes:
        """The newest picture of the scene in the making, a JPEG.

        Raises:
            NotFound: `reconstruction_not_found`, `no_preview_yet`.
        """
        try:
            return await asyncio.to_thread(self._known(job_id).preview.read_bytes)
        except FileNotFoundError:
            raise NotFound("Training has not begun; there is no preview yet.", code="no_preview_yet") from None

    async def cancel(self, job_id: str) -> Status:
        """Ends a job's work at once; it goes on when somebody follows it again, until its folder is swept.

        Raises:
            NotFound: `reconstruction_not_found`.
        """
        self._known(job_id)
        self._pause(job_id)
        return await self.status(job_id)

    async def result(self, job_id: str) -> Result:
        """What a job that succeeded has made.

        Raises:
            NotFound: `reconstruction_not_found`.
            Conflict: `reconstruction_not_ended`.
        """
        folder = self._known(job_id)
        if folder.status().state != "succeeded":
            raise Conflict("The reconstruction has not succeeded, or not yet.", code="reconstruction_not_ended")
        return await asyncio.to_thread(_result, folder)

    async def discard(self, job_id: str) -> None:
        """Ends a job and deletes its folder; one that is not there is gone already."""
        self._pause(job_id)
        await asyncio.to_thread(shutil.rmtree, self._folder(job_id).root, ignore_errors=True)

    async def stats(self) -> ReconstructionStats:
        """How busy the replica is."""
        return ReconstructionStats(len(self._running), len(self._waiting), self._count())

    async def check_health(self) -> None:
        """Called by Ray Serve every ten seconds, which is also when folders past their time are swept.

        Raises:
            Unavailable: the folder is gone.
        """
        self._lock.check()
        await asyncio.to_thread(self._sweep)
        await self._gpu.report()

    async def close(self) -> None:
        """Ends the processes; what they had finished stays."""
        if self._tending is not None:
            self._tending.cancel()
        for job_id in list(self._running):
            self._pause(job_id)
        self._lock.release()

    async def _tend_always(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._tend()

    def _tend(self) -> None:
        """Looks at every process, pauses what nobody follows, and begins what waits."""
        now = self._clock()
        for job_id in [*self._running, *self._waiting]:
            if now - self._followed.get(job_id, now) > _PATIENCE_S:
                self._pause(job_id)
        for job_id, child in list(self._running.items()):
            if child.look().ended:
                del self._running[job_id]
        while self._waiting and len(self._running) < self._model.concurrency:
            job_id = self._waiting.pop(0)
            child = Child(self._folder(job_id), self._model.placement.threads)
            child.begin()
            self._running[job_id] = child

    def _pause(self, job_id: str) -> None:
        if job_id in self._waiting:
            self._waiting.remove(job_id)
        child = self._running.pop(job_id, None)
        if child is not None:
            child.stop()
        self._followed.pop(job_id, None)

    def _bounded(self, spec: Spec) -> Spec:
        model = self._model
        return replace(
            spec,
            max_photos=min(spec.max_photos, model.max_photos),
            max_side=min(spec.max_side, model.max_side),
            threads=model.placement.threads,
            # Those that run at once share what the deployment has been given.
            gpu_memory_gb=model.gpu_memory_gb / model.concurrency,
        )

    def _folder(self, job_id: str) -> WorkFolder:
        if not _ID.fullmatch(job_id):
            raise NotFound(f"There is no reconstruction {job_id[:80]!r}.", code="reconstruction_not_found", param="id")
        return WorkFolder(self._root / job_id)

    def _known(self, job_id: str) -> WorkFolder:
        folder = self._folder(job_id)
        if not folder.exists:
            raise NotFound(f"There is no reconstruction {job_id!r}.", code="reconstruction_not_found", param="id")
        return folder

    def _count(self) -> int:
        return sum(path.is_dir() for path in self._root.iterdir())

    def _make_room(self) -> None:
        """Deletes the folder that ended first.

        Raises:
            OutOfCapacity: none has ended.
        """
        ended = [
            path
            for path in self._root.iterdir()
            if path.name not in self._running and WorkFolder(path).exists and WorkFolder(path).status().ended
        ]
        if not ended:
            raise OutOfCapacity(f"{_MOST_FOLDERS} reconstructions are kept already, and none of them has ended.")
        shutil.rmtree(min(ended, key=lambda path: (path / "status.json").stat().st_mtime), ignore_errors=True)

    def _sweep(self) -> None:
        """Deletes folders that were not worked on for their time."""
        for path in self._root.iterdir():
            if path.name in self._running or path.name in self._waiting or not (path / "status.json").exists():
                continue
            if self._clock() - (path / "status.json").stat().st_mtime > self._model.keep_s:
                shutil.rmtree(path, ignore_errors=True)


def _result(folder: WorkFolder) -> Result:
    report: dict[str, Any] = read_json(folder.root / "report.json")
    x, y, z = report["scene"]["up"]
    return Result(
        report["scene"]["kind"],
        folder.scene.read_bytes(),
        folder.turntable.read_bytes(),
        report,
        int(report["training"]["gaussians"]),
        (x, y, z),
    )
