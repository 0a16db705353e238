"""The searchable half of an index: its vectors in FAISS, in memory.

FAISS knows a vector by its position, the order of arrival. `MemoryIndex` maps positions to row ids and back through
one ascending array, and hides positions from searches with a bitmap. Deletion is therefore the same for every kind of
index, HNSW included, which cannot remove: the position stays, hidden, until `needs_rebuild` asks for a new index.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from deployments.vector_types import Float32s, IndexSpec, Int64s

# FAISS's own stubs appeared late and contradict its constructors, so this module treats it as untyped.
faiss: Any = importlib.import_module("faiss")

Fetch = Callable[[Int64s], Float32s]
"""Vectors (n, dimension) of ascending row ids (n,), as they were given."""

FILL_ROWS: Final = 4096
MAX_DEAD_SHARE: Final = 0.25
MIN_DEAD: Final = 256
RETRAIN_GROWTH: Final = 4

# What FAISS's k-means asks for (fewer give poor centroids) and what it uses at most, per list.
TRAIN_MIN_PER_LIST: Final = 39
TRAIN_MAX_PER_LIST: Final = 256

# Below either bound a filtered search compares every eligible vector: it is exact, and not slower than a walk through
# a graph or lists in which few entries count.
EXACT_ROWS: Final = 10_000
EXACT_SHARE: Final = 0.1

_Array = TypeVar("_Array", bound=npt.NDArray[Any])


def set_threads(count: int) -> None:
    """Sets how many threads FAISS uses for calls made by this thread (OpenMP keeps the number per calling thread)."""
    faiss.omp_set_num_threads(count)


def row_bytes(spec: IndexSpec) -> int:
    """Memory of one vector: components, row id, visibility, and links or list entry."""
    links = {
        "flat": 0,
        # 2 M links on the bottom level, about one more above it in the mean, each 4 bytes; level and offset: 12.
        "hnsw": 4 * (2 * spec.hnsw_m + 2) + 12,
        "ivf": 8,
    }
    return 4 * spec.dimension + 9 + links[spec.kind]


def base_bytes(spec: IndexSpec) -> int:
    """Memory of an index without vectors."""
    return 4096 + (4 * spec.nlist * spec.dimension if spec.kind == "ivf" else 0)


class MemoryIndex:
    """Vectors of one index, searchable.

    Not locked: the caller lets many threads search, or one thread change it.

    Args:
        spec: the index.
        rows: (n,) int64, ascending: what it holds at first.
        fetch: reads the vectors of some of `rows`.
    """

    def __init__(self, spec: IndexSpec, rows: Int64s, fetch: Fetch) -> None:
        self._spec = spec
        self._trained_at = 0
        self._index = self._new_index(rows, fetch)
        self._rows = np.empty(0, dtype=np.int64)
        self._visible = np.empty(0, dtype=np.bool_)
        self._live = 0
        for start in range(0, len(rows), FILL_ROWS):
            chunk = rows[start : start + FILL_ROWS]
            self.append(chunk, fetch(chunk))
        self.publish(rows, np.empty(0, dtype=np.int64))

    @property
    def live(self) -> int:
        """Vectors that a search can find."""
        return self._live

    @property
    def nbytes(self) -> int:
        """Memory, hidden vectors included; spare capacity of arrays that grow is not counted."""
        return base_bytes(self._spec) + self._total * row_bytes(self._spec)

    @property
    def needs_rebuild(self) -> bool:
        """Whether hidden vectors take too much, or an IVF index has grown enough to be trained (again)."""
        dead = self._total - self._live
        if dead and (self._live == 0 or (dead >= MIN_DEAD and dead > MAX_DEAD_SHARE * self._total)):
            return True
        if self._spec.kind != "ivf" or self._live < TRAIN_MIN_PER_LIST * self._spec.nlist:
            return False
        return self._live >= RETRAIN_GROWTH * self._trained_at

    @property
    def has_dead(self) -> bool:
        """Whether a rebuild would free memory."""
        return self._live < self._total

    def append(self, rows: Int64s, vectors: Float32s) -> None:
        """Adds vectors, hidden.

        Args:
            rows: (n,) int64, ascending, above every earlier one.
            vectors: (n, dimension) float32 as given.
        """
        start, end = self._total, self._total + len(rows)
        self._rows = _with_room(self._rows, end)
        self._visible = _with_room(self._visible, end)
        self._rows[start:end] = rows
        self._visible[start:end] = False
        self._index.add(self._comparable(vectors))

    def publish(self, rows: Int64s, gone: Int64s) -> None:
        """Shows appended `rows` to searches and hides `gone`, both (n,) int64 and present."""
        self._visible[self._positions(rows)] = True
        self._visible[self._positions(gone)] = False
        self._live += len(rows) - len(gone)

    def search(self, queries: Float32s, k: int, eligible: Int64s | None) -> tuple[Float32s, Int64s]:
        """The best vectors for each query.

        Args:
            queries: (q, dimension) float32.
            k: hits wanted.
            eligible: (m,) int64, the visible rows that may be found; None for all.

        Returns:
            Scores (q, j) and row ids (q, j), best first, j at most k. Where fewer than j exist, rows are -1.
        """
        mask = self._mask(eligible)
        count = self._live if eligible is None else len(eligible)
        k = min(k, count)
        if k == 0:
            return np.empty((len(queries), 0), dtype=np.float32), np.empty((len(queries), 0), dtype=np.int64)
        exact = eligible is not None and (count <= EXACT_ROWS or count < EXACT_SHARE * self._total)
        scores, positions = self._run(self._comparable(queries), k, mask, share=count / self._total, exact=exact)
        short = np.flatnonzero((positions < 0).any(axis=1))
        if len(short):  # The graph or the probed lists held too few of them; all k exist, so look at everything.
            queries = self._comparable(queries[short])
            scores[short], positions[short] = self._run(queries, k, mask, share=1.0, exact=True)
        return self._as_scores(scores), np.where(positions < 0, -1, self._rows[positions])

    @property
    def _total(self) -> int:
        return int(self._index.ntotal)

    def _new_index(self, rows: Int64s, fetch: Fetch) -> Any:
        spec = self._spec
        metric = faiss.METRIC_L2 if spec.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        if spec.kind == "hnsw":
            graph = faiss.IndexHNSWFlat(spec.dimension, spec.hnsw_m, metric)
            graph.hnsw.efConstruction = spec.ef_construction
            return graph
        flat = faiss.IndexFlat(spec.dimension, metric)
        if spec.kind == "flat" or len(rows) < TRAIN_MIN_PER_LIST * spec.nlist:
            return flat
        lists = faiss.IndexIVFFlat(flat, spec.dimension, spec.nlist, metric)
        lists.train(self._comparable(fetch(_spread(rows, TRAIN_MAX_PER_LIST * spec.nlist))))
        self._trained_at = len(rows)
        return lists

    def _comparable(self, vectors: Float32s) -> Float32s:
        if self._spec.metric != "cosine":
            return np.ascontiguousarray(vectors)
        # Scaled first: the square of a very small component would vanish in float32.
        scaled = vectors / np.abs(vectors).max(axis=1, keepdims=True)
        return np.ascontiguousarray(scaled / np.linalg.norm(scaled, axis=1, keepdims=True))

    def _as_scores(self, raw: Float32s) -> Float32s:
        if self._spec.metric == "l2":
            return -raw
        return np.clip(raw, -1.0, 1.0) if self._spec.metric == "cosine" else raw

    def _positions(self, rows: Int64s) -> npt.NDArray[np.intp]:
        return np.searchsorted(self._rows[: self._total], rows)

    def _mask(self, eligible: Int64s | None) -> npt.NDArray[np.bool_] | None:
        if eligible is not None:
            mask = np.zeros(self._total, dtype=np.bool_)
            mask[self._positions(eligible)] = True
            return mask
        # Always one for l2: without, FAISS may compute many distances as |q|²-2qx+|x|², which cancels badly far from 0.
        return self._visible[: self._total] if self.has_dead or self._spec.metric == "l2" else None

    def _run(
        self, queries: Float32s, k: int, mask: npt.NDArray[np.bool_] | None, *, share: float, exact: bool
    ) -> tuple[Float32s, Int64s]:
        selector = None if mask is None else faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        index, parameters = self._index, faiss.SearchParameters(sel=selector)
        if isinstance(index, faiss.IndexHNSW) and exact:
            index = faiss.downcast_index(index.storage)
        elif isinstance(index, faiss.IndexHNSW):
            # Only `share` of the candidates can become hits, so keep more of them.
            ef = int(max(self._spec.ef_search, k) / share)
            parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=ef)
        elif isinstance(index, faiss.IndexIVF):
            probes = self._spec.nlist if exact else self._spec.nprobe
            parameters = faiss.SearchParametersIVF(sel=selector, nprobe=probes)
        scores, positions = index.search(queries, k, params=parameters)
        return scores, positions


def _with_room(array: _Array, size: int) -> _Array:
    """`array`, or a copy at least twice as long, so that appending costs little in the mean."""
    if size <= len(array):
        return array
    longer = np.empty(max(size, 2 * len(array)), dtype=array.dtype)
    longer[: len(array)] = array
    return longer  # type: ignore[return-value]


def _spread(rows: Int64s, limit: int) -> Int64s:
    """At most `limit` of `rows`, evenly spread, ascending."""
    return rows if len(rows) <= limit else rows[np.linspace(0, len(rows) - 1, limit).astype(np.int64)]
