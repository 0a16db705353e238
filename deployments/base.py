"""The adapter contract, and the pipeline that runs an adapter.

A model is an `Adapter`: `preprocess` (CPU, per item) -> `forward` (model, per batch) -> `postprocess` (CPU, per item).
`Pipeline` gives it what every model needs and none should write again: a bounded pool for the CPU work, the batcher, a
thread of its own for the forward pass, deadlines and a health probe. The event loop of the replica never blocks.
"""

from __future__ import annotations

import asyncio
import struct
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, ParamSpec, Protocol, TypeVar

from deployments.batching import Batcher, BatchLimits, BatchObserver, being_cancelled
from deployments.messages import Call, ClassifyRequest, ClassifyResult, EmbedRequest, EmbedResult, ModelInfo
from deployments.windows import Windows, places
from serve import tracing
from serve.errors import ArgusError, DeadlineExceeded, InvalidMedia, ModelFailed, Overloaded, Unavailable

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Raw = TypeVar("Raw")
Result = TypeVar("Result")
P = ParamSpec("P")
T = TypeVar("T")

# Waiting CPU jobs a worker; beyond that the replica says so instead of growing.
_PENDING_PER_WORKER = 256
# A forward pass that runs this long, in seconds, has hung: the replica reports itself unhealthy and is replaced.
STALL_S = 120.0
# What decoders and tokenizers raise of an input that is damaged; anything else is a defect of ours, or no memory.
# Pillow says SyntaxError and EOFError of broken files, too.
UNREADABLE = (OSError, ValueError, EOFError, SyntaxError, struct.error, zlib.error)


class Replica(Protocol):
    """What the router calls on a model deployment. A `kind: custom` model is any class that has this."""

    async def info(self) -> ModelInfo:
        """Answers once the model is ready."""

    async def check_health(self) -> None:
        """Called by Ray Serve every few seconds; raises when the replica must be replaced."""

    async def classify(self, request: ClassifyRequest, call: Call) -> ClassifyResult:
        """For models with the task `classify`."""

    async def embed(self, request: EmbedRequest, call: Call) -> EmbedResult:
        """For models with the task `embed`."""


class Adapter(ABC, Generic[Item, Prepared, Raw, Result]):
    """One model. `preprocess` and `postprocess` may run in several threads at once, `forward` in one only."""

    @abstractmethod
    def preprocess(self, item: Item) -> Prepared:
        """Decodes and shapes one item. Raises an `InvalidRequest` for what the model cannot take."""

    @abstractmethod
    def forward(self, batch: Sequence[Prepared]) -> Sequence[Raw | BaseException]:
        """Runs one batch; all of `batch` share a lane. An exception in a result's place fails that item alone."""

    def postprocess(self, item: Item, raw: Raw) -> Result:
        """Turns one output into its result; by default the output itself."""
        return raw  # type: ignore[return-value]

    def lane(self, prepared: Prepared) -> Hashable:
        """Items of different lanes never share a batch."""
        return None

    def cost(self, prepared: Prepared) -> float:
        """The item's share of `BatchLimits.max_cost`."""
        return 1.0

    @abstractmethod
    def probe(self) -> Item:
        """A small real item: it warms the model up, and it is what a health check runs."""


class CpuPool:
    """A bounded pool of threads for work that releases the GIL: decoding, resizing, tokenising."""

    def __init__(self, workers: int) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="cpu")
        self._most = workers * _PENDING_PER_WORKER
        self._pending = 0
        self._closed = False

    @property
    def most(self) -> int:
        """Jobs that may wait or run."""
        return self._most

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `function` in a worker.

        Raises:
            Overloaded: as many jobs wait as the pool takes.
            Unavailable: the pool is closed.
        """
        if self._closed:
            raise _closing()
        if self._pending >= self._most:
            raise Overloaded(f"The preprocessing queue is full ({self._most} waiting).", retry_after_s=1.0)
        job = self._executor.submit(tracing.carried(function), *args, **kwargs)
        # Counted until the job is over, not until its caller has left: what counts is what the workers still have.
        self._pending += 1
        loop = asyncio.get_running_loop()
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._over) if not loop.is_closed() else None)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            if self._closed and not being_cancelled():
                raise _closing() from None
            raise

    def _over(self) -> None:
        self._pending -= 1

    def close(self) -> None:
        """Drops what waits; what runs ends by itself."""
        self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)


def _closing() -> Unavailable:
    return Unavailable("The model is shutting down.", retry_after_s=1.0)


class Pipeline(Generic[Item, Prepared, Raw, Result]):
    """Runs an adapter: item in, result out, batches in between."""

    def __init__(
        self,
        adapter: Adapter[Item, Prepared, Raw, Result],
        limits: BatchLimits,
        *,
        workers: int = 2,
        observer: BatchObserver | None = None,
        preprocess_took: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._adapter = adapter
        self._pool = CpuPool(workers)
        self._model_thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._batcher: Batcher[Prepared, Raw] = Batcher(self._forward, limits, observer=observer)
        self._preprocess_took = preprocess_took
        self._windows = Windows(*self._places(limits))

    @property
    def waiting(self) -> int:
        """Items in the batcher's queue."""
        return self._batcher.waiting

    def limit(self, limits: BatchLimits) -> None:
        """See `Batcher.limit`."""
        self._batcher.limit(limits)
        self._windows.resize(*self._places(limits))

    def _places(self, limits: BatchLimits) -> tuple[int, int]:
        """Items in flight of one call, and of all."""
        return places(limits.max_items, limits.max_queue, self._pool.most)

    @property
    def standing_wait_s(self) -> float:
        """See `Batcher.standing_wait_s`."""
        return self._batcher.standing_wait_s

    async def run(self, item: Item, deadline: float) -> Result:
        """Takes one item through the three stages.

        Args:
            deadline: on `time.monotonic()`.

        Raises:
            ArgusError: what the stages and the batcher raise; see `Batcher.submit`.
        """
        prepared, cost, lane = await self._preprocess(item, deadline)
        raw = await self._batcher.submit(prepared, cost=cost, lane=lane, deadline=deadline)
        try:
            return self._adapter.postprocess(item, raw)
        except ArgusError:
            raise
        except Exception as error:
            raise ModelFailed(f"The model's output cannot be read: {type(error).__name__}: {error}") from error

    async def run_all(self, items: Sequence[Item], deadline: float) -> list[Result | Exception]:
        """Takes many items through; an error stays in its item's place. Cancelling this cancels them all.

        However many there are, an idle model takes them (see `Windows`); a model that has too much to do takes none.
        """
        if len(items) > 1 and self._windows.full:
            wait_s = self._batcher.expected_wait_s()
            return [Overloaded("The model has as many items in work as it takes.", retry_after_s=wait_s)] * len(items)

        async def kept(item: Item) -> Result | Exception:
            try:
                return await self.run(item, deadline)
            except ArgusError as error:
                return error

        if len(items) == 1:
            return [await kept(items[0])]
        return await self._windows.map(kept, items)

    async def _preprocess(self, item: Item, deadline: float) -> tuple[Prepared, float, Hashable]:
        """The prepared item, its cost and its lane, all made in the pool."""

        def job() -> tuple[Prepared, float, Hashable]:
            started = time.monotonic()
            if started >= deadline:
                raise DeadlineExceeded("The deadline passed before preprocessing began.")
            prepared = self._adapter.preprocess(item)
            described = prepared, self._adapter.cost(prepared), self._adapter.lane(prepared)
            self._preprocess_took(time.monotonic() - started)
            return described

        try:
            with tracing.span("preprocess"):
                return await self._pool.run(job)
        except ArgusError:
            raise
        except UNREADABLE as error:
            # The item passed validation and still broke a decoder or tokenizer: it is the item that is bad.
            raise InvalidMedia(f"This input cannot be processed: {type(error).__name__}: {error}") from error
        except Exception as error:
            raise ModelFailed(f"The input could not be prepared: {type(error).__name__}: {error}") from error

    async def _forward(self, batch: list[Prepared]) -> Sequence[Raw | BaseException]:
        forward = tracing.carried(self._adapter.forward)
        return await asyncio.get_running_loop().run_in_executor(self._model_thread, forward, batch)

    async def warm_up(self, batch_sizes: Sequence[int] = (1,)) -> None:
        """Runs the probe in batches of the given sizes, so that the first client does not pay for it.

        Raises:
            ModelFailed: the model fails on its own probe.
        """
        prepared = await self._pool.run(lambda: self._adapter.preprocess(self._adapter.probe()))
        for size in batch_sizes:
            for result in await self._forward([prepared] * size):
                if isinstance(result, BaseException):
                    raise ModelFailed(f"The model fails on its probe: {result}") from result

    async def check(self, timeout_s: float) -> None:
        """The health check's body: the real path, end to end. A busy model is healthy, a hung one is not.

        Raises:
            Unavailable: a forward pass has hung, or the probe failed.
        """
        if (stalled := self._batcher.running_for()) > STALL_S:
            raise Unavailable(f"A forward pass has been running for {stalled:.0f} s.")
        try:
            await self.run(self._adapter.probe(), time.monotonic() + timeout_s)
        except (Overloaded, DeadlineExceeded):
            return  # busy; a hang shows above
        except ArgusError as error:
            raise Unavailable(f"The health probe failed: {error.message}") from error

    async def close(self) -> None:
        """Refuses what waits and lets the running batch end."""
        self._pool.close()
        await self._batcher.close()
        self._model_thread.shutdown(wait=False)
