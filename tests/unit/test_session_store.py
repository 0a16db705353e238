"""The session store on a real folder: bounds, expiry, versions and leases, media, and a process killed amid appends."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.session_store import SessionStore, SessionStoreReplica
from deployments.session_types import Bounds, Exchange, MediumRef, NewSession, Session
from deployments.sqlite_store import FILE_NAME
from serve.config.models import SessionStoreModel
from serve.errors import Conflict, NotFound, OutOfCapacity, Overloaded, Unavailable

ROOT = Path(__file__).parents[2]
BOUNDS = Bounds(8, 4, 1000)
PLENTY = 1 << 30


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
def store(tmp_path: Path, clock: Clock) -> Iterator[SessionStore]:
    made = open_store(tmp_path, clock)
    yield made
    made.close()


def open_store(folder: Path, clock: Callable[[], float], *, sessions: int = 100, size: int = PLENTY) -> SessionStore:
    return SessionStore(folder, max_sessions=sessions, max_bytes=size, clock=clock)


def new(owner: str = "ann", ttl_s: float = 60) -> NewSession:
    return NewSession(owner, "llava", "Be brief.", ttl_s, BOUNDS, {"topic": "stars"})


def exchange(text: str, *media: bytes, turn_id: str | None = None, tokens: int = 5) -> Exchange:
    refs = tuple(MediumRef("image", digest(data), len(data), "low") for data in media)
    return Exchange(turn_id or f"turn-{text!a}", (text, *refs), f"re: {text}", "llava", 10, 3, tokens)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def say(store: SessionStore, session: Session, text: str, *media: bytes, drop: int = 0) -> Session:
    said = exchange(text, *media)
    found = store.begin(session.id, session.owner, said.turn_id, 30).session
    return store.append(session.id, session.owner, found.version, said, {digest(data): data for data in media}, drop)


def texts(store: SessionStore, session: Session) -> list[object]:
    return [exchange.user[0] for exchange in store.get(session.id, session.owner).exchanges]


def test_a_session_comes_back_as_it_was(tmp_path: Path, clock: Clock) -> None:
    store = open_store(tmp_path, clock)
    made = store.create(new())
    assert (made.version, made.turns, made.created_at, made.expires_at) == (0, 0, clock.now, clock.now + 60)
    say(store, made, "one", b"picture")
    after = say(store, made, "zwei \ud800 \0")
    assert (after.version, after.turns, after.images, after.tokens) == (2, 2, 1, 10)
    store.close()
    store = open_store(tmp_path, clock)
    found = store.get(made.id, "ann", media=True)
    assert found.session == after and found.session.metadata == {"topic": "stars"}
    assert found.exchanges == (exchange("one", b"picture"), exchange("zwei \ud800 \0"))
    assert found.media == {digest(b"picture"): b"picture"} and store.get(made.id, "ann").media == {}
    store.close()


def test_ids_cannot_be_guessed_and_owners_see_their_own(store: SessionStore) -> None:
    made = [store.create(new()) for _ in range(5)]
    assert len({session.id for session in made}) == 5 and all(len(session.id) >= 37 for session in made)
    other = store.create(new("bob"))
    for call in (
        lambda: store.get(other.id, "ann"),
        lambda: store.begin(other.id, "ann", "t", 1),
        lambda: store.append(other.id, "ann", 0, exchange("x"), {}, 0),
        lambda: store.delete(other.id, "ann"),
        lambda: store.get("sess_nothing", "ann"),
    ):
        with pytest.raises(NotFound) as caught:
            call()
        assert (caught.value.code, caught.value.param) == ("session_not_found", "id")
    assert {session.id for session in store.list_sessions("ann", 10)} == {session.id for session in made}
    assert [session.id for session in store.list_sessions("bob", 10)] == [other.id]


def test_lists_are_newest_first_and_bounded(store: SessionStore, clock: Clock) -> None:
    made = []
    for _ in range(4):
        clock.now += 1
        made.append(store.create(new()).id)
    assert [session.id for session in store.list_sessions("ann", 3)] == made[:0:-1]


def test_expired_sessions_are_gone_at_once_and_swept_later(store: SessionStore, clock: Clock) -> None:
    short, long = store.create(new(ttl_s=10)), store.create(new(ttl_s=100))
    say(store, short, "hello", b"picture")
    clock.now += 9
    say(store, short, "still here")  # lives its whole time again
    clock.now += 9
    assert store.get(short.id, "ann").session.turns == 2 and store.expire() == 0
    clock.now += 1
    for call in (lambda: store.get(short.id, "ann"), lambda: store.begin(short.id, "ann", "t", 1)):
        with pytest.raises(NotFound):
            call()
    assert [session.id for session in store.list_sessions("ann", 10)] == [long.id]
    assert store.stats().entries == 2
    assert store.expire() == 1 and store.expire() == 0
    assert store.stats().entries == 1 and count(store, "media") == 0


def test_a_session_does_not_expire_while_it_is_answered(store: SessionStore, clock: Clock) -> None:
    made = store.create(new(ttl_s=10))
    clock.now += 9
    store.begin(made.id, "ann", "turn-late", 30)
    clock.now += 20
    assert store.expire() == 0
    assert store.append(made.id, "ann", 0, exchange("late"), {}, 0).expires_at == clock.now + 10


def test_old_exchanges_are_dropped_with_their_media(store: SessionStore) -> None:
    made = store.create(new())
    say(store, made, "one", b"shared", b"alone")
    say(store, made, "two", b"shared")
    assert count(store, "media") == 2
    say(store, made, "three", drop=1)
    assert texts(store, made) == ["two", "three"]
    assert store.get(made.id, "ann", media=True).media == {digest(b"shared"): b"shared"} and count(store, "media") == 1
    assert say(store, made, "four", drop=2).turns == 1
    assert texts(store, made) == ["four"] and count(store, "media") == 0
    say(store, made, "five")
    assert texts(store, made) == ["four", "five"]


def test_media_are_stored_once_across_sessions(store: SessionStore) -> None:
    first, second = store.create(new()), store.create(new("bob"))
    say(store, first, "a", b"picture", b"picture")
    say(store, second, "b", b"picture")
    assert count(store, "media") == 1
    store.delete(first.id, "ann")
    assert store.get(second.id, "bob", media=True).media == {digest(b"picture"): b"picture"}
    store.delete(second.id, "bob")
    assert count(store, "media") == count(store, "exchanges") == count(store, "media_uses") == 0


def test_one_message_at_a_time(store: SessionStore, clock: Clock) -> None:
    made = store.create(new())
    store.begin(made.id, "ann", "first", 30)
    store.begin(made.id, "ann", "first", 30)  # the same, sent again
    with pytest.raises(Conflict) as caught:
        store.begin(made.id, "ann", "second", 30)
    assert (caught.value.code, caught.value.param) == ("session_busy", "id")
    store.release(made.id, "second")  # not its holder
    with pytest.raises(Conflict):
        store.begin(made.id, "ann", "second", 30)
    store.release(made.id, "first")
    store.begin(made.id, "ann", "second", 30)
    clock.now += 30
    store.begin(made.id, "ann", "third", 30)  # a lease ends by itself


def test_of_two_answers_to_one_history_the_second_changes_nothing(store: SessionStore, clock: Clock) -> None:
    made = store.create(new())
    say(store, made, "before")
    late, early = exchange("late", b"late"), exchange("early")
    store.begin(made.id, "ann", late.turn_id, 5)
    clock.now += 6
    version = store.begin(made.id, "ann", early.turn_id, 5).session.version
    store.append(made.id, "ann", version, early, {}, 0)
    with pytest.raises(Conflict) as caught:
        store.append(made.id, "ann", version, late, {digest(b"late"): b"late"}, 1)
    assert caught.value.code == "session_busy"
    assert texts(store, made) == ["before", "early"] and count(store, "media") == 0


def test_an_append_that_is_sent_again_counts_once(store: SessionStore) -> None:
    made = store.create(new())
    say(store, made, "one")
    said = exchange("two")
    first = store.append(made.id, "ann", 1, said, {}, 1)
    assert store.append(made.id, "ann", 1, said, {}, 1) == first
    assert texts(store, made) == ["two"]


def test_a_deleted_session_stays_deleted(store: SessionStore) -> None:
    made = store.create(new())
    store.begin(made.id, "ann", "turn-x", 30)
    store.delete(made.id, "ann")
    with pytest.raises(NotFound):
        store.append(made.id, "ann", 0, exchange("x"), {}, 0)
    assert store.stats().entries == 0


def test_a_full_store_lets_go_of_what_has_expired_only(tmp_path: Path, clock: Clock) -> None:
    store = open_store(tmp_path, clock, sessions=2)
    store.create(new(ttl_s=10))
    kept = store.create(new(ttl_s=100))
    with pytest.raises(OutOfCapacity) as caught:
        store.create(new())
    assert (caught.value.code, caught.value.status) == ("out_of_capacity", 507)
    clock.now += 10
    store.create(new())
    assert store.get(kept.id, "ann") and store.stats().entries == 2
    store.close()


def test_bytes_are_bounded_and_what_was_there_stays(tmp_path: Path, clock: Clock) -> None:
    store = open_store(tmp_path, clock, size=1_000_000)
    old, made = store.create(new(ttl_s=10)), store.create(new(ttl_s=1000))
    say(store, old, "old", b"o" * 300_000)
    stored = 0
    with pytest.raises(OutOfCapacity) as caught:
        while True:
            say(store, made, f"{stored}", bytes([stored]) * 100_000)
            stored += 1
    assert caught.value.code == "out_of_capacity" and 3 <= stored <= 6
    assert texts(store, made) == [f"{i}" for i in range(stored)]
    assert (tmp_path / FILE_NAME).stat().st_size <= 1_000_000 and store.stats().bytes <= 1_000_000
    store.begin(made.id, "ann", "another", 30)  # the failed one holds nothing any more
    store.release(made.id, "another")
    clock.now += 11
    say(store, made, "now", b"n" * 200_000)  # what has expired makes room
    store.delete(made.id, "ann")
    assert store.stats().bytes < 200_000
    store.close()


def test_a_second_writer_is_refused(tmp_path: Path, store: SessionStore, clock: Clock) -> None:
    with pytest.raises(Conflict) as caught:
        open_store(tmp_path, clock)
    assert caught.value.code == "store_locked"


def test_another_format_is_refused(tmp_path: Path, clock: Clock) -> None:
    store = open_store(tmp_path, clock)
    with store._database.changing() as connection:
        connection.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(Unavailable) as caught:
        open_store(tmp_path, clock)
    assert caught.value.code == "store_format"
    with pytest.raises(Unavailable):  # and the lock is free again
        open_store(tmp_path, clock)


def test_a_folder_that_is_gone_is_noticed(tmp_path: Path, store: SessionStore) -> None:
    store.check()
    (tmp_path / ".lock").unlink()
    with pytest.raises(Unavailable):
        store.check()


async def test_the_replica_serves_callers_side_by_side(tmp_path: Path, clock: Clock) -> None:
    replica = SessionStoreReplica(config(tmp_path), clock)
    made = await asyncio.gather(*(replica.create(new()) for _ in range(10)))

    async def talk(session: Session) -> None:
        for i in range(5):
            said = exchange(str(i))
            found = await replica.begin(session.id, "ann", said.turn_id, 30)
            await replica.append(session.id, "ann", found.session.version, said, {}, 0)

    await asyncio.gather(*map(talk, made))
    for session in made:
        assert [part.user for part in (await replica.get(session.id, "ann")).exchanges] == [(str(i),) for i in range(5)]
    clock.now += 61
    await replica.check_health()
    assert (await replica.stats()).entries == 0
    await replica.close()
    with pytest.raises(RuntimeError):
        await replica.stats()


async def test_waiting_calls_are_bounded(tmp_path: Path, clock: Clock) -> None:
    gate = threading.Event()

    def held() -> float:
        gate.wait()
        return clock()

    replica = SessionStoreReplica(config(tmp_path, batching={"max_queue": 2}), held)
    calls = [asyncio.create_task(replica.create(new())) for _ in range(5)]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    gate.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, Overloaded) for answer in answers) == 3
    await replica.stats()
    await replica.close()


def config(folder: Path, **fields: object) -> SessionStoreModel:
    return SessionStoreModel.model_validate({"kind": "session_store", "path": str(folder), **fields})


def count(store: SessionStore, table: str) -> int:
    with store._database.reading() as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


# Says the number of each exchange once it has been acknowledged.
APPEND_FOR_EVER = """
import sys, time
from pathlib import Path
from tests.unit.test_session_store import exchange, new, open_store, say
store = open_store(Path(sys.argv[1]), time.time)
session = store.create(new(ttl_s=10_000))
print(session.id, flush=True)
for i in range(100_000):
    say(store, session, str(i), bytes([i % 7]) * 20_000, drop=1 if i >= 20 else 0)
    print(i, flush=True)
"""


@pytest.mark.parametrize("after", [1, 12, 40])
def test_no_acknowledged_exchange_is_lost_when_the_writer_is_killed(tmp_path: Path, clock: Clock, after: int) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", APPEND_FOR_EVER, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    session_id = writer.stdout.readline().strip()
    for _ in range(after):
        writer.stdout.readline()
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged = after + len(writer.stdout.read().split())  # what it said before it died
    writer.wait()
    writer.stdout.close()
    store = open_store(tmp_path, clock)
    found = store.get(session_id, "ann", media=True)
    numbers = [int(str(exchange.user[0])) for exchange in found.exchanges]
    # The last append may have been written and not yet acknowledged.
    assert found.session.version in (acknowledged, acknowledged + 1)
    last = found.session.version - 1
    assert numbers == list(range(max(0, last - 19), last + 1))
    for said in found.exchanges:
        (ref,) = [part for part in said.user if isinstance(part, MediumRef)]
        assert digest(found.media[ref.sha256]) == ref.sha256
    assert say(store, found.session, "after").version == found.session.version + 1
    store.close()
