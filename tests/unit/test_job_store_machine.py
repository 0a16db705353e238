"""Workers that come, die, come back late and finish, in any order: what holds for the job store whatever they do."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from deployments.jobs.rules import Rules
from deployments.jobs.store import JobStore
from deployments.jobs.types import ENDED, Failure, Job, NewJob, Progress
from serve.errors import Conflict

LEASE_S = 10.0
ATTEMPTS = 3
JOBS = st.integers(0, 2).map(lambda number: f"job_{number}")
WORKERS = st.sampled_from("xyz")
BROKEN = Failure("Unavailable", "unavailable", "Away.")


class Workers(RuleBasedStateMachine):
    """A few workers and jobs. A worker's token is its name and the number of its claim."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now = 0.0
        self.ended: list[Job] = []
        self.holder: dict[str, str] = {}  # the last to be given a job
        self.hands: dict[str, set[str]] = {name: set() for name in "xyz"}  # jobs a worker believes to have, as tokens
        self.parts: dict[str, dict[str, bytes]] = {}
        self.fruitless: dict[str, int] = {}
        self.claims = 0
        self.open()

    def open(self) -> None:
        self.store = JobStore(
            self.folder,
            max_jobs=10,
            max_active=10,
            max_bytes=1 << 30,
            rules=Rules(ATTEMPTS),
            on_end=self.ended.append,
            clock=lambda: self.now,
            jitter=lambda: 0.0,
        )

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(job=JOBS)
    def submit(self, job: str) -> None:
        self.store.submit(NewJob(job, "ann", "sing", None, b"", b"{}", (), 1e9))
        self.parts.setdefault(job, {})

    @rule(worker=WORKERS)
    def claim(self, worker: str) -> None:
        self.claims += 1
        token = f"{worker}{self.claims}"
        claim = self.store.claim(token, LEASE_S)
        if claim is None:
            return
        job = claim.job.id
        assert dict(claim.chunks) == self.parts[job], "a part that was acknowledged is there"
        self.fruitless[job] = self.fruitless.get(job, 0) + 1
        assert self.fruitless[job] <= ATTEMPTS
        self.holder[job] = token
        self.hands[worker].add(f"{job}/{token}")

    @rule(worker=WORKERS, deed=st.sampled_from(["beat", "part", "finish", "fail", "release"]), data=st.data())
    def work(self, worker: str, deed: str, data: st.DataObject) -> None:
        if not self.hands[worker]:
            return
        held = data.draw(st.sampled_from(sorted(self.hands[worker])))
        job, token = held.split("/")
        before = self.store.get(job, "ann")
        try:
            self.do(deed, job, token)
        except Conflict:
            self.hands[worker].discard(held)
            return
        assert self.holder[job] == token, "only the last that was given a job can say anything of it"
        assert before.state not in ENDED or (deed == "finish" and before.state == "succeeded")
        if deed in ("finish", "fail", "release"):
            self.hands[worker].discard(held)

    def do(self, deed: str, job: str, token: str) -> None:
        if deed == "beat":
            self.store.beat(job, token, LEASE_S, Progress())
        elif deed == "part":
            key = str(len(self.parts[job]))
            self.store.checkpoint(job, token, LEASE_S, key, token.encode(), Progress())
            self.parts[job][key] = token.encode()
            self.fruitless[job] = 0
        elif deed == "finish":
            self.store.finish(job, token, token.encode())
        elif deed == "fail":
            self.store.fail(job, token, BROKEN, 0.0)
        else:
            self.store.release(job, token)
            self.fruitless[job] = max(0, self.fruitless[job] - 1)

    @rule(job=JOBS)
    def cancel(self, job: str) -> None:
        if job in self.parts:
            self.store.cancel(job, "ann")

    @rule(seconds=st.sampled_from([1.0, LEASE_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.open()

    @invariant()
    def ends_once(self) -> None:
        told = [job.id for job in self.ended]
        assert len(told) == len(set(told))
        for job in self.ended:
            assert self.store.get(job.id, "ann") == job, "an end is final"
        assert sum(self.store.states().values()) == len(self.parts)


Workers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWorkers = Workers.TestCase
