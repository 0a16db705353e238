"""Group commit: many callers' additions in one transaction.

A commit waits for the disk, and one disk wait can serve everybody who is there when it starts. While the writer thread
commits, later additions gather; when it is free it takes what has gathered. Nothing waits for a timer.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Final

from deployments.vector_sql import Record
from serve.errors import ArgusError, Overloaded

MAX_GROUP_ITEMS: Final = 4096

Commit = Callable[[str, Sequence[Sequence[Record]]], Sequence[int | ArgusError]]
"""(index, batches) -> for each batch the number of items or its error."""


@dataclass(frozen=True, slots=True)
class WriteStats:
    """Since the start.

    Attributes:
        adds: additions that were committed.
        items: items in them.
        commits: groups of additions, of one index each, that went to disk together.
    """

    adds: int = 0
    items: int = 0
    commits: int = 0


@dataclass(slots=True, eq=False)
class _Add:
    records: Sequence[Record]
    done: Future[int] = field(default_factory=Future)

    @property
    def weight(self) -> int:
        """Items that count as pending; an empty addition waits like any other."""
        return max(1, len(self.records))


class GroupCommit:
    """Gathers additions by index and commits each group on the writer.

    Args:
        commit: writes a group.
        maintain: called with the index's name after each group, when its callers have their answers; does not raise.
        writer: an executor of one thread.
        max_pending_items: items that may wait or be under way, all indexes together.
    """

    def __init__(
        self, commit: Commit, maintain: Callable[[str], None], writer: Executor, *, max_pending_items: int
    ) -> None:
        self._commit = commit
        self._maintain = maintain
        self._writer = writer
        self._max_pending_items = max_pending_items
        self._changed = threading.Condition()
        self._waiting: defaultdict[str, deque[_Add]] = defaultdict(deque)
        self._pending_items = 0
        self._stats = WriteStats()

    @property
    def stats(self) -> WriteStats:
        """What has been committed."""
        return self._stats

    def submit(self, name: str, records: Sequence[Record]) -> Future[int]:
        """Queues one addition; the future gives its number of items, or its error.

        Cancelling the future before its group starts takes the addition out; later it has no effect on the data.

        Raises:
            Overloaded: too many items are waiting.
        """
        add = _Add(records)
        with self._changed:
            if self._pending_items + add.weight > self._max_pending_items:
                raise Overloaded("too many items are waiting to be written", code="writes_overloaded")
            queue = self._waiting[name]
            if not queue:  # Otherwise a drain is already on its way, and will take this one too.
                self._writer.submit(self._drain, name)
            queue.append(add)
            self._pending_items += add.weight
        return add.done

    def wait_idle(self) -> None:
        """Returns when everything that was submitted has been answered."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending_items == 0)

    def _drain(self, name: str) -> None:
        group = self._take(name)
        wanted = [add for add in group if add.done.set_running_or_notify_cancel()]
        if wanted:
            self._run(name, wanted)
        with self._changed:
            self._pending_items -= sum(add.weight for add in group)
            self._changed.notify_all()
        self._maintain(name)

    def _take(self, name: str) -> list[_Add]:
        """The oldest waiting additions, at least one, up to MAX_GROUP_ITEMS; sees to it that the rest gets its turn."""
        with self._changed:
            queue = self._waiting[name]
            group = [queue.popleft()]
            size = group[0].weight
            while queue and size + queue[0].weight <= MAX_GROUP_ITEMS:
                group.append(queue.popleft())
                size += group[-1].weight
            if queue:
                self._writer.submit(self._drain, name)
            else:
                del self._waiting[name]
            return group

    def _run(self, name: str, group: list[_Add]) -> None:
        try:
            outcomes = self._commit(name, [add.records for add in group])
        except BaseException as error:  # Whatever it was, callers must hear of it and the writer must go on.
            for add in group:
                add.done.set_exception(error)
            return
        written = [outcome for outcome in outcomes if isinstance(outcome, int)]
        self._stats = WriteStats(
            self._stats.adds + len(written), self._stats.items + sum(written), self._stats.commits + bool(written)
        )
        for add, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, ArgusError):
                add.done.set_exception(outcome)
            else:
                add.done.set_result(outcome)
