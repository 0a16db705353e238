"""The side that decides: Locust's master, or the one process of a run without workers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import gevent
from gevent.event import Event
from gevent.queue import Empty, Queue

from benchmarks.loadtest import messages
from benchmarks.loadtest.columns import Columns, merged, unpack
from benchmarks.loadtest.locust_api import MasterRunner
from benchmarks.loadtest.messages import Begin, Cancel, Ended, Go, Message, Piece, Ping, Pong, Progress, Ready
from benchmarks.loadtest.record import LoadRecord, build
from benchmarks.loadtest.settings import Settings
from serve.errors import ArgusError, Unavailable

_log = logging.getLogger(__name__)
_PREPARE_S = 600.0
_SPAWN_S = 30.0
_PONG_S = 10.0
_PINGS = 5
# From the last GO to the first request: enough for it to reach every worker.
_LEAD_S = 0.5
# Beyond the run's own end, for columns to come in.
_COLLECT_S = 60.0
_CANCEL_S = 15.0


@dataclass(slots=True)
class _Gathered:
    """What has come from the workers."""

    progress: dict[int, Progress] = field(default_factory=dict)
    pieces: dict[int, list[bytes]] = field(default_factory=dict)
    ended: dict[int, Ended] = field(default_factory=dict)

    def take(self, name: str, data: Any) -> None:
        """One message."""
        if name == messages.PROGRESS:
            progress = Progress.model_validate(data)
            self.progress[progress.index] = progress
        elif name == messages.COLUMNS:
            piece = Piece.model_validate(data)
            self.pieces.setdefault(piece.index, []).append(piece.data)
        elif name == messages.ENDED:
            ended = Ended.model_validate(data)
            self.ended[ended.index] = ended

    def total(self, run: str) -> Progress | None:
        """All workers together."""
        parts = list(self.progress.values())
        if not parts:
            return None
        sums = {
            name: sum(getattr(part, name) for part in parts)
            for name in ("requests", "sent", "done", "failed", "in_flight")
        }
        return Progress(run=run, index=-1, elapsed_s=max(part.elapsed_s for part in parts), **sums)

    def columns(self) -> Columns:
        """Of the workers that have ended."""
        return merged([unpack(b"".join(self.pieces.get(index, ()))) for index in sorted(self.ended)])


@dataclass(slots=True)
class Coordinator:
    """Runs one load test at a time.

    Attributes:
        on_progress: is told where the run is, once a second.
        on_end: gets the record, or the error that there is none.
    """

    environment: Any
    on_progress: Callable[[Progress], None]
    on_end: Callable[[LoadRecord | ArgusError], None]
    settings: Settings | None = None
    began: float | None = None
    finished: Event = field(default_factory=Event)
    _cancelled: bool = False
    _run: str = ""
    _inbox: Queue = field(default_factory=Queue)

    def attach(self) -> None:
        """Listens to the workers."""
        for name in messages.TO_COORDINATOR:
            self.environment.runner.register_message(name, self._listener(name))

    def start(self, settings: Settings) -> None:
        """Begins a run in the background; `finished` is set when it has ended, one way or another."""
        self.settings, self.began, self._cancelled, self._run = settings, None, False, uuid4().hex
        self.finished.clear()
        while not self._inbox.empty():
            self._inbox.get_nowait()
        gevent.spawn(self._conduct, settings)

    def cancel(self) -> None:
        """Ends a run that is going on, and waits for its record."""
        if self._run and not self.finished.is_set():
            self._cancelled = True
            self._tell(self._workers(), messages.CANCEL, Cancel(run=self._run))
            self.finished.wait(_CANCEL_S)

    def _listener(self, name: str) -> Callable[..., None]:
        def listen(msg: Any, **_locust: Any) -> None:
            self._inbox.put((name, msg.node_id, msg.data))

        return listen

    def _workers(self) -> Sequence[str]:
        runner = self.environment.runner
        if not isinstance(runner, MasterRunner):
            return ("local",)
        return [client.id for client in runner.clients.all if client.state != "missing"]

    def _tell(self, workers: Sequence[str], name: str, message: Message) -> None:
        for worker in workers:
            self.environment.runner.send_message(name, message.model_dump(), worker)

    def _conduct(self, settings: Settings) -> None:
        try:
            self.on_end(self._conducted(settings))
        except ArgusError as error:
            _log.error("%s", error.message)
            self.on_end(error)
        except Exception as error:
            # Columns that are damaged, a disk that is full: whoever waits must hear why there is no record.
            _log.exception("The run has no record")
            self.on_end(Unavailable(f"the run has no record: {type(error).__name__}: {error}"))
        finally:
            self.finished.set()

    def _conducted(self, settings: Settings) -> LoadRecord:
        workers = self._workers()
        if not workers:
            raise Unavailable("no worker is connected")
        scheduled = self._prepare(settings, workers)
        self._await_users()
        offsets = [self._offset(worker) for worker in workers]
        start = time.time() + _LEAD_S
        for worker, offset in zip(workers, offsets, strict=True):
            self._tell([worker], messages.GO, Go(run=self._run, start=start + offset))
        self.began = start
        return self._collect(settings, workers, scheduled)

    def _prepare(self, settings: Settings, workers: Sequence[str]) -> int:
        """Has every worker build its user; gives the number of requests in all.

        Raises:
            Unavailable: one cannot, or is not ready in time.
        """
        for index, worker in enumerate(workers):
            begin = Begin(run=self._run, settings=settings.model_dump_json(), index=index, of=len(workers))
            self._tell([worker], messages.BEGIN, begin)
        ready: dict[int, int] = {}
        deadline = time.monotonic() + _PREPARE_S
        while len(ready) < len(workers):
            data = self._next(messages.READY, deadline)
            if data is None:
                late = [worker for index, worker in enumerate(workers) if index not in ready]
                raise Unavailable(f"workers were not ready in {_PREPARE_S:.0f} s: {', '.join(late)}")
            answer = Ready.model_validate(data)
            if answer.run != self._run:
                continue
            if answer.error:
                raise Unavailable(f"worker {answer.index}: {answer.error}")
            ready[answer.index] = answer.requests
        return sum(ready.values())

    def _await_users(self) -> None:
        """Waits until Locust has spawned its users: workers are busy with that for a moment."""
        runner, deadline = self.environment.runner, time.monotonic() + _SPAWN_S
        while isinstance(runner, MasterRunner) and not runner.spawning_completed and time.monotonic() < deadline:
            if self._cancelled:
                return
            gevent.sleep(0.05)

    def _offset(self, worker: str) -> float:
        """Seconds by which the worker's clock is ahead of ours, from the quickest of a few exchanges.

        The error is at most half of that exchange's time (Cristian, "Probabilistic clock synchronization", 1989).
        """
        best, offset = float("inf"), 0.0
        for _ in range(_PINGS):
            sent = time.time()
            self._tell([worker], messages.PING, Ping(sent=sent))
            data = self._next(messages.PONG, time.monotonic() + _PONG_S)
            if data is None:
                raise Unavailable(f"worker {worker} does not answer")
            pong, now = Pong.model_validate(data), time.time()
            if pong.sent == sent and now - sent < best:
                best, offset = now - sent, pong.clock - (sent + now) / 2
        return offset

    def _next(self, name: str, deadline: float) -> Any:
        """Data of the next message of this name; None at the deadline.

        Raises:
            Unavailable: the run was cancelled.
        """
        while (left := deadline - time.monotonic()) > 0:
            if self._cancelled:
                raise Unavailable("the run was ended before its first request")
            try:
                found, _node, data = self._inbox.get(timeout=min(left, 0.5))
            except Empty:
                continue
            if found == name:
                return data
        return None

    def _collect(self, settings: Settings, workers: Sequence[str], scheduled: int) -> LoadRecord:
        gathered = _Gathered()
        ends = time.monotonic() + _LEAD_S + settings.end_s + settings.grace_s + _COLLECT_S
        cancelled_at: float | None = None
        while len(gathered.ended) < len(workers) and time.monotonic() < ends:
            if self._cancelled and cancelled_at is None:
                cancelled_at = time.monotonic()
                ends = min(ends, cancelled_at + _CANCEL_S)
            try:
                name, _node, data = self._inbox.get(timeout=0.5)
            except Empty:
                continue
            if data.get("run") == self._run:
                gathered.take(name, data)
                if name == messages.PROGRESS and (total := gathered.total(self._run)):
                    self.on_progress(total)
        if not gathered.ended:
            raise Unavailable("no worker reported its requests")
        return build(
            settings,
            gathered.columns(),
            scheduled=scheduled,
            workers=len(workers),
            cpu_share=max(ended.cpu_share for ended in gathered.ended.values()),
            examples={code: text for ended in gathered.ended.values() for code, text in ended.examples.items()},
            interrupted=self._cancelled,
            truth=all(ended.truth for ended in gathered.ended.values()),
            lost=len(workers) - len(gathered.ended),
        )
