"""The vocabulary of the vector index: specs, items and filters."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from deployments.vector_filter import And, Exists, Filter, In, Not, Or, Range, parse_filter
from deployments.vector_types import Hit, IndexInfo, IndexSpec, Item
from serve.errors import InvalidRequest


def test_types_need_neither_faiss_nor_sqlite() -> None:
    imports = "import sys, deployments.vector_types, deployments.vector_filter"
    code = f"{imports}; print('faiss' in sys.modules, 'sqlite3' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


def test_types_survive_pickling() -> None:
    spec = IndexSpec("shoes", 3, metric="l2", kind="hnsw", model="clip")
    info = IndexInfo(spec, 7, 1000)
    condition = parse_filter({"a": {"in": [1, "x", None]}, "$not": {"$or": [{"b": True}, {"c": {"lt": 2.5}}]}})
    assert pickle.loads(pickle.dumps((spec, info, condition))) == (spec, info, condition)

    item = pickle.loads(pickle.dumps(Item("i", np.arange(3, dtype=np.float32), {"tags": ["a"]})))
    assert (item.id, item.vector.tolist(), item.metadata) == ("i", [0, 1, 2], {"tags": ["a"]})
    hit = pickle.loads(pickle.dumps(Hit("i", 0.5, {})))
    assert (hit.id, hit.score, hit.metadata, hit.vector) == ("i", 0.5, {}, None)


@pytest.mark.parametrize("name", ["a", "0", "clip-vit_b32", "a" * 63])
def test_good_index_names(name: str) -> None:
    assert IndexSpec(name, 4).name == name


@pytest.mark.parametrize("name", ["", "A", "-a", "_a", ".a", "..", "a/b", "../a", "a.b", "a\n", "a" * 64, "é", None, 3])
def test_index_names_cannot_leave_the_folder(name: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        IndexSpec(name, 4)
    assert (caught.value.code, caught.value.param) == ("invalid_index_name", "name")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dimension", 0),
        ("dimension", 8193),
        ("dimension", 4.0),
        ("dimension", True),
        ("metric", "cos"),
        ("kind", "pq"),
        ("hnsw_m", 3),
        ("ef_construction", 0),
        ("ef_search", 5000),
        ("nlist", 0),
        ("nprobe", 257),
        ("model", ""),
        ("model", 7),
    ],
)
def test_spec_names_the_field_that_is_out_of_bounds(field: str, value: Any) -> None:
    values: dict[str, Any] = {"name": "a", "dimension": 4, field: value}
    with pytest.raises(InvalidRequest) as caught:
        IndexSpec(**values)
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"a": 1}, In("a", (1,))),
        ({"a": None}, In("a", (None,))),
        ({"a": {"eq": "x"}}, In("a", ("x",))),
        ({"a": {"in": [1, True]}}, In("a", (1, True))),
        ({"a": {"gte": 1, "lt": 2.5}}, And((Range("a", "gte", 1), Range("a", "lt", 2.5)))),
        ({"a": {"exists": True}}, Exists("a")),
        ({"a": {"exists": False}}, Not(Exists("a"))),
        ({"a": 1, "b": 2}, And((In("a", (1,)), In("b", (2,))))),
        ({"$or": [{"a": 1}, {"b": 2}]}, Or((In("a", (1,)), In("b", (2,))))),
        ({"$and": [{"a": 1}]}, And((In("a", (1,)),))),
        ({"$not": {"a": 1}}, Not(In("a", (1,)))),
    ],
)
def test_filters_parse(data: Any, expected: Filter) -> None:
    assert parse_filter(data) == expected


@pytest.mark.parametrize(
    ("data", "param", "code"),
    [
        ({"price": {"less": 3}}, "filter.price.less", "unknown_operator"),
        ({"price": {"$lt": 3}}, "filter.price.$lt", "unknown_operator"),
        ({"$nor": [{"a": 1}]}, "filter.$nor", "unknown_operator"),
        ({"$or": [{"a": 1}, {"b": {"x": 1}}]}, "filter.$or[1].b.x", "unknown_operator"),
        ({"$not": {"a": {"x": 1}}}, "filter.$not.a.x", "unknown_operator"),
        ({}, "filter", "invalid_request"),
        ([], "filter", "invalid_request"),
        (None, "filter", "invalid_request"),
        ({"$or": []}, "filter.$or", "invalid_request"),
        ({"$and": {"a": 1}}, "filter.$and", "invalid_request"),
        ({"$not": [{"a": 1}]}, "filter.$not", "invalid_request"),
        ({"a": {}}, "filter.a", "invalid_request"),
        ({"a": [1, 2]}, "filter.a", "invalid_request"),
        ({"a": {"in": []}}, "filter.a.in", "invalid_request"),
        ({"a": {"in": "xy"}}, "filter.a.in", "invalid_request"),
        ({"a": {"in": [1, [2]]}}, "filter.a.in[1]", "invalid_request"),
        ({"a": {"exists": 1}}, "filter.a.exists", "invalid_request"),
        ({"a": {"lt": True}}, "filter.a.lt", "invalid_request"),
        ({"a": {"lt": None}}, "filter.a.lt", "invalid_request"),
        ({"a": {"eq": float("nan")}}, "filter.a.eq", "invalid_request"),
        ({"a": 2**63}, "filter.a", "invalid_request"),
        ({"a": "\ud800"}, "filter.a", "invalid_request"),
        ({3: 1}, "filter.3", "invalid_request"),
        ({"a": {"in": [1] * 1001}}, "filter.a.in[1000]", "filter_too_large"),
        ({f"f{i}": 1 for i in range(65)}, "filter.f64", "filter_too_large"),
        ({"a": "x" * 65_536}, "filter.a", "filter_too_large"),
    ],
)
def test_bad_filters_name_the_key(data: Any, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_filter(data)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_filter_depth_is_bounded() -> None:
    data: dict[str, Any] = {"a": 1}
    for _ in range(7):
        data = {"$not": data}
    parse_filter(data)
    for _ in range(5000):
        data = {"$not": data}
    with pytest.raises(InvalidRequest) as caught:
        parse_filter(data)
    assert caught.value.code == "filter_too_large"
