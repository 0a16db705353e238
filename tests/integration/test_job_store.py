"""What the job store acknowledged survives: real processes, killed amid submissions, parts and results."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployments.jobs.rules import Rules
from deployments.jobs.store import JobStore
from deployments.jobs.types import Progress
from serve.errors import Conflict, NotFound

REPOSITORY = Path(__file__).parents[2]
PARTS = 3
LEASE_S = 30.0

# Three workers submit, take, and finish jobs of a few parts side by side; the medium of a job and its parts are large
# enough that writes take several pages. A line is printed only when a step was acknowledged.
WORK_FOR_EVER = f"""
import asyncio, sys
from deployments.jobs.replica import JobStoreReplica
from deployments.jobs.types import NewJob, Progress
from serve.config.models import JobStoreModel

async def worker(store, name):
    for turn in range(100_000):
        job = f"{{name}}-{{turn}}"
        await store.submit(NewJob(job, "ann", "sing", job, b"d", b"{{}}", (bytes(50_000),), 1e6))
        print("submitted", job, flush=True)
        claim = await store.claim(f"t{{job}}", {LEASE_S})
        own = claim.job.id
        for part in range({PARTS}):
            progress = Progress("singing", part + 1, {PARTS})
            await store.checkpoint(own, claim.token, {LEASE_S}, str(part), own.encode() * 2_000, progress)
            print("part", own, part, flush=True)
        await store.finish(own, claim.token, own.encode() * 5_000)
        print("finished", own, flush=True)

async def main():
    store = JobStoreReplica(JobStoreModel(kind="job_store", path=sys.argv[1], max_jobs=1_000_000))
    await asyncio.gather(*[worker(store, name) for name in "abc"])

asyncio.run(main())
"""


@contextmanager
def process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def open_store(folder: Path, clock_ahead_s: float = 0.0) -> JobStore:
    return JobStore(
        folder,
        max_jobs=1_000_000,
        max_active=1_000_000,
        max_bytes=1 << 34,
        rules=Rules(),
        clock=lambda: time.time() + clock_ahead_s,
    )


@pytest.mark.parametrize("acknowledgements", [1, 8, 57, 203])
def test_acknowledged_steps_survive_a_kill(tmp_path: Path, acknowledgements: int) -> None:
    with process(WORK_FOR_EVER, str(tmp_path)) as child:
        assert child.stdout is not None
        printed = [child.stdout.readline() for _ in range(acknowledgements)]
        with pytest.raises(Conflict):
            open_store(tmp_path)
        child.send_signal(signal.SIGKILL)
        child.wait()
        printed += child.stdout.readlines()  # acknowledged before the kill, read after it
    steps = [line.split() for line in printed if line.endswith("\n")]
    assert len(steps) >= acknowledgements

    submitted = {step[1] for step in steps if step[0] == "submitted"}
    finished = {step[1] for step in steps if step[0] == "finished"}
    parts = {(step[1], step[2]) for step in steps if step[0] == "part"}
    store = open_store(tmp_path, clock_ahead_s=2 * LEASE_S)  # at once: the lock went with its owner
    for job_id in submitted:
        job, result = store.result(job_id, "ann")
        if job_id in finished:
            assert job.state == "succeeded" and job.progress.done == PARTS
        assert (job.state == "succeeded") == (result is not None)
        assert result in (None, job_id.encode() * 5_000)

    # The rest is resumed, each job with every part that was acknowledged, and ends.
    resumed = set()
    while (claim := store.claim(f"again-{len(resumed)}", LEASE_S)) is not None:
        job_id = claim.job.id
        assert job_id not in finished and job_id not in resumed and claim.media == (bytes(50_000),)
        resumed.add(job_id)
        assert {part for known, part in parts if known == job_id} <= set(claim.chunks)
        assert all(value == job_id.encode() * 2_000 for value in claim.chunks.values())
        store.checkpoint(job_id, claim.token, LEASE_S, "last", b"1", Progress())
        assert store.finish(job_id, claim.token, b"1").state == "succeeded"
    assert submitted <= finished | resumed | {job.id for job in store.list_jobs("ann", None, 1_000_000)}
    assert set(store.states()) == {"succeeded"}
    for job_id in resumed:
        store.delete(job_id, "ann")
        with pytest.raises(NotFound):
            store.get(job_id, "ann")
    store.check()
    store.close()
