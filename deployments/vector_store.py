"""The engine of the vector index: named indexes in one folder, durable on disk, searched in memory.

    <root>/.lock              held by the one process that has the store open
    <root>/<index>/items.db   the items of an index; FAISS is filled from it when the store opens
    <root>/.new-*, .old-*     an index being created or dropped; swept when the store opens

An index appears and disappears by one rename of its folder, so a crash leaves all of it or none.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from deployments.folder_lock import FolderLock
from deployments.vector_checks import (
    check_count,
    check_filter,
    check_id,
    check_ids,
    check_k,
    check_queries,
    check_vector,
    encode_metadata,
)
from deployments.vector_collection import Collection
from deployments.vector_faiss import base_bytes, row_bytes
from deployments.vector_filter import Filter
from deployments.vector_sql import Record, fields_of
from deployments.vector_types import INDEX_NAME, Hit, IndexInfo, IndexSpec, Item, another_checkpoint, check_index_name
from serve.errors import ArgusError, Conflict, InvalidRequest, NotFound, OutOfCapacity, Unavailable

_TEMPORARY: Final = re.compile(r"\.(new|old)-.*")


class VectorStore:
    """Indexes of vectors under one folder.

    Safe to call from many threads: searches run at the same time, changes one after the other. All methods block.

    Args:
        root: the store's folder; made when absent.
        max_bytes: memory that the indexes may take together: vectors, graphs, lists and what deleted items still occupy
            (see `IndexInfo.bytes`). Not counted: SQLite's page caches (2 MB a connection), spare capacity of growing
            arrays, and vectors on their way from disk: a block of 4096, or an IVF index's training sample.
        max_indexes: number of indexes.
        max_batch: items in one add; ids in one get or delete.
        max_queries: queries in one search.

    Raises:
        Conflict: `store_locked`; another process, or this one, has the store open.
        OutOfCapacity: the indexes on disk need more than `max_bytes`, or are more than `max_indexes`.
        Unavailable: the disk failed.
    """

    def __init__(
        self,
        root: Path,
        *,
        max_bytes: int,
        max_indexes: int = 1000,
        max_batch: int = 1000,
        max_queries: int = 64,
    ) -> None:
        self._root = Path(root)
        self._max_bytes = max_bytes
        self._max_indexes = max_indexes
        self._max_batch = max_batch
        self._max_queries = max_queries
        self._changing = threading.RLock()
        self._closed = False
        self._collections: dict[str, Collection] = {}
        self._root.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self._root)
        try:
            self._open_all()
        except BaseException:
            self.close()
            raise

    def create(self, spec: IndexSpec) -> IndexInfo:
        """Creates an empty index. Creating it again with an equal spec does nothing, so a retry is safe.

        Raises:
            Conflict: the name is taken by an index with another spec; `index_of_another_checkpoint`: only that differs.
            OutOfCapacity: no room for an index.
        """
        check_index_name(spec.name, param="name")
        with self._change():
            existing = self._collections.get(spec.name)
            if existing is not None:
                _check_same(existing.spec, spec)
                return existing.info()
            if len(self._collections) >= self._max_indexes:
                raise OutOfCapacity(f"the store holds its {self._max_indexes} indexes", code="too_many_indexes")
            if not self._fits(base_bytes(spec)):
                raise self._full()
            temporary, folder = self._root / f".new-{spec.name}", self._root / spec.name
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            Collection.create(temporary, spec)
            self._rename(temporary, folder)
            # A new dictionary each time: readers look names up without a lock.
            self._collections = {**self._collections, spec.name: Collection(folder)}
            return self._collections[spec.name].info()

    def drop(self, name: str) -> None:
        """Deletes an index and its items; waits for searches under way.

        Raises:
            NotFound: no such index.
        """
        with self._change():
            collection = self._collection(name)
            self._collections = {key: value for key, value in self._collections.items() if key != name}
            collection.close()
            doomed = self._root / f".old-{name}"
            shutil.rmtree(doomed, ignore_errors=True)
            self._rename(self._root / name, doomed)
            shutil.rmtree(doomed, ignore_errors=True)  # What stays is swept at the next opening.

    def list_indexes(self) -> list[IndexInfo]:
        """Every index, by name."""
        self._usable()
        return [collection.info() for _, collection in sorted(self._collections.items())]

    def info(self, name: str) -> IndexInfo:
        """One index.

        Raises:
            NotFound: no such index.
        """
        return self._collection(name).info()

    def add(self, name: str, items: Sequence[Item]) -> int:
        """Adds items, replacing those with the same id; all of them or none. Durable when this returns.

        Of two items with one id in a batch the later one counts.

        Returns:
            The number of items given.

        Raises:
            InvalidRequest: an item that cannot be stored; `param` is its path, such as `items[3].vector`.
            NotFound: no such index.
            OutOfCapacity: `max_bytes` or the disk does not suffice; nothing was written.
        """
        records = self.prepare(name, items)
        with self._change():
            (outcome,) = self.commit(name, [records])
            self.maintain(name)
        if isinstance(outcome, ArgusError):
            raise outcome
        return outcome

    def prepare(self, name: str, items: Sequence[Item]) -> list[Record]:
        """The validated form of a batch, for `commit`. Raises what `add` raises for the items themselves."""
        spec = self._collection(name).spec
        check_count(items, self._max_batch, param="items")
        return [_record(item, spec, f"items[{i}]") for i, item in enumerate(items)]

    def commit(self, name: str, batches: Sequence[Sequence[Record]]) -> list[int | ArgusError]:
        """Adds several callers' batches, in order, in one transaction where possible.

        Each batch succeeds or fails for itself: one that does not fit is left out, and if the transaction fails the
        batches are tried one by one. The caller runs `maintain` afterwards.

        Returns:
            For each batch the number of items, or its error.
        """
        with self._change():
            try:
                collection = self._collection(name)
            except ArgusError as error:
                return [error] * len(batches)
            return self._commit(collection, batches)

    def maintain(self, name: str) -> None:
        """Compacts or trains an index that needs it; does nothing if there is no such index."""
        with self._change():
            collection = self._collections.get(name)
            if collection is not None and collection.needs_rebuild:
                collection.rebuild(aside=self._fits(collection.rebuilt_bytes))

    def delete(self, name: str, *, ids: Iterable[str] | None = None, filter: Filter | None = None) -> int:
        """Deletes items by id or by filter, in one transaction; ids that do not exist are passed over.

        Returns:
            The number of items deleted.

        Raises:
            InvalidRequest: neither or both of `ids` and `filter`; an invalid id.
            NotFound: no such index.
        """
        with self._change():
            deleted = self.remove(name, ids=ids, filter=filter)
            self.maintain(name)
            return deleted

    def remove(self, name: str, *, ids: Iterable[str] | None = None, filter: Filter | None = None) -> int:
        """`delete` without the `maintain` that should follow it."""
        if (ids is None) == (filter is None):
            raise InvalidRequest("give either ids or a filter", param="ids")
        wanted = check_filter(filter) or check_ids(ids or (), self._max_batch)
        with self._change():
            return self._collection(name).delete(wanted)

    def get(self, name: str, ids: Iterable[str]) -> list[Item]:
        """The items among `ids` that exist, in the order asked for, vectors as they were added.

        Raises:
            InvalidRequest: an invalid id.
            NotFound: no such index.
        """
        return self._collection(name).get(check_ids(ids, self._max_batch))

    def search(
        self, name: str, queries: Any, k: int, *, filter: Filter | None = None, include_vectors: bool = False
    ) -> list[list[Hit]]:
        """The best items for each query.

        A search finds k hits whenever k items (that meet the filter) exist. `flat` is exact. `hnsw` and `ivf` are exact
        too when at most 10,000 items or a tenth of the index meet the filter, and approximate otherwise.

        Args:
            name: the index.
            queries: (q, dimension) or (dimension,) numbers.
            k: hits a query, 1 to 1000.
            filter: only items that meet it are found.
            include_vectors: return each hit's vector.

        Returns:
            One list a query, best first.

        Raises:
            InvalidRequest: queries of another dimension, not finite, or zero under cosine; k out of bounds.
            NotFound: no such index.
        """
        collection = self._collection(name)
        matrix = check_queries(queries, collection.spec, self._max_queries)
        return collection.search(matrix, check_k(k), check_filter(filter), include_vectors=include_vectors)

    def check(self) -> None:
        """Reads and searches every index once.

        Raises:
            Unavailable: the folder is gone, or an index fails; see `Collection.check`.
        """
        self._usable()
        self._lock.check()
        for name, collection in self._collections.items():
            try:
                collection.check()
            except NotFound:  # Dropped since the loop began.
                if name in self._collections:
                    raise

    def close(self) -> None:
        """Waits for what runs, closes the files and frees the folder. May be called again."""
        with self._changing:
            self._closed = True
            for collection in self._collections.values():
                collection.close()
            self._lock.release()

    def _open_all(self) -> None:
        folders = []
        for path in sorted(self._root.iterdir()):
            if _TEMPORARY.fullmatch(path.name):
                shutil.rmtree(path)
            elif INDEX_NAME.fullmatch(path.name) and path.is_dir():  # Volumes bring folders such as lost+found.
                folders.append(path)
        needed = sum(Collection.stored_bytes(folder) for folder in folders)
        if needed > self._max_bytes or len(folders) > self._max_indexes:
            raise OutOfCapacity(
                f"{self._root} holds {len(folders)} indexes that need {needed} bytes; "
                f"max_indexes is {self._max_indexes}, max_bytes {self._max_bytes}",
                param="max_bytes" if needed > self._max_bytes else "max_indexes",
            )
        for folder in folders:
            self._collections[folder.name] = Collection(folder)

    def _commit(self, collection: Collection, batches: Sequence[Sequence[Record]]) -> list[int | ArgusError]:
        outcomes: list[int | ArgusError] = []
        accepted: list[Record] = []
        for batch in batches:
            if self._make_room(collection, len(accepted) + len(batch)):
                accepted.extend(batch)
                outcomes.append(len(batch))
            else:
                outcomes.append(self._full())
        try:
            collection.put(accepted)
        except ArgusError as error:
            if len(batches) == 1:
                return [error]
            return [outcome for batch in batches for outcome in self._commit(collection, [batch])]
        return outcomes

    def _make_room(self, collection: Collection, rows: int) -> bool:
        """Whether `rows` more vectors fit, if need be after compaction."""
        wanted = rows * row_bytes(collection.spec)
        if not self._fits(wanted) and collection.has_dead:
            collection.rebuild(aside=self._fits(collection.rebuilt_bytes))
        return self._fits(wanted)

    def _fits(self, more: int) -> bool:
        return sum(collection.nbytes for collection in self._collections.values()) + more <= self._max_bytes

    def _full(self) -> OutOfCapacity:
        return OutOfCapacity(f"the indexes would need more than the store's {self._max_bytes} bytes")

    def _collection(self, name: str) -> Collection:
        self._usable()
        collection = self._collections.get(check_index_name(name, param="index"))
        if collection is None:
            raise NotFound(f"there is no index {name!r}", code="index_not_found", param="index")
        return collection

    @contextmanager
    def _change(self) -> Iterator[None]:
        with self._changing:
            self._usable()
            try:
                yield
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise OutOfCapacity("the disk that holds the store is full", code="disk_full") from error
                raise Unavailable(f"the store's folder failed: {error}", code="store_io") from error

    def _usable(self) -> None:
        if self._closed:
            raise Unavailable("the store is closed", code="store_closed")

    def _rename(self, source: Path, target: Path) -> None:
        source.rename(target)
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)  # The name is durable only once its folder is.
        finally:
            os.close(descriptor)


def _check_same(existing: IndexSpec, asked: IndexSpec) -> None:
    """Raises what `create` raises. Of an index that has no checkpoint on record, every one may be the right one."""
    if replace(asked, checkpoint=existing.checkpoint) != existing:
        raise Conflict(f"index {asked.name!r} exists with another spec", code="index_exists", param="name")
    if existing.checkpoint not in (None, asked.checkpoint):
        raise another_checkpoint(existing, asked.checkpoint, param="name")


def _record(item: Any, spec: IndexSpec, param: str) -> Record:
    if not isinstance(item, Item):
        raise InvalidRequest("not an item", param=param)
    name = check_id(item.id, param=f"{param}.id")
    vector = check_vector(item.vector, spec, param=f"{param}.vector")
    metadata = encode_metadata(item.metadata, param=f"{param}.metadata")
    return Record(name, metadata, fields_of(item.metadata), vector)
