"""The job store on a real folder: who may run a job, what is kept of it, and when it is forgotten."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.jobs.rules import Rules, after_failure, after_lost_lease
from deployments.jobs.store import REMEMBERED_S, JobStore
from deployments.jobs.types import Claim, Failure, Job, NewJob, Progress
from deployments.sqlite_store import FILE_NAME
from serve.errors import ArgusError, Conflict, NotFound, OutOfCapacity, Overloaded

PLENTY = 1 << 30
LEASE_S = 30.0
BROKEN = Failure("ModelFailed", "model_failed", "It broke: \ud800.", "video")


class Clock:
    """Unix time that moves when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ended() -> list[Job]:
    return []


@pytest.fixture
def store(tmp_path: Path, clock: Clock, ended: list[Job]) -> Iterator[JobStore]:
    made = open_store(tmp_path, clock, on_end=ended.append)
    yield made
    made.close()


def open_store(
    folder: Path,
    clock: Callable[[], float],
    *,
    jobs: int = 100,
    active: int = 50,
    size: int = PLENTY,
    attempts: int = 3,
    on_end: Callable[[Job], None] = lambda job: None,
) -> JobStore:
    return JobStore(
        folder,
        max_jobs=jobs,
        max_active=active,
        max_bytes=size,
        rules=Rules(attempts),
        on_end=on_end,
        clock=clock,
        jitter=lambda: 0.5,
    )


def new(name: str = "a", owner: str = "ann", **changes: Any) -> NewJob:
    job = NewJob(f"job_{name}", owner, "sing", None, b"digest", b'{"song": "x"}', (b"one", b"two"), 60.0)
    return replace(job, **changes)


def claimed(store: JobStore, token: str = "t") -> Claim:
    claim = store.claim(token, LEASE_S)
    assert claim is not None
    return claim


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(ArgusError) as caught:
        call()
    return caught.value.code


def test_a_job_is_submitted_run_and_forgotten(store: JobStore, clock: Clock, ended: list[Job]) -> None:
    job = store.submit(new())
    assert (job.state, job.attempts, job.created_at, job.started_at) == ("queued", 0, clock.now, None)
    clock.now += 1
    claim = claimed(store)
    assert (claim.job.id, claim.job.state, claim.job.attempts) == ("job_a", "running", 1)
    assert (claim.fields, claim.media, dict(claim.chunks)) == (b'{"song": "x"}', (b"one", b"two"), {})
    assert claim.job.started_at == clock.now and store.claim("other", LEASE_S) is None
    store.checkpoint("job_a", "t", LEASE_S, "0", b"la", Progress("singing", 1, 2))
    assert store.get("job_a", "ann").progress == Progress("singing", 1, 2)
    clock.now += 1
    done = store.finish("job_a", "t", b'"la la"')
    assert (done.state, done.ended_at, done.expires_at) == ("succeeded", clock.now, clock.now + 60)
    assert done.progress.done == 2 and ended == [done]
    assert store.result("job_a", "ann") == (done, b'"la la"')
    clock.now += 60
    assert store.get("job_a", "ann").state == "expired" and store.result("job_a", "ann")[1] is None
    assert store.sweep() == 1 and store.sweep() == 0
    assert store.get("job_a", "ann").state == "expired" and store.states() == {"expired": 1}
    clock.now += REMEMBERED_S
    assert store.sweep() == 1 and code_of(lambda: store.get("job_a", "ann")) == "job_not_found"


def test_everything_survives_a_reopening(tmp_path: Path, clock: Clock) -> None:
    store = open_store(tmp_path, clock)
    store.submit(new("queued"))
    clock.now += 1
    store.submit(new("other", "bob"))
    claimed(store)
    store.checkpoint("job_queued", "t", LEASE_S, "0", b"part", Progress("s", 1, 4))
    before = store.get("job_queued", "ann"), store.get("job_other", "bob")
    store.close()
    store = open_store(tmp_path, clock)
    assert (store.get("job_queued", "ann"), store.get("job_other", "bob")) == before
    store.beat("job_queued", "t", LEASE_S, Progress("s", 2, 4))  # its worker has lived on
    assert claimed(store, "u").job.id == "job_other"
    clock.now += LEASE_S
    resumed = claimed(store, "v")
    assert (resumed.job.attempts, dict(resumed.chunks)) == (2, {"0": b"part"})
    store.close()


def test_what_a_job_was_made_of_goes_with_its_end(store: JobStore) -> None:
    big = bytes(1 << 20)
    before = store.stats().bytes
    for name, end in {
        "done": lambda: store.finish("job_done", "t", b"1"),
        "failed": lambda: store.fail("job_failed", "t", BROKEN, None),
        "cancelled": lambda: (store.cancel("job_cancelled", "ann"), store.release("job_cancelled", "t")),
        "deleted": lambda: store.delete("job_deleted", "ann"),
    }.items():
        store.submit(new(name, media=(big,)))
        claimed(store)
        store.checkpoint(f"job_{name}", "t", LEASE_S, "0", big, Progress())
        assert store.stats().bytes > before + 1.9 * len(big)
        end()
        assert store.stats().bytes < before + len(big) // 2


def test_a_worker_that_lives_keeps_its_job_and_one_that_does_not_loses_it(store: JobStore, clock: Clock) -> None:
    store.submit(new())
    claimed(store)
    for _ in range(4):
        clock.now += LEASE_S - 1
        assert store.claim("other", LEASE_S) is None
        assert not store.beat("job_a", "t", LEASE_S, Progress())
    clock.now += LEASE_S
    assert claimed(store, "other").job.attempts == 2
    for call in (
        lambda: store.beat("job_a", "t", LEASE_S, Progress()),
        lambda: store.checkpoint("job_a", "t", LEASE_S, "0", b"late", Progress()),
        lambda: store.finish("job_a", "t", b"late"),
        lambda: store.fail("job_a", "t", BROKEN, 0.0),
        lambda: store.release("job_a", "t"),
    ):
        assert code_of(call) == "lease_lost"
    assert store.finish("job_a", "other", b"2").state == "succeeded"
    assert store.result("job_a", "ann")[1] == b"2"


def test_a_late_worker_may_go_on_while_nobody_else_has_begun(store: JobStore, clock: Clock) -> None:
    store.submit(new())
    claimed(store)
    clock.now += 2 * LEASE_S
    assert store.recover() == 1 and store.get("job_a", "ann").state == "queued"
    assert not store.beat("job_a", "t", LEASE_S, Progress("s", 1, 2))
    assert store.get("job_a", "ann").state == "running" and store.claim("other", LEASE_S) is None
    clock.now += 2 * LEASE_S
    store.recover()
    assert store.finish("job_a", "t", b"1").state == "succeeded"


def test_a_claim_leaves_out_what_its_worker_has_no_room_for(store: JobStore, clock: Clock) -> None:
    for name, owner, operation in (
        ("old", "ann", "build"),
        ("first", "ann", "sing"),
        ("second", "ann", "dance"),
        ("third", "bob", "sing"),
    ):
        store.submit(new(name, owner, operation=operation))
        clock.now += 1
    assert store.claim("t", LEASE_S, ("build", "sing", "dance")) is None
    order = [store.claim(f"t{number}", LEASE_S, ("build",)) for number in range(4)]
    # The oldest of the client with the fewest running, as without it.
    assert [claim and claim.job.id for claim in order] == ["job_first", "job_third", "job_second", None]
    again = store.claim("t0", LEASE_S, ("build", "sing"))  # its answer was lost
    assert again is not None and again.job.id == "job_first"
    assert claimed(store, "t9").job.id == "job_old"


def test_calls_may_be_sent_twice(store: JobStore, ended: list[Job]) -> None:
    assert store.submit(new()) == store.submit(new()) and store.stats().entries == 1
    assert claimed(store) == claimed(store) and store.get("job_a", "ann").attempts == 1
    for _ in range(2):
        store.checkpoint("job_a", "t", LEASE_S, "0", b"part", Progress("s", 1, 1))
    assert store.finish("job_a", "t", b"1") == store.finish("job_a", "t", b"1") and len(ended) == 1
    store.submit(new("b"))
    assert store.cancel("job_b", "ann") == store.cancel("job_b", "ann") and len(ended) == 2


def test_a_failed_attempt_is_tried_again_later_and_not_for_ever(
    store: JobStore, clock: Clock, ended: list[Job]
) -> None:
    store.submit(new())
    for attempt, pause in enumerate((0.5, 1.0), 1):
        claimed(store)
        job = store.fail("job_a", "t", BROKEN, 0.0)
        assert (job.state, job.failure, job.attempts) == ("queued", BROKEN, attempt)
        assert store.claim("t", LEASE_S) is None
        clock.now += pause
    assert claimed(store).job.failure is None
    job = store.fail("job_a", "t", BROKEN, 0.0)
    assert (job.state, job.failure, ended) == ("failed", BROKEN, [job])


def test_an_attempt_that_finished_a_part_is_none_of_the_fruitless_ones(store: JobStore, clock: Clock) -> None:
    store.submit(new())
    for part in range(10):  # with three attempts allowed
        claimed(store)
        store.checkpoint("job_a", "t", LEASE_S, str(part), b"1", Progress("s", part, 10))
        clock.now += LEASE_S
    assert claimed(store).job.attempts == 11


def test_a_job_that_kills_its_workers_fails_and_blocks_nobody(store: JobStore, clock: Clock, ended: list[Job]) -> None:
    store.submit(new("poison"))
    for _ in range(3):
        assert claimed(store).job.id == "job_poison"
        clock.now += LEASE_S
    store.submit(new("good"))
    assert claimed(store).job.id == "job_good"
    job = store.get("job_poison", "ann")
    assert job.state == "failed" and job.failure is not None and job.failure.code == "job_abandoned"
    assert ended == [job]


def test_a_released_job_can_be_begun_at_once_and_as_often_as_workers_end(store: JobStore, clock: Clock) -> None:
    store.submit(new())
    for attempt in range(1, 8):
        assert claimed(store).job.attempts == attempt
        assert store.release("job_a", "t").state == "queued"
    for _ in range(3):  # none of those counts among the attempts that it has left
        claimed(store)
        clock.now += LEASE_S
    store.recover()
    assert store.get("job_a", "ann").state == "failed" and store.get("job_a", "ann").attempts == 10


def test_who_gave_a_job_back_has_it_no_more(store: JobStore, clock: Clock) -> None:
    store.submit(new())
    for give_back in (lambda: store.fail("job_a", "t", BROKEN, 0.0), lambda: store.release("job_a", "t")):
        claimed(store)
        give_back()
        assert code_of(lambda: store.beat("job_a", "t", LEASE_S, Progress())) == "lease_lost"
        assert code_of(lambda: store.finish("job_a", "t", b"1")) == "lease_lost"
        assert store.get("job_a", "ann").state == "queued"
        clock.now += 60


def test_cancelling(store: JobStore, clock: Clock, ended: list[Job]) -> None:
    store.submit(new("queued"))
    assert store.cancel("job_queued", "ann").state == "cancelled" and store.claim("t", LEASE_S) is None
    for name, end in {
        "told": lambda: store.release("job_told", "t"),
        "failing": lambda: store.fail("job_failing", "t", BROKEN, 0.0),
    }.items():
        store.submit(new(name))
        claimed(store)
        running = store.cancel(f"job_{name}", "ann")
        assert (running.state, running.cancelling) == ("running", True)
        assert store.beat(f"job_{name}", "t", LEASE_S, Progress())
        assert end().state == "cancelled"
    store.submit(new("dead"))
    claimed(store)
    store.cancel("job_dead", "ann")
    clock.now += LEASE_S
    assert store.recover() == 1 and store.get("job_dead", "ann").state == "cancelled"
    store.submit(new("faster"))
    claimed(store)
    store.cancel("job_faster", "ann")
    assert store.finish("job_faster", "t", b"1").state == "succeeded"
    assert store.cancel("job_faster", "ann").state == "succeeded"  # what has ended stays as it is
    assert [job.state for job in ended] == ["cancelled"] * 4 + ["succeeded"]


def test_a_deleted_job_is_lost_to_its_worker(store: JobStore) -> None:
    store.submit(new())
    claimed(store)
    store.delete("job_a", "ann")
    assert code_of(lambda: store.beat("job_a", "t", LEASE_S, Progress())) == "lease_lost"
    assert store.stats().entries == 0


def test_clients_see_their_own(store: JobStore, clock: Clock) -> None:
    for i, owner in enumerate(("ann", "bob", "ann", "ann")):
        store.submit(new(str(i), owner))
        clock.now += 1
    for call in (store.get, store.result, store.cancel, store.delete):
        with pytest.raises(NotFound) as caught:
            call("job_1", "ann")
        assert (caught.value.code, caught.value.param) == ("job_not_found", "id")
    assert [job.id for job in store.list_jobs("ann", None, 2)] == ["job_3", "job_2"]
    assert [job.id for job in store.list_jobs("ann", "job_2", 9)] == ["job_0"]
    for after in ("job_gone", "job_1"):  # neither is the end of her list
        with pytest.raises(NotFound) as caught:
            store.list_jobs("ann", after, 9)
        assert (caught.value.code, caught.value.param) == ("job_not_found", "after")


def test_a_queue_of_one_client_delays_no_other(store: JobStore, clock: Clock) -> None:
    for i in range(3):
        store.submit(new(f"ann{i}"))
        clock.now += 1
    store.submit(new("bob", "bob"))
    assert [claimed(store, str(i)).job.id for i in range(4)] == ["job_ann0", "job_bob", "job_ann1", "job_ann2"]


def test_a_key_names_one_request_of_one_client(store: JobStore) -> None:
    assert store.find("ann", "k", b"digest") is None
    job = store.submit(new("a", key="k"))
    assert store.find("ann", "k", b"digest") == job == store.submit(new("b", key="k"))
    for call in (lambda: store.find("ann", "k", b"x"), lambda: store.submit(new("c", key="k", digest=b"x"))):
        assert code_of(call) == "idempotency_conflict"
    assert store.submit(new("d", "bob", key="k")).id == "job_d"
    assert store.submit(new("e")).id == "job_e" and store.submit(new("f")).id == "job_f"


def test_two_jobs_do_not_make_the_same_unless_one_insists(store: JobStore) -> None:
    one = store.submit(new("one", makes="scene room"))
    assert code_of(lambda: store.submit(new("two", "bob", makes="scene room"))) == "in_the_making"
    assert store.submit(new("one", makes="scene room")) == one  # sent again
    store.submit(new("other", makes="scene hall"))
    store.submit(new("none"))
    insisting = store.submit(new("insisting", "bob", makes="scene room", insists=True))
    for job in (one, insisting):  # it is taken until both have ended
        assert code_of(lambda: store.submit(new("late", makes="scene room"))) == "in_the_making"
        store.cancel(job.id, job.owner)
    assert store.submit(new("late", makes="scene room")).state == "queued"


def test_a_running_job_that_is_to_end_is_in_nobodys_way(store: JobStore) -> None:
    store.submit(new("one", makes="scene room"))
    claimed(store)
    assert code_of(lambda: store.submit(new("two", makes="scene room"))) == "in_the_making"
    assert store.cancel("job_one", "ann").state == "running"
    store.submit(new("two", makes="scene room"))


def test_a_store_of_an_earlier_build_goes_on(tmp_path: Path, clock: Clock) -> None:
    store = open_store(tmp_path, clock)
    before = store.submit(new("before"))
    store.close()
    database = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    database.executescript("DROP INDEX jobs_by_makes; ALTER TABLE jobs DROP COLUMN makes; PRAGMA user_version = 1;")
    database.close()
    store = open_store(tmp_path, clock)
    assert store.get("job_before", "ann") == before
    store.submit(new("after", makes="scene room"))
    assert code_of(lambda: store.submit(new("again", makes="scene room"))) == "in_the_making"
    store.close()
    open_store(tmp_path, clock).close()


def test_a_client_has_so_many_jobs_under_way(tmp_path: Path, clock: Clock) -> None:
    store = open_store(tmp_path, clock, active=2)
    store.submit(new("a"))
    claimed(store)
    store.submit(new("b"))
    with pytest.raises(Overloaded) as caught:
        store.submit(new("c"))
    assert caught.value.code == "too_many_jobs" and caught.value.retry_after_s
    store.submit(new("d", "bob"))
    store.finish("job_a", "t", b"1")
    assert store.submit(new("c")).state == "queued"
    store.close()


def test_a_full_store_forgets_what_has_expired_and_nothing_else(tmp_path: Path, clock: Clock) -> None:
    store = open_store(tmp_path, clock, jobs=2)
    for name in "ab":
        store.submit(new(name))
        claimed(store)
        store.finish(f"job_{name}", "t", b"1")
        clock.now += 20
    with pytest.raises(OutOfCapacity):
        store.submit(new("c"))
    clock.now += 20
    store.submit(new("c"))
    assert code_of(lambda: store.get("job_a", "ann")) == "job_not_found"
    assert store.result("job_b", "ann")[1] == b"1"
    store.close()


def test_requests_leave_room_for_results(tmp_path: Path, clock: Clock) -> None:
    size = 4 << 20
    store = open_store(tmp_path, clock, size=size)
    with pytest.raises(OutOfCapacity):
        store.submit(new("big", media=(bytes(size),)))
    names = iter(map(str, range(99)))
    with pytest.raises(OutOfCapacity):
        while True:
            store.submit(new(next(names), media=(bytes(size // 8),)))
    assert 5 <= store.stats().entries <= 6
    claim = claimed(store)
    store.finish(claim.job.id, "t", bytes(size // 8))
    store.submit(new("again", media=(bytes(100),)))
    other = claimed(store)
    with pytest.raises(OutOfCapacity):
        store.checkpoint(other.job.id, "t", LEASE_S, "0", bytes(size), Progress())
    assert store.get(other.job.id, "ann").state == "running"
    store.close()


def test_versions_grow_with_what_a_client_can_see(store: JobStore) -> None:
    versions = [store.submit(new()).version]

    def look() -> int:
        versions.append(store.get("job_a", "ann").version)
        return versions[-1] - versions[-2]

    claimed(store)
    assert look() == 1
    store.beat("job_a", "t", LEASE_S, Progress("s", 0, 2))
    assert look() == 1
    store.beat("job_a", "t", LEASE_S, Progress("s", 0, 2))
    assert look() == 0
    store.cancel("job_a", "ann")
    store.cancel("job_a", "ann")
    assert look() == 1
    store.finish("job_a", "t", b"1")
    assert look() == 1


def test_the_longest_wait_is_that_of_jobs_that_could_run(store: JobStore, clock: Clock) -> None:
    assert store.queue_age_s() == 0
    store.submit(new("a"))
    clock.now += 5
    assert store.queue_age_s() == 5
    claimed(store)
    assert store.queue_age_s() == 0
    store.fail("job_a", "t", BROKEN, 10.0)
    clock.now += 10
    assert store.queue_age_s() == 0  # it still has its pause
    clock.now += 1
    assert store.queue_age_s() == 0.5


def test_the_rule_after_a_failure() -> None:
    rules = Rules(max_attempts=4, first_pause_s=1, max_pause_s=3, max_asked_s=100)

    def ready(fruitless: int, asked: float | None, jitter: float = 1.0) -> float | str:
        verdict = after_failure(BROKEN, fruitless, 50.0, rules, retry_after_s=asked, jitter=jitter)
        return verdict.ready_at - 50 if verdict.state == "queued" else verdict.state

    assert [ready(n, 0.0) for n in (0, 1, 2, 3, 4)] == [1, 1, 2, 3, "failed"]
    assert ready(1, 0.0, jitter=0.0) == 0
    assert [ready(1, asked) for asked in (None, 7.0, 100.0, 101.0)] == ["failed", 8, 101, "failed"]


def test_the_rule_after_silence() -> None:
    rules = Rules(max_attempts=2)
    assert [after_lost_lease(False, n, 9.0, rules).state for n in (0, 1, 2, 3)] == [
        "queued",
        "queued",
        "failed",
        "failed",
    ]
    assert after_lost_lease(True, 3, 9.0, rules).state == "cancelled"
    assert after_lost_lease(False, 1, 9.0, rules).ready_at == 9.0


def test_a_folder_has_one_store(tmp_path: Path, clock: Clock) -> None:
    store = open_store(tmp_path, clock)
    with pytest.raises(Conflict):
        open_store(tmp_path, clock)
    store.close()
