"""What searches of a vector store find, and what its memory does as items come and go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.vector_faiss import row_bytes
from deployments.vector_filter import parse_filter
from deployments.vector_store import VectorStore
from deployments.vector_types import IndexSpec
from serve.errors import NotFound, OutOfCapacity
from tests.support import vector_items
from tests.support.vector_items import clustered, fill, items, true_score

# pytest finds fixtures by the names of a module.
store = vector_items.store


# --- Search quality ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
def test_approximate_kinds_find_what_flat_finds(store: VectorStore, metric: Any) -> None:
    vectors, queries = clustered(3000, 32), clustered(60, 32, seed=1)
    found = {}
    for kind in ("flat", "hnsw", "ivf"):
        fill(store, IndexSpec(kind, 32, metric=metric, kind=kind, nlist=32, nprobe=8), vectors)  # type: ignore[arg-type]
        found[kind] = [{hit.id for hit in hits} for hits in store.search(kind, queries, 10)]
    exact = [
        {f"i{i}" for i in np.argsort([-true_score(metric, query, vector) for vector in vectors])[:10]}
        for query in queries[:5]
    ]
    assert found["flat"][:5] == exact
    for kind in ("hnsw", "ivf"):
        recall = np.mean([len(mine & best) / 10 for mine, best in zip(found[kind], found["flat"], strict=True)])
        assert recall >= 0.9, kind


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_selective_filters_find_the_best_of_what_exists(store: VectorStore, kind: Any) -> None:
    vectors = clustered(2000, 16)
    spec = IndexSpec("a", 16, kind=kind, nlist=16, nprobe=1, hnsw_m=4, ef_construction=8, ef_search=1)
    fill(store, spec, vectors)
    chosen = list(range(0, 2000, 250))
    for query in clustered(30, 16, seed=4):
        best = sorted(chosen, key=lambda i: -true_score("cosine", query, vectors[i]))
        for k in (2, 100):
            (hits,) = store.search("a", query, k, filter=parse_filter({"n": {"in": chosen}}))
            assert [hit.id for hit in hits] == [f"i{i}" for i in best[:k]]


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_k_hits_are_found_however_narrow_the_search(store: VectorStore, kind: Any) -> None:
    spec = IndexSpec("a", 16, kind=kind, nlist=32, nprobe=1, ef_search=1, hnsw_m=4, ef_construction=8)
    fill(store, spec, clustered(1500, 16))
    for hits in store.search("a", clustered(5, 16, seed=2), 1000):
        assert len({hit.id for hit in hits}) == 1000
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_l2_is_exact_far_from_the_origin(store: VectorStore) -> None:
    rng = np.random.default_rng(0)
    vectors = (1000 + 0.01 * rng.standard_normal((500, 8))).astype(np.float32)
    fill(store, IndexSpec("a", 8, metric="l2"), vectors)
    for vector, hits in zip(vectors, store.search("a", vectors[:64], 3), strict=False):
        assert hits[0].score == 0
        expected = sorted((true_score("l2", vector, other) for other in vectors), reverse=True)[:3]
        np.testing.assert_allclose([hit.score for hit in hits], expected, rtol=1e-4)


# --- Deletion, compaction, training, capacity -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_deleted_items_are_never_found_and_their_memory_comes_back(store: VectorStore, kind: Any) -> None:
    vectors = clustered(1200, 16)
    spec = IndexSpec("a", 16, kind=kind, nlist=16, nprobe=4)
    fill(store, spec, vectors)
    full = store.info("a").bytes
    for bound in (200, 700, 1199):  # Below the threshold of compaction, above it, and almost everything.
        store.delete("a", filter=parse_filter({"n": {"lt": bound}}))
        (hits,) = store.search("a", vectors[0], 1000)
        found = [int(str(hit.metadata["n"])) for hit in hits]
        assert len(set(found)) == len(found) == min(1000, 1200 - bound)
        assert min(found) >= bound
    assert store.info("a").bytes < full / 2
    store.delete("a", ids=["i1199"])
    assert store.search("a", vectors[0], 5) == [[]]


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_replacing_items_for_ever_takes_bounded_memory(store: VectorStore, kind: Any) -> None:
    spec = IndexSpec("a", 8, kind=kind, nlist=4, nprobe=4)
    store.create(spec)
    for turn in range(12):
        store.add("a", items(clustered(400, 8, seed=turn), turn=turn))
        assert store.info("a").count == 400
        assert store.info("a").bytes < 3 * 400 * row_bytes(spec) + 8192
    (hits,) = store.search("a", clustered(1, 8), 1000)
    assert {(hit.id, hit.metadata["turn"]) for hit in hits} == {(f"i{i}", 11) for i in range(400)}


def test_ivf_trains_when_it_can_and_again_as_it_grows(store: VectorStore) -> None:
    spec = IndexSpec("a", 16, kind="ivf", nlist=8, nprobe=1)
    vectors, queries = clustered(2000, 16), clustered(40, 16, seed=3)
    store.create(spec)
    store.create(IndexSpec("flat", 16))

    def agreement() -> float:
        mine, exact = store.search("a", queries, 10), store.search("flat", queries, 10)
        return float(np.mean([{h.id for h in m} == {h.id for h in e} for m, e in zip(mine, exact, strict=True)]))

    for name in ("a", "flat"):
        store.add(name, items(vectors[:311]))
    assert agreement() == 1  # One short of 39 for each list: still searched flat.
    for name in ("a", "flat"):
        store.add(name, items(vectors[311:1000], 311))
    assert agreement() < 1  # One list of eight is read, which shows that it was trained.
    for name in ("a", "flat"):
        store.add(name, items(vectors[1000:], 1000))
    assert store.info("a").count == 2000
    assert [hits[0].id for hits in store.search("a", vectors[:64], 1)] == [f"i{i}" for i in range(64)]


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_the_memory_bound_holds_and_refuses_before_writing(tmp_path: Path, kind: Any) -> None:
    spec = IndexSpec("a", 16, kind=kind)
    bound = 4096 + 100 * row_bytes(spec)
    store = VectorStore(tmp_path, max_bytes=bound)
    store.create(spec)
    vectors = clustered(101, 16)
    store.add("a", items(vectors[:90]))
    with pytest.raises(OutOfCapacity):
        store.add("a", items(vectors[90:], 90))
    assert store.info("a").count == 90
    assert store.get("a", ["i90"]) == []
    with pytest.raises(OutOfCapacity):
        store.create(IndexSpec("b", 16))

    # Deleting makes room, by compaction in place: there is no memory for a second copy.
    store.delete("a", ids=[f"i{i}" for i in range(20)])
    store.add("a", items(vectors[80:], 80))
    assert store.info("a").count == 81
    assert store.info("a").bytes <= bound
    assert {hit.id for hit in store.search("a", vectors[0], 1000)[0]} == {f"i{i}" for i in range(20, 101)}
    store.close()

    with pytest.raises(OutOfCapacity) as caught:
        VectorStore(tmp_path, max_bytes=bound // 2)
    assert caught.value.param == "max_bytes"
    VectorStore(tmp_path, max_bytes=bound).close()  # The refused opening kept no lock.


def test_batches_of_a_group_succeed_or_fail_for_themselves(tmp_path: Path) -> None:
    spec = IndexSpec("a", 16)
    store = VectorStore(tmp_path, max_bytes=4096 + 50 * row_bytes(spec))
    store.create(spec)
    vectors = clustered(100, 16)
    small, large, last = (store.prepare("a", items(vectors[a:b], a)) for a, b in ((0, 20), (20, 90), (10, 30)))
    first, second, third = store.commit("a", [small, large, last])
    assert (first, third) == (20, 20)
    assert isinstance(second, OutOfCapacity)
    assert store.info("a").count == 30
    (missing,) = store.commit("b", [small])
    assert isinstance(missing, NotFound)
    store.close()
