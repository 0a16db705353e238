"""The actor: group commit, isolation of bad additions, cancellation, overload, health and closing."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from deployments import vector_commit
from deployments.vector_commit import MAX_GROUP_ITEMS, GroupCommit
from deployments.vector_filter import parse_filter
from deployments.vector_index import VectorIndex
from deployments.vector_sql import Record
from deployments.vector_types import IndexSpec, Item
from serve.app import _implementation
from serve.errors import ArgusError, InvalidRequest, NotFound, OutOfCapacity, Overloaded, Unavailable
from tests.unit.fakes import cluster

PLENTY = 2**30


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[VectorIndex]:
    opened = VectorIndex(str(tmp_path), PLENTY)
    await opened.create(IndexSpec("a", 4))
    yield opened
    await opened.close()


def item(number: int, **metadata: Any) -> Item:
    return Item(f"i{number}", np.random.default_rng(number).standard_normal(4).astype(np.float32), metadata)


async def test_the_cluster_file_says_how_many_indexes_there_may_be(tmp_path: Path) -> None:
    config = cluster(models={"index": {"kind": "vector_index", "path": str(tmp_path), "max_indexes": 65}})
    factory, arguments = _implementation(config, "index", config.models["index"])
    index = factory(*arguments)
    for number in range(65):
        await index.create(IndexSpec(f"index-{number}", 2))
    with pytest.raises(OutOfCapacity) as caught:
        await index.create(IndexSpec("one-more", 2))
    assert caught.value.code == "too_many_indexes"
    await index.close()


async def test_indexes_need_more_files_than_a_process_may_usually_open(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 50, before[1]))
    try:
        index = VectorIndex(str(tmp_path), PLENTY)
        for number in range(30):
            await index.create(IndexSpec(f"index-{number}", 2))
        assert len(await index.list_indexes()) == 30
        await index.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_every_method_of_the_store_is_there(index: VectorIndex) -> None:
    assert await index.add("a", [item(0, kind="shoe"), item(1, kind="hat")]) == 2
    assert (await index.info("a")).count == 2
    assert [info.spec.name for info in await index.list_indexes()] == ["a"]
    assert [found.id for found in await index.get("a", ["i1", "i7", "i0"])] == ["i1", "i0"]
    (hits,) = await index.search("a", item(0).vector, 5, filter=parse_filter({"kind": "hat"}), include_vectors=True)
    assert [hit.id for hit in hits] == ["i1"]
    assert hits[0].vector is not None
    assert hits[0].vector.tolist() == item(1).vector.tolist()
    await index.check_health()
    assert await index.delete("a", filter=parse_filter({"kind": "hat"})) == 1
    assert await index.delete("a", ids=["i0", "i1"]) == 1
    await index.drop("a")
    for call in (index.info("a"), index.add("a", []), index.search("a", [1, 2, 3, 4], 1), index.drop("a")):
        with pytest.raises(NotFound):
            await call
    await index.check_health()


async def test_concurrent_adds_share_commits_and_a_bad_one_fails_alone(index: VectorIndex) -> None:
    good = [index.add("a", [item(2 * i), item(2 * i + 1)]) for i in range(100)]
    bad = [index.add("a", [item(1000 + i), Item("zero", np.zeros(4, np.float32))]) for i in range(20)]
    mixed = [call for pair in zip(good[:20], bad, strict=True) for call in pair] + good[20:]
    outcomes = await asyncio.gather(*mixed, return_exceptions=True)
    assert sum(outcome == 2 for outcome in outcomes) == 100
    assert sum(isinstance(outcome, InvalidRequest) for outcome in outcomes) == 20
    stats = await index.stats()
    assert (stats.adds, stats.items) == (100, 200)
    assert stats.commits < 100
    assert (await index.info("a")).count == 200


async def test_an_add_that_does_not_fit_fails_alone(tmp_path: Path) -> None:
    index = VectorIndex(str(tmp_path), 4096 + 40 * 25)  # Forty vectors of four components.
    await index.create(IndexSpec("a", 4))
    sizes = [10, 35, 10, 10, 35, 10]
    adds = [index.add("a", [item(100 * i + j) for j in range(size)]) for i, size in enumerate(sizes)]
    outcomes = await asyncio.gather(*adds, return_exceptions=True)
    assert sum(outcome for outcome in outcomes if isinstance(outcome, int)) == (await index.info("a")).count <= 40
    assert all(isinstance(outcome, int | OutOfCapacity) for outcome in outcomes)
    assert any(isinstance(outcome, int) for outcome in outcomes)
    assert any(isinstance(outcome, OutOfCapacity) for outcome in outcomes)
    await index.close()


async def test_cancelled_callers_leave_a_consistent_index(index: VectorIndex, tmp_path: Path) -> None:
    tasks = [asyncio.create_task(index.add("a", [item(10 * i + j) for j in range(10)])) for i in range(60)]
    searches = [asyncio.create_task(index.search("a", item(i).vector, 3)) for i in range(60)]
    await tasks[0]
    for task in [*tasks[1::2], *searches[::2]]:
        task.cancel()
    await asyncio.gather(*tasks, *searches, return_exceptions=True)
    await index.close()

    reopened = VectorIndex(str(tmp_path), PLENTY)
    present = [len(await reopened.get("a", [f"i{10 * i + j}" for j in range(10)])) for i in range(60)]
    assert all(count in (0, 10) for count in present)
    assert all(count == 10 for count, task in zip(present, tasks, strict=True) if not task.cancelled())
    assert (await reopened.info("a")).count == sum(present)
    await reopened.check_health()
    await reopened.close()


async def test_closing_answers_what_was_accepted_and_refuses_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_commit, "MAX_GROUP_ITEMS", 1)  # So that much still waits for its turn.
    index = VectorIndex(str(tmp_path), PLENTY)
    await index.create(IndexSpec("a", 4))
    adds = [asyncio.create_task(index.add("a", [item(i)])) for i in range(50)]
    await adds[0]
    await index.close()
    await index.close()
    outcomes = await asyncio.gather(*adds, return_exceptions=True)
    assert all(outcome == 1 or (isinstance(outcome, Unavailable) and not outcome.param) for outcome in outcomes)
    for call in (index.search("a", [1, 0, 0, 0], 1), index.check_health(), index.info("a"), index.drop("a")):
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.code == "store_closed"

    reopened = VectorIndex(str(tmp_path), PLENTY)
    assert (await reopened.info("a")).count == sum(outcome == 1 for outcome in outcomes)
    await reopened.close()


async def test_waiting_calls_are_bounded(tmp_path: Path) -> None:
    index = VectorIndex(str(tmp_path), PLENTY, max_waiting_reads=4, max_waiting_writes=4, max_pending_items=500)
    await index.create(IndexSpec("a", 4))
    assert await index.add("a", [item(i) for i in range(500)]) == 500
    with pytest.raises(Overloaded) as caught:
        await index.add("a", [item(i) for i in range(501)])
    assert caught.value.code == "writes_overloaded"

    queries = np.ones((64, 4), np.float32)  # 32,000 hits, so that the first are not done before the last begin.
    searches = await asyncio.gather(*[index.search("a", queries, 500) for _ in range(20)], return_exceptions=True)
    creates = await asyncio.gather(*[index.create(IndexSpec(f"b{i}", 4)) for i in range(20)], return_exceptions=True)
    for outcomes in (searches, creates):
        assert any(isinstance(outcome, Overloaded) for outcome in outcomes)
        assert sum(not isinstance(outcome, Exception) for outcome in outcomes) >= 4
    assert await index.add("a", [item(i) for i in range(500)]) == 500  # The slots came back.
    await index.close()


# --- Group commit by itself, with the writer held still ---------------------------------------------------------------


class HeldWriter:
    """A commit function that stops at the first group until `release` is set, and notes each group."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.started = threading.Event()
        self.groups: list[tuple[str, list[str]]] = []

    def commit(self, name: str, batches: Sequence[Sequence[Record]]) -> list[int | ArgusError]:
        self.groups.append((name, [record.id for batch in batches for record in batch]))
        self.started.set()
        self.release.wait()
        if name == "broken":
            raise RuntimeError("the disk is on fire")
        return [InvalidRequest("bad") if any(r.id == "bad" for r in batch) else len(batch) for batch in batches]


def record(name: str) -> Record:
    return Record(name, "{}", (), np.ones(4, np.float32))


def test_additions_gather_while_a_commit_runs() -> None:
    writer = HeldWriter()
    maintained: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        group = GroupCommit(writer.commit, maintained.append, pool, max_pending_items=100)
        first = group.submit("a", [record("0")])
        writer.started.wait()
        later = [group.submit("a", [record(name)]) for name in ("1", "bad", "gone", "2")]
        other = group.submit("b", [record("3")])
        broken = group.submit("broken", [record("4")])
        assert later[2].cancel()
        writer.release.set()
        group.wait_idle()
    assert writer.groups == [("a", ["0"]), ("a", ["1", "bad", "2"]), ("b", ["3"]), ("broken", ["4"])]
    assert maintained == ["a", "a", "b", "broken"]
    assert [future.result() for future in (first, later[0], later[3], other)] == [1, 1, 1, 1]
    assert isinstance(later[1].exception(), InvalidRequest)
    assert isinstance(broken.exception(), RuntimeError)
    with pytest.raises(CancelledError):
        later[2].result()
    assert (group.stats.adds, group.stats.items, group.stats.commits) == (4, 4, 3)


def test_groups_and_the_queue_are_bounded() -> None:
    writer = HeldWriter()
    with ThreadPoolExecutor(1) as pool:
        group = GroupCommit(writer.commit, lambda _: None, pool, max_pending_items=2 * MAX_GROUP_ITEMS + 1)
        group.submit("a", [])
        writer.started.wait()
        half = [record(str(i)) for i in range(MAX_GROUP_ITEMS // 2)]
        futures = [group.submit("a", half) for _ in range(4)]
        with pytest.raises(Overloaded):
            group.submit("a", [record("x")])
        writer.release.set()
        group.wait_idle()
        assert [future.result() for future in futures] == [len(half)] * 4
    assert [len(ids) for _, ids in writer.groups] == [0, MAX_GROUP_ITEMS, MAX_GROUP_ITEMS]
