"""Runners over a real job store: what is run, resumed, tried again, cancelled and given back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from deployments.jobs.replica import JobStoreReplica
from deployments.jobs.types import ENDED, Job, Progress, State
from serve.config.models import JobStoreModel
from serve.context import RequestContext
from serve.errors import (
    ArgusError,
    DeadlineExceeded,
    InvalidMedia,
    ModelFailed,
    OutOfCapacity,
    Overloaded,
    Unavailable,
)
from serve.jobs.failures import restored, retry_after_s, stored
from serve.jobs.operation import JobInput, Report
from serve.jobs.runner import JobRunner
from serve.jobs.service import JobService
from serve.media.source import MediaBytes
from tests.unit.local_stores import LocalStore


class Clock:
    """Unix time of the store; leases and pauses pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Counting:
    """An operation that counts to a number, a part each.

    Attributes:
        asked: parts that were worked on, by anybody.
        stop: where it waits, until the test lets it go.
        raises: what it meets at a part, each time that it gets there.
    """

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.contexts: list[RequestContext] = []
        self.stop: int | None = None
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        self.raises: dict[int, list[Exception]] = {}
        self.cancelled = 0
        self.ended = asyncio.Event()

    async def admit(
        self, fields: Mapping[str, Any], files: Sequence[tuple[str, MediaBytes]], context: RequestContext
    ) -> JobInput:
        raise NotImplementedError

    async def run(
        self, given: JobInput, context: RequestContext, report: Report, done: Mapping[str, Any]
    ) -> dict[str, Any]:
        self.contexts.append(context)
        total, found = given.fields["to"], dict(done)
        await report(Progress("counting", len(found), total))
        for number in range(total):
            if str(number) in found:
                continue
            if number == self.stop:
                self.reached.set()
                try:
                    await self.go.wait()
                except asyncio.CancelledError:
                    self.cancelled += 1
                    self.ended.set()
                    raise
            self.asked.append(number)
            if self.raises.get(number):
                raise self.raises[number].pop(0)
            found[str(number)] = number * given.fields.get("by", 1)
            await report(Progress("counting", len(found), total), str(number), found[str(number)])
        return {"numbers": [found[str(number)] for number in range(total)], "media": [len(m) for m in given.media]}


class Bench:
    """A store and as many runners as a test starts."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.clock = Clock()
        self.settings = JobStoreModel.model_validate({"kind": "job_store", "path": str(folder), **settings})
        self.store = LocalStore(JobStoreReplica(self.settings, self.clock))
        self.counting = Counting()
        self.jobs = self.service()

    def service(self) -> JobService:
        return JobService(self.store, self.settings)

    def runner(self, **operations: Any) -> JobRunner:
        return JobRunner(self.service(), {"count": self.counting, **operations}, look_s=0.02, beat_s=0.02)

    async def submit(self, to: int = 3, operation: str = "count", owner: str = "ann", **fields: Any) -> str:
        given = JobInput({"to": to, **fields}, (b"one", b"three"))
        return (await self.jobs.submit(operation, given, context(owner), digest=b"")).id

    async def job(self, job_id: str, owner: str = "ann") -> Job:
        return (await self.jobs.get(job_id, context(owner)))[0]

    async def until(self, job_id: str, is_so: Callable[[Job], bool]) -> Job:
        """The job, once it is so; pauses of the store pass meanwhile."""
        async with asyncio.timeout(60):
            while not is_so(job := await self.job(job_id)):
                self.clock.now += 0.1
                await asyncio.sleep(0.01)
        return job

    async def ended(self, job_id: str) -> tuple[State, Any]:
        job = await self.until(job_id, lambda job: job.state in ENDED)
        _, result = await self.jobs.get(job_id, context())
        return job.state, None if result is None else json.loads(result)


def context(owner: str = "ann") -> RequestContext:
    return RequestContext("test", owner, time.monotonic() + 30)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.store.replica.close()


async def test_a_job_runs_to_its_result(bench: Bench) -> None:
    async with bench.runner().started():
        job_id = await bench.submit(3, by=2)
        assert await bench.ended(job_id) == ("succeeded", {"numbers": [0, 2, 4], "media": [3, 5]})
    job = await bench.job(job_id)
    assert (job.progress, job.attempts, job.failure) == (Progress("counting", 3, 3), 1, None)
    (asked,) = bench.counting.contexts
    assert (asked.request_id, asked.client, asked.priority) == (job_id, "ann", "low")
    assert bench.settings.max_job_s - 20 < asked.left_s() <= bench.settings.max_job_s


async def test_a_runner_that_is_gone_leaves_its_parts_to_the_next(bench: Bench) -> None:
    bench.counting.stop = 2
    job_id = await bench.submit(5)
    dead = asyncio.create_task(hold_open(bench.runner()))
    await bench.counting.reached.wait()
    bench.store.failing["release"] = [ConnectionError()]  # it dies without a word
    dead.cancel()
    await asyncio.wait([dead])
    assert (await bench.job(job_id)).state == "running"
    bench.counting.stop = None
    async with bench.runner().started():
        bench.clock.now += bench.settings.lease_s
        assert await bench.ended(job_id) == ("succeeded", {"numbers": [0, 1, 2, 3, 4], "media": [3, 5]})
    assert bench.counting.asked == [0, 1, 2, 3, 4] and (await bench.job(job_id)).attempts == 2


async def test_a_runner_that_stops_gives_its_jobs_back_at_once(bench: Bench) -> None:
    bench.counting.stop = 1
    job_id = await bench.submit()
    async with bench.runner().started():
        await bench.counting.reached.wait()
    job = await bench.job(job_id)
    assert (job.state, job.attempts) == ("queued", 1) and bench.counting.cancelled == 1
    bench.counting.stop = None
    async with bench.runner().started():
        assert (await bench.ended(job_id))[0] == "succeeded"
    assert bench.counting.asked == [0, 1, 2]


async def test_two_runners_share_the_work_and_do_nothing_twice(bench: Bench) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(bench.runner().started())
        made = [await bench.submit(4) for _ in range(12)]
        assert {(await bench.ended(job_id))[0] for job_id in made} == {"succeeded"}
    assert sorted(bench.counting.asked) == sorted(list(range(4)) * 12)
    assert {(await bench.job(job_id)).attempts for job_id in made} == {1}


async def test_so_many_jobs_run_at_once_and_no_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path, concurrency=2)
    bench.counting.stop = 0
    async with bench.runner().started():
        made = [await bench.submit(1) for _ in range(4)]
        await bench.until(made[1], lambda job: job.state == "running")
        for _ in range(30):
            await asyncio.sleep(0.01)
        assert [(await bench.job(job_id)).state for job_id in made] == ["running", "running", "queued", "queued"]
        bench.counting.go.set()
        assert [(await bench.ended(job_id))[0] for job_id in made] == ["succeeded"] * 4
    await bench.store.replica.close()


@pytest.mark.parametrize(("waiting", "other"), [("build", "count"), ("count", "build")])
async def test_jobs_that_take_hours_and_the_others_have_places_of_their_own(
    tmp_path: Path, waiting: str, other: str
) -> None:
    bench = Bench(tmp_path, concurrency=2, long_concurrency=2)
    slow, quick = Counting(), Counting()
    slow.stop = 0
    work = {waiting: slow, other: quick}
    runner = JobRunner(bench.jobs, work, long=("build",), look_s=0.02, beat_s=0.02)
    async with runner.started():
        held = [await bench.submit(1, waiting) for _ in range(3)]
        for job_id in held[:2]:
            await bench.until(job_id, lambda job: job.state == "running")
        for _ in range(3):  # later ones, while those wait
            assert (await bench.ended(await bench.submit(1, other)))[0] == "succeeded"
        assert [(await bench.job(job_id)).state for job_id in held] == ["running", "running", "queued"]
        slow.go.set()
        assert [(await bench.ended(job_id))[0] for job_id in held] == ["succeeded"] * 3
    await bench.store.replica.close()


async def test_a_failure_that_may_pass_is_tried_again_from_the_parts(bench: Bench) -> None:
    bench.counting.raises = {1: [Unavailable("away"), Overloaded("full", retry_after_s=2.0), DeadlineExceeded("late")]}
    async with bench.runner().started():
        job_id = await bench.submit()
        assert (await bench.ended(job_id))[0] == "succeeded"
    assert bench.counting.asked == [0, 1, 1, 1, 1, 2] and (await bench.job(job_id)).attempts == 4


async def test_a_failure_that_stays_is_said_and_blocks_nobody(bench: Bench) -> None:
    bench.counting.raises = {
        7: [InvalidMedia("no video", code="invalid_video", param="video")],
        8: [ZeroDivisionError("a secret")],
        9: [Unavailable("away")] * 99,
    }
    async with bench.runner().started():
        bad, broken, poison = await bench.submit(8), await bench.submit(9), await bench.submit(10)
        good = await bench.submit(2)
        assert (await bench.ended(good))[0] == "succeeded"
        assert [(await bench.ended(job_id))[0] for job_id in (bad, broken, poison)] == ["failed"] * 3
    found = [(job.failure, job.attempts) for job in [await bench.job(job_id) for job_id in (bad, broken, poison)]]
    errors = [restored(failure) for failure, _ in found if failure is not None]
    assert [(type(error), error.code, error.param) for error in errors] == [
        (InvalidMedia, "invalid_video", "video"),
        (ArgusError, "internal", None),
        (Unavailable, "unavailable", None),
    ]
    assert "secret" not in errors[1].message
    # The last one kept its nine parts in its first attempt, which is therefore none of the fruitless ones.
    assert [attempts for _, attempts in found] == [1, 1, 1 + bench.settings.max_attempts]


async def test_a_running_job_is_cancelled(bench: Bench) -> None:
    bench.counting.stop = 1
    async with bench.runner().started():
        job_id = await bench.submit()
        await bench.counting.reached.wait()
        assert (await bench.jobs.cancel(job_id, context())).state == "running"
        assert await bench.ended(job_id) == ("cancelled", None)
        assert bench.counting.cancelled == 1
        assert (await bench.ended(await bench.submit(1)))[0] == "succeeded"  # its place is free


async def test_a_deleted_job_ends(bench: Bench) -> None:
    bench.counting.stop = 1
    async with bench.runner().started():
        job_id = await bench.submit()
        await bench.counting.reached.wait()
        await bench.jobs.delete(job_id, context())
        await asyncio.wait_for(bench.counting.ended.wait(), 60)
        assert (await bench.ended(await bench.submit(1)))[0] == "succeeded"


async def test_a_store_that_is_away_for_a_while_costs_nothing(bench: Bench) -> None:
    away = [Unavailable("restarting")] * 6  # more than one call's own retries
    bench.store.failing = {"claim": away[:], "checkpoint": away[:], "finish": away[:], "beat": away[:]}
    bench.store.lost = {"claim": [Unavailable("lost")], "checkpoint": [Unavailable("lost")]}
    async with bench.runner().started():
        job_id = await bench.submit()
        assert (await bench.ended(job_id))[0] == "succeeded"
    assert bench.counting.asked == [0, 1, 2] and (await bench.job(job_id)).attempts == 1
    assert not any(bench.store.failing[method] for method in ("claim", "checkpoint", "finish"))


async def test_a_claim_whose_answer_was_lost_is_had_again(bench: Bench) -> None:
    bench.store.lost = {"claim": [ModelFailed("lost")]}  # of a kind that no call tries again by itself
    job_id = await bench.submit()
    async with bench.runner().started():
        assert (await bench.ended(job_id))[0] == "succeeded"
    assert (await bench.job(job_id)).attempts == 1


async def test_a_job_that_takes_too_long_fails(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_job_s=0.2)
    bench.counting.stop = 1
    async with bench.runner().started():
        job_id = await bench.submit()
        assert (await bench.ended(job_id))[0] == "failed"
    job = await bench.job(job_id)
    assert job.failure is not None and job.failure.code == "job_timed_out" and job.attempts == 1
    await bench.store.replica.close()


async def test_a_result_beyond_the_bound_fails_the_job(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_result_bytes=1024)
    async with bench.runner().started():
        job_id = await bench.submit(600)
        assert (await bench.ended(job_id))[0] == "failed"
    job = await bench.job(job_id)
    assert job.failure is not None and job.failure.code == "result_too_large"
    await bench.store.replica.close()


async def test_an_operation_that_is_no_more_is_said(bench: Bench) -> None:
    async with bench.runner().started():
        job_id = await bench.submit(operation="sing")
        assert (await bench.ended(job_id))[0] == "failed"
    job = await bench.job(job_id)
    assert job.failure is not None and job.failure.code == "unknown_operation"


async def test_without_a_store_nothing_runs() -> None:
    async with JobRunner(JobService(None, None), {}).started():
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize(
    ("error", "left_s", "expected"),
    [
        (Unavailable("x"), 9, 0.0),
        (Overloaded("x", retry_after_s=3.0), 9, 3.0),
        (DeadlineExceeded("x"), 9, 0.0),
        (DeadlineExceeded("x"), 0, None),
        (ModelFailed("x"), 9, None),
        (OutOfCapacity("x"), 9, None),
        (InvalidMedia("x"), 9, None),
    ],
)
def test_what_is_worth_another_attempt(error: ArgusError, left_s: float, expected: float | None) -> None:
    assert retry_after_s(error, left_s) == expected


def test_errors_come_back_as_they_were() -> None:
    error = restored(stored(Overloaded("full", code="too_many", param="x")))
    assert (type(error), error.message, error.code, error.param) == (Overloaded, "full", "too_many", "x")
    for kind in ("IntEnum", "Gone"):  # what is no error of ours, or no more
        assert type(restored(stored(error).__class__(kind, "c", "m"))) is ArgusError


async def hold_open(runner: JobRunner) -> None:
    async with runner.started():
        await asyncio.Event().wait()
