"""The vector store agrees with a dictionary, whatever is done to it in whatever order."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deployments.vector_filter import parse_filter
from deployments.vector_store import VectorStore
from deployments.vector_types import IndexSpec, Item
from serve.errors import InvalidRequest
from tests.support import vector_items
from tests.support.vector_items import PLENTY, true_score

# pytest finds fixtures by the names of a module.
store = vector_items.store
# --- A model: the store must agree with a dictionary ---------------------------------------------------------------
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([-1.0, 0.5, 1.0, 0.1 + 0.2, 2.0**53, 2**53 + 1, -(2**63), 2**63 - 1]),
    st.sampled_from(["", "1", "a", "b", "é", "\U0001f45f", '"', "\\", "nul\0x"]),
)
KEYS = st.sampled_from(["a", "b", 'quo"te.[0]'])
METADATA = st.dictionaries(KEYS, SCALARS | st.lists(SCALARS, max_size=3), max_size=3)
BOUNDS = SCALARS.filter(lambda value: value is not None and not isinstance(value, bool))
CONDITIONS = st.one_of(
    SCALARS,
    st.fixed_dictionaries({"eq": SCALARS}),
    st.fixed_dictionaries({"in": st.lists(SCALARS, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"exists": st.booleans()}),
    st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), BOUNDS, min_size=1, max_size=2),
)
FILTERS = st.recursive(
    st.dictionaries(KEYS, CONDITIONS, min_size=1, max_size=2),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=4,
)
VECTORS = st.lists(st.integers(-3, 3), min_size=3, max_size=3).filter(any)
IDS = st.sampled_from([f"id-{i}" for i in range(8)] + ["ü/..", '"', "%_"])
ITEMS = st.builds(
    lambda name, vector, metadata: Item(name, np.array(vector, np.float32), metadata), IDS, VECTORS, METADATA
)


def same_type(left: Any, right: Any) -> bool:
    def kind(value: Any) -> str:
        return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__

    return kind(left) == kind(right)


def meets(metadata: dict[str, Any], data: dict[str, Any]) -> bool:
    """The definition of a filter, written as plainly as possible."""
    compare = {
        "gt": lambda value, bound: value > bound,
        "gte": lambda value, bound: value >= bound,
        "lt": lambda value, bound: value < bound,
        "lte": lambda value, bound: value <= bound,
        "eq": lambda value, bound: value == bound,
    }

    def holds(key: str, op: str, operand: Any) -> bool:
        if op == "exists":
            return (key in metadata) == operand
        if key not in metadata:
            return False
        elements = metadata[key] if isinstance(metadata[key], list) else [metadata[key]]
        options = operand if op == "in" else [operand]
        test = compare["eq" if op == "in" else op]
        return any(same_type(element, option) and test(element, option) for element in elements for option in options)

    def entry(key: str, value: Any) -> bool:
        if key == "$or":
            return any(meets(metadata, part) for part in value)
        if key == "$and":
            return all(meets(metadata, part) for part in value)
        if key == "$not":
            return not meets(metadata, value)
        conditions = value if isinstance(value, dict) else {"eq": value}
        return all(holds(key, op, operand) for op, operand in conditions.items())

    return all(entry(key, value) for key, value in data.items())


class StoreAgainstDictionary(RuleBasedStateMachine):
    """Any sequence of changes, searches and reopenings."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.store = VectorStore(self.root, max_bytes=PLENTY)
        self.model: dict[str, Item] = {}

    @initialize(metric=st.sampled_from(["cosine", "dot", "l2"]), kind=st.sampled_from(["flat", "hnsw", "ivf"]))
    def create(self, metric: Any, kind: Any) -> None:
        # One list needs 39 vectors to train on: never reached here, where IVF must be exact; see the tests below.
        self.spec = IndexSpec("x", 3, metric=metric, kind=kind, nlist=1, nprobe=1)
        self.store.create(self.spec)

    @rule(batch=st.lists(ITEMS, max_size=6))
    def add(self, batch: list[Item]) -> None:
        assert self.store.add("x", batch) == len(batch)
        self.model.update({item.id: item for item in batch})

    @rule(batch=st.lists(ITEMS, min_size=1, max_size=3))
    def add_nothing_if_one_is_bad(self, batch: list[Item]) -> None:
        with pytest.raises(InvalidRequest) as caught:
            self.store.add("x", [*batch, Item("bad", np.zeros(4, np.float32))])
        assert caught.value.param == f"items[{len(batch)}].vector"

    @rule(ids=st.lists(IDS, max_size=3))
    def delete_ids(self, ids: list[str]) -> None:
        assert self.store.delete("x", ids=ids) == len(set(ids) & self.model.keys())
        self.model = {name: item for name, item in self.model.items() if name not in ids}

    @rule(data=FILTERS)
    def delete_by_filter(self, data: dict[str, Any]) -> None:
        doomed = {name for name, item in self.model.items() if meets(item.metadata, data)}
        assert self.store.delete("x", filter=parse_filter(data)) == len(doomed)
        self.model = {name: item for name, item in self.model.items() if name not in doomed}

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = VectorStore(self.root, max_bytes=PLENTY)

    @rule(ids=st.lists(IDS, max_size=4, unique=True))
    def get(self, ids: list[str]) -> None:
        found = self.store.get("x", ids)
        assert [item.id for item in found] == [name for name in ids if name in self.model]
        for item in found:
            assert item.vector.dtype == np.float32
            assert item.vector.tolist() == self.model[item.id].vector.tolist()
            assert item.metadata == self.model[item.id].metadata

    @rule(query=VECTORS, k=st.integers(1, 9), data=st.none() | FILTERS, vectors=st.booleans())
    def search(self, query: list[int], k: int, data: dict[str, Any] | None, vectors: bool) -> None:
        condition = None if data is None else parse_filter(data)
        (hits,) = self.store.search("x", [query], k, filter=condition, include_vectors=vectors)
        asked = np.array(query, np.float32)
        scores = {
            name: true_score(self.spec.metric, asked, item.vector)
            for name, item in self.model.items()
            if data is None or meets(item.metadata, data)
        }
        best = sorted(scores.values(), reverse=True)[:k]
        np.testing.assert_allclose([hit.score for hit in hits], best, atol=1e-5)
        assert len({hit.id for hit in hits}) == len(hits)
        for hit in hits:
            assert hit.score == pytest.approx(scores[hit.id], abs=1e-5)
            assert hit.metadata == self.model[hit.id].metadata
            assert (hit.vector is not None) == vectors
            assert hit.vector is None or hit.vector.tolist() == self.model[hit.id].vector.tolist()

    @precondition(lambda self: hasattr(self, "spec"))
    @invariant()
    def count_agrees(self) -> None:
        assert self.store.info("x").count == len(self.model)
        self.store.check()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.root)


TestStoreAgainstDictionary = StoreAgainstDictionary.TestCase
TestStoreAgainstDictionary.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VectorStore, dict[str, Any]]]:
    """A store with every scalar of `SCALARS` alone, in pairs, and in lists, and the metadata by id."""
    scalars = [None, True, False, -2, 0, 1, 2, -1.0, 0.5, 1.0, 0.1 + 0.2, 2.0**53, 2**53 + 1, 2**63 - 1]
    scalars += ["", "1", "a", "b", "é", "\U0001f45f", '"', "\\", "nul\0x"]
    metadata: list[dict[str, Any]] = [{}, {"a": []}, {"b": []}, {"a": [1, 1.0, True]}]
    metadata += [{key: value} for value in scalars for key in ("a", "b", 'quo"te.[0]')]
    metadata += [{"a": [x, y], "b": y} for x, y in zip(scalars, scalars[5:] + scalars[:5], strict=True)]
    by_id: dict[str, Any] = {f"i{i}": entry for i, entry in enumerate(metadata)}
    store = VectorStore(tmp_path_factory.mktemp("varied"), max_bytes=PLENTY)
    store.create(IndexSpec("x", 1))
    store.add("x", [Item(name, np.ones(1, np.float32), entry) for name, entry in by_id.items()])
    yield store, by_id
    store.close()


@settings(max_examples=300, deadline=None)
@given(data=FILTERS)
def test_filters_mean_what_they_say(varied: tuple[VectorStore, dict[str, Any]], data: dict[str, Any]) -> None:
    store, by_id = varied
    (hits,) = store.search("x", [1], 1000, filter=parse_filter(data))
    assert {hit.id for hit in hits} == {name for name, entry in by_id.items() if meets(entry, data)}
