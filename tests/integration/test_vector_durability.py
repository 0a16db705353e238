"""What was acknowledged survives: real processes, killed at several points, and a disk that fills up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.vector_store import VectorStore
from deployments.vector_types import IndexSpec, Item
from serve.errors import Conflict

REPOSITORY = Path(__file__).parents[2]
PLENTY = 2**30
BATCH = 20
DIMENSION = 16

# Three callers add batches side by side; each batch also replaces the caller's own "head". A line is printed only
# when the batch was acknowledged.
ADD_FOR_EVER = f"""
import asyncio, sys
from deployments.vector_index import VectorIndex
from deployments.vector_types import IndexSpec
from tests.integration.test_vector_durability import batch

async def caller(index, number):
    for turn in range(100_000):
        await index.add("a", batch(number, turn))
        print(number, turn, flush=True)

async def main():
    index = VectorIndex(sys.argv[1], {PLENTY})
    await index.create(IndexSpec("a", {DIMENSION}, kind=sys.argv[2]))
    await asyncio.gather(*[caller(index, number) for number in range(3)])

asyncio.run(main())
"""

# Opens the store, leaves a forked child behind (it inherits every descriptor), and waits.
HOLD = f"""
import os, sys, time
from pathlib import Path
from deployments.vector_store import VectorStore
store = VectorStore(Path(sys.argv[1]), max_bytes={PLENTY})
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(600)
"""

# A limit on file size makes writes fail as a full disk does.
FILL_THE_DISK = f"""
import resource, sys
from pathlib import Path
from deployments.vector_store import VectorStore
from deployments.vector_types import IndexSpec, Item
from serve.errors import OutOfCapacity, Unavailable
from tests.integration.test_vector_durability import batch
store = VectorStore(Path(sys.argv[1]), max_bytes={PLENTY})
store.create(IndexSpec("a", {DIMENSION}))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))

# Of a group that is too much for the disk, the batch that is too much fails alone.
large = [Item(f"large-{{i}}", batch(0, 0)[0].vector, {{"text": "x" * 15_000}}) for i in range(100)]
group = [store.prepare("a", items) for items in (batch(0, 0), large, batch(0, 1))]
outcomes = store.commit("a", group)
print(*("failed" if isinstance(outcome, Exception) else outcome for outcome in outcomes), flush=True)

try:
    for turn in range(2, 1000):
        store.add("a", batch(0, turn))
except (OutOfCapacity, Unavailable) as error:
    print(turn, error.code, flush=True)
assert store.info("a").count == turn * {BATCH} + 1
store.check()
assert len(store.search("a", batch(0, 0)[0].vector, 5)[0]) == 5
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
store.add("a", batch(0, turn))
store.check()
"""


def batch(caller: int, turn: int) -> list[Item]:
    """What a caller adds on its turn: items of its own, and a new version of its head."""
    rng = np.random.default_rng([caller, turn])
    vectors = rng.standard_normal((BATCH + 1, DIMENSION)).astype(np.float32)
    own = [Item(f"{caller}-{turn}-{i}", vectors[i], {"turn": turn, "tags": ["a", str(i)]}) for i in range(BATCH)]
    return [*own, Item(f"head-{caller}", vectors[BATCH], {"turn": turn})]


@contextmanager
def process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def lines(child: subprocess.Popen[str], count: int) -> list[str]:
    assert child.stdout is not None
    return [child.stdout.readline() for _ in range(count)]


def assert_stored(store: VectorStore, expected: list[Item]) -> None:
    found = store.get("a", [item.id for item in expected])
    assert [item.id for item in found] == [item.id for item in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.vector.tobytes() == theirs.vector.tobytes()
        assert mine.metadata == theirs.metadata


@pytest.mark.parametrize(("kind", "acknowledgements"), [("flat", 1), ("hnsw", 7), ("flat", 40), ("hnsw", 90)])
def test_acknowledged_items_survive_a_kill(tmp_path: Path, kind: str, acknowledgements: int) -> None:
    with process(ADD_FOR_EVER, str(tmp_path), kind) as child:
        printed = lines(child, acknowledgements)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert child.stdout is not None
        printed += child.stdout.readlines()  # Acknowledged before the kill, read after it.
    acknowledged = [tuple(map(int, line.split())) for line in printed if line.endswith("\n")]
    assert len(acknowledged) >= acknowledgements

    store = VectorStore(tmp_path, max_bytes=PLENTY)  # At once: the lock went with its owner.
    total = 0
    for caller in range(3):
        last = max((turn for who, turn in acknowledged if who == caller), default=-1)
        for turn in range(last + 1):
            assert_stored(store, batch(caller, turn)[:BATCH])
        # One more batch may have reached the disk unacknowledged, but then all of it.
        extra = store.get("a", [item.id for item in batch(caller, last + 1)[:BATCH]])
        assert len(extra) in (0, BATCH)
        newest = last + bool(extra)
        assert store.get("a", [f"{caller}-{newest + 1}-{i}" for i in range(BATCH)]) == []
        if newest >= 0:
            assert_stored(store, batch(caller, newest)[BATCH:])
            total += (newest + 1) * BATCH + 1
            vector = batch(caller, newest)[3].vector
            assert store.search("a", vector, 1)[0][0].id == f"{caller}-{newest}-3"
    assert store.info("a").count == total
    store.check()
    store.close()


def test_a_second_opener_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    with process(HOLD, str(tmp_path)) as owner:
        forked = int(lines(owner, 1)[0])
        try:
            with pytest.raises(Conflict) as caught:
                VectorStore(tmp_path, max_bytes=PLENTY)
            assert caught.value.code == "store_locked"
            assert str(owner.pid) in caught.value.message
            owner.kill()
            owner.wait()
            os.kill(forked, 0)  # Still alive, and holding nothing.
            VectorStore(tmp_path, max_bytes=PLENTY).close()
        finally:
            os.kill(forked, signal.SIGKILL)


def test_a_full_disk_loses_nothing_and_recovers(tmp_path: Path) -> None:
    with process(FILL_THE_DISK, str(tmp_path)) as child:
        outcomes = lines(child, 1)[0].split()
        turn, code = lines(child, 1)[0].split()
        assert child.wait() == 0
    assert outcomes == [str(BATCH + 1), "failed", str(BATCH + 1)]
    assert code in ("disk_full", "store_io")
    store = VectorStore(tmp_path, max_bytes=PLENTY)
    for earlier in range(int(turn) + 1):
        assert_stored(store, batch(0, earlier)[:BATCH])
    assert store.info("a").count == (int(turn) + 1) * BATCH + 1
    store.close()


def test_dropped_indexes_stay_dropped_and_created_ones_stay(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
from deployments.vector_store import VectorStore
from deployments.vector_types import IndexSpec
from tests.integration.test_vector_durability import batch
store = VectorStore(Path(sys.argv[1]), max_bytes={PLENTY})
for name in "abc":
    store.create(IndexSpec(name, {DIMENSION}))
    store.add(name, batch(0, 0))
store.drop("b")
store.create(IndexSpec("b", 3, metric="l2"))
store.drop("c")
os.kill(os.getpid(), signal.SIGKILL)
"""
    with process(code, str(tmp_path)) as child:
        assert child.wait() == -signal.SIGKILL
    store = VectorStore(tmp_path, max_bytes=PLENTY)
    found: list[Any] = [(info.spec, info.count) for info in store.list_indexes()]
    assert found == [(IndexSpec("a", DIMENSION), BATCH + 1), (IndexSpec("b", 3, metric="l2"), 0)]
    store.close()
