"""A router whose reconstructions follow a script, over a real job store."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Literal

from deployments.reconstruction.messages import Result, Spec, Status
from serve.context import RequestContext
from serve.errors import NotFound
from serve.jobs.runner import JobRunner
from serve.protocol.job_operations import operations
from tests.unit.fakes import Site, cluster
from tests.unit.local_stores import LocalStore
from tests.unit.scene_site import MODELS, FakeSceneStore

REPORT = {"evaluation": {"held_out": True, "psnr": 27.5, "ssim": 0.9, "lpips": None}, "training": {"gaussians": 5}}


class FakeModel:
    """A `ModelHandle` of a reconstruction replica: every job shows the statuses of a script, one each time it is asked.

    Attributes:
        started: specs and media, by job.
        names: of the photos, by job.
        last: where the script stands still; None for its end.
        kind: of the scenes that it makes.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets what a test did."""
        advice = ("2 photos are too dark: a.jpg, b.jpg.",)
        training = Status("running", "training", 40, 100, 0.5, 12.3, 10.0, 3, 1, advice=advice)
        self.script = [
            Status("queued"),
            Status("running", "features", 3, 10, 0.05, None, 1.0, 0, 1),
            training,
            replace(training, state="succeeded", stage="export", fraction=1.0, eta_s=0.0),
        ]
        self.started: dict[str, tuple[Spec, tuple[bytes, ...]]] = {}
        self.names: dict[str, tuple[str, ...]] = {}
        self.at: dict[str, int] = {}
        self.cancelled: list[str] = []
        self.failing: list[Exception] = []
        self.last: int | None = None
        self.kind: Literal["gaussians", "nerf"] = "gaussians"

    async def call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        context.remaining_s()
        await asyncio.sleep(0)
        if self.failing and method == "follow":
            raise self.failing.pop(0)
        return getattr(self, f"_{method}")(*args)

    def _start(self, job: str, spec: Spec, media: tuple[bytes, ...], names: tuple[str, ...] = ()) -> Status:
        self.started.setdefault(job, (spec, tuple(media)))
        self.names.setdefault(job, tuple(names))
        self.at.setdefault(job, 0)
        return self._status(job)

    def _follow(self, job: str) -> Status:
        last = len(self.script) - 1 if self.last is None else self.last
        self.at[job] = min(self.at[job] + 1, max(self.at[job], last))
        return self._status(job)

    def _status(self, job: str) -> Status:
        if job not in self.at:
            raise NotFound("There is no such job.", code="reconstruction_not_found", param="id")
        return self.script[self.at[job]]

    def _preview(self, job: str) -> bytes:
        if self._status(job).preview == 0:
            raise NotFound("Not yet.", code="no_preview_yet")
        return b"\xff\xd8\xffpreview"

    def _cancel(self, job: str) -> Status:
        self.cancelled.append(job)
        return self._status(job)

    def _result(self, job: str) -> Result:
        assert self._status(job).state == "succeeded"
        return Result(self.kind, b"scene", b"film", REPORT, 5, (0.0, -1.0, 0.0))


class ReconstructionSite(Site):
    """A site with jobs; a new store of them for each test."""

    def __init__(self) -> None:
        self.jobs, self.scenes, self.reconstruction = LocalStore(None), FakeSceneStore(), FakeModel()
        models = {**MODELS, "jobs": {"kind": "job_store"}} | {
            "reconstruction": {"kind": "reconstruction", "scenes": "scenes", "max_photos": 4}
        }
        more = {"jobs": self.jobs, "scenes": self.scenes, "reconstruction": self.reconstruction}
        super().__init__(cluster(models=models, keys=True), more=more)

    def reset(self) -> None:
        super().reset()
        self.scenes.reset()
        self.reconstruction.reset()

    def runner(self) -> JobRunner:
        return JobRunner(self.services.jobs, operations(self.services), look_s=0.02, beat_s=0.02)
