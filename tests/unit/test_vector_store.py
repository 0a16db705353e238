"""The store against a plain dictionary and brute force, and each of its promises by itself."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.vector_faiss import MemoryIndex
from deployments.vector_filter import parse_filter
from deployments.vector_store import VectorStore
from deployments.vector_types import IndexSpec, Item
from serve.errors import Conflict, InvalidRequest, NotFound, OutOfCapacity, PayloadTooLarge, Unavailable
from tests.support import vector_items
from tests.support.vector_items import PLENTY, clustered, fill, items

# pytest finds fixtures by the names of a module.
store = vector_items.store


# --- Indexes ----------------------------------------------------------------------------------------------------------


def test_indexes_are_created_listed_dropped_and_kept(tmp_path: Path) -> None:
    store = VectorStore(tmp_path, max_bytes=PLENTY)
    specs = [IndexSpec("b", 2, kind="hnsw", model="clip"), IndexSpec("a", 3, metric="l2")]
    for spec in specs:
        assert store.create(spec).count == 0
    assert [info.spec for info in store.list_indexes()] == [specs[1], specs[0]]
    store.add("a", items(np.eye(3)))
    store.drop("b")
    with pytest.raises(NotFound) as caught:
        store.info("b")
    assert (caught.value.code, caught.value.param) == ("index_not_found", "index")
    store.close()

    store = VectorStore(tmp_path, max_bytes=PLENTY)
    assert [(info.spec, info.count) for info in store.list_indexes()] == [(specs[1], 3)]
    store.create(specs[0])
    assert store.info("b").count == 0
    store.close()


def test_creating_again_is_safe_and_contradicting_is_not(store: VectorStore) -> None:
    spec = IndexSpec("a", 2)
    store.create(spec)
    store.add("a", items(np.eye(2)))
    assert store.create(spec).count == 2
    with pytest.raises(Conflict) as caught:
        store.create(IndexSpec("a", 3))
    assert caught.value.code == "index_exists"


def test_an_index_is_not_created_again_for_another_checkpoint(tmp_path: Path) -> None:
    store = VectorStore(tmp_path, max_bytes=PLENTY)
    spec = IndexSpec("a", 2, model="clip", checkpoint="hub/clip@1")
    store.create(spec)
    store.close()
    store = VectorStore(tmp_path, max_bytes=PLENTY)
    assert store.create(spec).spec == spec
    with pytest.raises(Conflict) as caught:
        store.create(replace(spec, checkpoint="hub/clip@2"))
    assert (caught.value.code, caught.value.param) == ("index_of_another_checkpoint", "name")
    with pytest.raises(Conflict) as caught:
        store.create(replace(spec, checkpoint="hub/clip@2", dimension=3))
    assert caught.value.code == "index_exists"
    store.close()


def test_an_index_from_before_checkpoints_were_recorded_goes_on_working(tmp_path: Path) -> None:
    store = VectorStore(tmp_path, max_bytes=PLENTY)
    store.create(IndexSpec("a", 2, model="clip"))
    store.add("a", items(np.eye(2)))
    store.close()
    database = sqlite3.connect(tmp_path / "a" / "items.db")
    (old,) = database.execute("SELECT json FROM spec").fetchone()
    written = {key: value for key, value in json.loads(old).items() if key != "checkpoint"}
    database.execute("UPDATE spec SET json = ?", (json.dumps(written),))
    database.execute("PRAGMA user_version = 1")
    database.commit()
    database.close()
    store = VectorStore(tmp_path, max_bytes=PLENTY)
    info = store.create(IndexSpec("a", 2, model="clip", checkpoint="hub/clip@2"))
    assert (info.spec.checkpoint, info.count) == (None, 2)
    store.close()


def test_the_number_of_indexes_is_bounded(tmp_path: Path) -> None:
    store = VectorStore(tmp_path, max_bytes=PLENTY, max_indexes=1)
    store.create(IndexSpec("a", 2))
    with pytest.raises(OutOfCapacity, match="1 indexes"):
        store.create(IndexSpec("b", 2))
    store.close()


def test_opening_sweeps_what_a_crash_left_and_ignores_strangers(tmp_path: Path) -> None:
    for name in (".new-a", ".old-b", "lost+found"):
        (tmp_path / name).mkdir()
    (tmp_path / ".new-a" / "items.db").write_bytes(b"half a database")
    store = VectorStore(tmp_path, max_bytes=PLENTY)
    assert store.list_indexes() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "lost+found"]
    store.close()


def test_a_store_is_open_once_and_closes_for_good(tmp_path: Path) -> None:
    store = VectorStore(tmp_path, max_bytes=PLENTY)
    with pytest.raises(Conflict) as caught:
        VectorStore(tmp_path, max_bytes=PLENTY)
    assert caught.value.code == "store_locked"
    store.create(IndexSpec("a", 2))
    store.close()
    store.close()
    for call in (store.list_indexes, store.check, lambda: store.create(IndexSpec("b", 2)), lambda: store.get("a", [])):
        with pytest.raises(Unavailable) as closed:
            call()
        assert closed.value.code == "store_closed"
    VectorStore(tmp_path, max_bytes=PLENTY).close()


# --- Validation -------------------------------------------------------------------------------------------------------

GOOD = np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("item", "param", "code"),
    [
        (Item("", GOOD), "items[0].id", "invalid_id"),
        (Item("é" * 257, GOOD), "items[0].id", "invalid_id"),
        (Item("a\n", GOOD), "items[0].id", "invalid_id"),
        (Item("a\x9f", GOOD), "items[0].id", "invalid_id"),
        (Item("\udc00", GOOD), "items[0].id", "invalid_request"),
        (Item(7, GOOD), "items[0].id", "invalid_id"),  # type: ignore[arg-type]
        (Item("a", np.ones(3, np.float32)), "items[0].vector", "dimension_mismatch"),
        (Item("a", np.ones((1, 2), np.float32)), "items[0].vector", "dimension_mismatch"),
        (Item("a", np.array([1, np.nan], np.float32)), "items[0].vector", "invalid_vector"),
        (Item("a", np.array([1, np.inf], np.float32)), "items[0].vector", "invalid_vector"),
        (Item("a", np.array([1, 1e300])), "items[0].vector", "invalid_vector"),
        (Item("a", np.array([1, 1e16], np.float32)), "items[0].vector", "invalid_vector"),
        (Item("a", np.array(["1", "2"])), "items[0].vector", "invalid_vector"),  # type: ignore[arg-type]
        (Item("a", np.array([1j, 2])), "items[0].vector", "invalid_vector"),  # type: ignore[arg-type]
        (Item("a", [[1], [2, 3]]), "items[0].vector", "dimension_mismatch"),  # type: ignore[arg-type]
        (Item("a", np.zeros(2, np.float32)), "items[0].vector", "invalid_vector"),
        (Item("a", GOOD, {"x": {}}), "items[0].metadata.x", "invalid_request"),  # type: ignore[dict-item]
        (Item("a", GOOD, {"x": [[1]]}), "items[0].metadata.x", "invalid_request"),  # type: ignore[list-item]
        (Item("a", GOOD, {"x": float("inf")}), "items[0].metadata.x", "invalid_request"),
        (Item("a", GOOD, {"x": 2**63}), "items[0].metadata.x", "invalid_request"),
        (Item("a", GOOD, {"$or": 1}), "items[0].metadata", "invalid_request"),
        (Item("a", GOOD, {"": 1}), "items[0].metadata", "invalid_request"),
        (Item("a", GOOD, [1]), "items[0].metadata", "invalid_request"),  # type: ignore[arg-type]
        (Item("a", GOOD, {"x": "é" * 9000}), "items[0].metadata", "metadata_too_large"),
        ({"id": "a"}, "items[0]", "invalid_request"),
    ],
)
def test_bad_items_name_the_field(store: VectorStore, item: Any, param: str, code: str) -> None:
    store.create(IndexSpec("a", 2))
    with pytest.raises(InvalidRequest) as caught:
        store.add("a", [item])
    assert (caught.value.param, caught.value.code) == (param, code)
    assert store.info("a").count == 0


def test_zero_vectors_are_fine_where_they_mean_something(store: VectorStore) -> None:
    store.create(IndexSpec("a", 2, metric="l2"))
    store.add("a", [Item("zero", np.zeros(2, np.float32))])
    assert [hit.score for hit in store.search("a", [0, 3], 1)[0]] == [-9.0]


def test_tiny_vectors_keep_their_direction_under_cosine(store: VectorStore) -> None:
    store.create(IndexSpec("a", 2))
    store.add("a", [Item("tiny", np.array([1e-40, 0], np.float32)), Item("large", np.array([0, 1e15], np.float32))])
    (hits,) = store.search("a", [3e-42, 0], 2)
    assert [(hit.id, hit.score) for hit in hits] == [("tiny", 1.0), ("large", 0.0)]


@pytest.mark.parametrize(
    ("queries", "k", "param"),
    [
        ([1, 2, 3], 1, "queries"),
        ([[[1, 2]]], 1, "queries"),
        (np.empty((0, 2)), 1, "queries"),
        ([[1, 2], [0, 0]], 1, "queries[1]"),
        ([[1, np.nan]], 1, "queries[0]"),
        (None, 1, "queries"),
        (np.ones((65, 2)), 1, "queries"),
        ([1, 2], 0, "k"),
        ([1, 2], 1001, "k"),
        ([1, 2], 1.0, "k"),
    ],
)
def test_bad_searches_name_the_field(store: VectorStore, queries: Any, k: Any, param: str) -> None:
    store.create(IndexSpec("a", 2))
    with pytest.raises(InvalidRequest) as caught:
        store.search("a", queries, k)
    assert caught.value.param == param


def test_other_bad_arguments(store: VectorStore) -> None:
    store.create(IndexSpec("a", 2))
    unparsed: Any = {"n": 1}
    calls: list[tuple[Any, str]] = [
        (lambda: store.search("a", [1, 2], 1, filter=unparsed), "filter"),
        (lambda: store.delete("a", filter=unparsed), "filter"),
        (lambda: store.delete("a"), "ids"),
        (lambda: store.delete("a", ids=["x"], filter=parse_filter({"n": 1})), "ids"),
        (lambda: store.delete("a", ids="x"), "ids"),
        (lambda: store.get("a", ["x", ""]), "ids[1]"),
        (lambda: store.info("../a"), "index"),
    ]
    for call, param in calls:
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert caught.value.param == param
    for too_many in (lambda: store.add("a", items(np.ones((1001, 2)))), lambda: store.get("a", ["x"] * 1001)):
        with pytest.raises(PayloadTooLarge):
            too_many()


def test_a_batch_is_copied(store: VectorStore) -> None:
    store.create(IndexSpec("a", 2))
    vector = np.array([1, 2], np.float32)
    records = store.prepare("a", [Item("i", vector)])
    vector[:] = 9
    store.commit("a", [records])
    assert store.get("a", ["i"])[0].vector.tolist() == [1, 2]


# --- Many threads, and failures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_search_sees_all_of_a_change_or_nothing(store: VectorStore, kind: Any) -> None:
    store.create(IndexSpec("a", 8, kind=kind))
    vectors = clustered(150, 8)
    store.add("a", items(vectors, turn=0))
    done = threading.Event()
    failures: list[str] = []

    def look() -> None:
        while not done.is_set():
            try:
                (hits,) = store.search("a", vectors[0], 150)
                turns = {hit.metadata["turn"] for hit in hits}
                if len(hits) != 150 or len(turns) != 1:
                    failures.append(f"{len(hits)} hits of turns {turns}")
            except Exception as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(1, 15):
        store.add("a", items(clustered(150, 8, seed=turn), turn=turn))
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_index_that_failed_half_way_says_so_until_it_is_reopened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = VectorStore(tmp_path, max_bytes=PLENTY)
    fill(store, IndexSpec("a", 4), np.eye(4))

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(MemoryIndex, "append", fail)
        with pytest.raises(MemoryError):
            store.add("a", items(np.ones((1, 4)), 4))
    for call in (lambda: store.search("a", np.ones(4), 1), store.check, lambda: store.add("a", items(np.eye(4)))):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.code == "index_damaged"
    store.close()
    store = VectorStore(tmp_path, max_bytes=PLENTY)
    assert {hit.id for hit in store.search("a", np.ones(4), 9)[0]} == {"i0", "i1", "i2", "i3"}
    store.close()


def test_the_check_notices_a_folder_that_is_gone(tmp_path: Path) -> None:
    store = VectorStore(tmp_path / "s", max_bytes=PLENTY)
    store.check()
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(Unavailable) as caught:
        store.check()
    assert caught.value.code == "store_gone"
    store.close()
