"""What happens inside a served cluster's processes, one line an event, for the profiler alone.

Ray's histograms have three buckets a decade, which says too little of a tail. `RAY_RUNTIME_ENV_HOOK` names `hook`; it
has every worker process call `install` before it serves, which notes calls of the router and passes of the replicas in
memory and writes them down twice a second. It costs about 2 us an event, and nothing in a cluster that is not profiled.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FOLDER_ENV = "ARGUS_PROFILE_TAPE"
ENVIRONMENT = {"RAY_RUNTIME_ENV_HOOK": "benchmarks.capacity.profiler.tape.hook"}
_WRITE_S = 0.5

Kind = Literal["call", "preprocess", "pass", "forward"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that ended.

    Attributes:
        kind: `call`: the router's call of a model, there and back; `preprocess`: of one item; `pass`: a forward pass;
            `forward`: the same, as its thread sees it.
        ended: on `time.monotonic()`, which all processes of a machine share.
        seconds: that it took; of `forward`, processor time of its thread.
        items: of a pass, however it is seen; of a stream, its messages.
        cost: of a pass, in the adapter's unit.
        waited_s: of a pass, the mean of its items.
    """

    kind: Kind
    ended: float
    seconds: float
    items: int = 1
    cost: float = 1.0
    waited_s: float = 0.0

    @property
    def began(self) -> float:
        """On the same clock."""
        return self.ended - self.seconds


def hook(runtime_env: Mapping[str, Any] | None) -> dict[str, Any]:
    """See the module's text."""
    return {**(runtime_env or {}), "worker_process_setup_hook": f"{__name__}.install"}


def read(folder: Path, start: float, end: float) -> list[Event]:
    """The events that ended from `start` to `end`, by time; a line that is only half written is left out."""
    found = [event for path in folder.glob("*.jsonl") for event in _lines(path) if start <= event.ended < end]
    return sorted(found, key=lambda event: event.ended)


def _lines(path: Path) -> Iterator[Event]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield Event(*json.loads(line))
        except (ValueError, TypeError):
            continue


class _Tape:
    """One process's events."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{os.getpid()}.jsonl"
        self._events: list[tuple[Any, ...]] = []
        threading.Thread(target=self._write_always, daemon=True, name="tape").start()

    def add(self, kind: Kind, seconds: float, *more: float) -> None:
        """Notes an event that ends now."""
        self._events.append((kind, time.monotonic(), seconds, *more))

    def _write_always(self) -> None:
        while True:
            time.sleep(_WRITE_S)
            events, self._events = self._events, []
            if events:
                with self._path.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(event) + "\n" for event in events)


def install() -> None:
    """Called by Ray in each new worker process. Without a folder in the environment it does nothing."""
    folder = os.environ.get(FOLDER_ENV)
    if folder:
        tape = _Tape(Path(folder))
        _watch_replicas(tape)
        _watch_forward(tape)
        _watch_router(tape)


def _watch_replicas(tape: _Tape) -> None:
    from deployments.replica import ReplicaMetrics

    pass_ran, preprocessed = ReplicaMetrics.batch_ran, ReplicaMetrics.preprocess_took

    def batch_ran(self: ReplicaMetrics, *, items: int, cost: float, forward_s: float, waits_s: Sequence[float]) -> None:
        tape.add("pass", forward_s, items, cost, sum(waits_s) / max(1, len(waits_s)))
        pass_ran(self, items=items, cost=cost, forward_s=forward_s, waits_s=waits_s)

    def preprocess_took(self: ReplicaMetrics, seconds: float) -> None:
        tape.add("preprocess", seconds)
        preprocessed(self, seconds)

    ReplicaMetrics.batch_ran = batch_ran  # type: ignore[method-assign]
    ReplicaMetrics.preprocess_took = preprocess_took  # type: ignore[method-assign]


def _watch_forward(tape: _Tape) -> None:
    from deployments.base import Pipeline

    made = Pipeline.__init__

    def make(self: Pipeline[Any, Any, Any, Any], adapter: Any, *args: Any, **kwargs: Any) -> None:
        forward = adapter.forward

        def timed(batch: Sequence[Any]) -> Any:
            began = time.thread_time()
            try:
                return forward(batch)
            finally:
                tape.add("forward", time.thread_time() - began, len(batch))

        adapter.forward = timed
        made(self, adapter, *args, **kwargs)

    Pipeline.__init__ = make  # type: ignore[method-assign]


def _watch_router(tape: _Tape) -> None:
    from serve.handles import ServeHandle

    called, streamed = ServeHandle.call, ServeHandle.stream

    async def call(self: ServeHandle, *args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        answer = await called(self, *args, **kwargs)
        tape.add("call", time.monotonic() - started)
        return answer

    async def stream(self: ServeHandle, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        started, messages = time.monotonic(), 0
        async with aclosing(streamed(self, *args, **kwargs)) as answer:
            async for message in answer:
                messages += 1
                yield message
        tape.add("call", time.monotonic() - started, messages)

    ServeHandle.call = call  # type: ignore[method-assign]
    ServeHandle.stream = stream  # type: ignore[method-assign]
