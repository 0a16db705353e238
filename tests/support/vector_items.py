"""Stores and vectors that tests of the vector store share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.vector_store import VectorStore
from deployments.vector_types import IndexSpec, Item

PLENTY = 2**30
Array = np.ndarray[Any, Any]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VectorStore]:
    opened = VectorStore(tmp_path / "store", max_bytes=PLENTY)
    yield opened
    opened.close()


def clustered(count: int, dimension: int, seed: int = 0) -> Array:
    """Vectors around 40 centres, as embeddings of images of 40 kinds of things would lie."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, dimension))
    near = centres[rng.integers(40, size=count)]
    return (near + 0.4 * rng.standard_normal((count, dimension))).astype(np.float32)


def items(vectors: Array, first: int = 0, **metadata: Any) -> list[Item]:
    return [Item(f"i{i}", vector, {"n": i, **metadata}) for i, vector in enumerate(vectors, first)]


def fill(store: VectorStore, spec: IndexSpec, vectors: Array) -> None:
    store.create(spec)
    for start in range(0, len(vectors), 1000):
        store.add(spec.name, items(vectors[start : start + 1000], start))


def true_score(metric: str, query: Array, vector: Array) -> float:
    query, vector = query.astype(np.float64), vector.astype(np.float64)
    if metric == "l2":
        return float(-np.square(query - vector).sum())
    norms = np.linalg.norm(query) * np.linalg.norm(vector) if metric == "cosine" else 1.0
    return float(query @ vector / norms)
