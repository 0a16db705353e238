"""Spans of model replicas: a call's, its stages', and those of the forward pass that it shares."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import cloudpickle
import pytest
from opentelemetry.trace import SpanKind, StatusCode

from deployments.base import Adapter, CpuPool, Pipeline
from deployments.batching import Batcher, BatchLimits
from deployments.messages import Call
from deployments.tracing import traced
from serve import tracing
from serve.config.tracing import Tracing
from serve.errors import InvalidMedia, ModelFailed
from tests.support.spans import CALLER, SAMPLED, TRACE, Recorded, attribute, id_of, parent_of, recording, trace_of
from tests.unit.resilience_fakes import Clock

ON = Tracing(endpoint="http://127.0.0.1:9")


@pytest.fixture
def spans() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


class Doubling(Adapter[int, int, int, int]):
    """Doubles numbers; 13 cannot be prepared, 17 fails alone, 19 fails its batch.

    Attributes:
        inside: the current span of each stage's thread.
    """

    def __init__(self) -> None:
        self.inside: dict[str, tracing.Span | None] = {}

    def preprocess(self, item: int) -> int:
        self.inside["preprocess"] = tracing.current()
        if item == 13:
            raise InvalidMedia("private words")
        return item

    def forward(self, batch: Sequence[int]) -> Sequence[int | BaseException]:
        self.inside["forward"] = tracing.current()
        if 19 in batch:
            raise ModelFailed("private words")
        return [ModelFailed("private words") if item == 17 else 2 * item for item in batch]

    def probe(self) -> int:
        return 1


class Replica:
    """What a deployment is made with."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.adapter = Doubling()
        self.pipeline = Pipeline(self.adapter, BatchLimits(max_wait_s=0))

    async def double(self, item: int, call: Call) -> int:
        """Doubles."""
        return await self.pipeline.run(item, asyncio.get_running_loop().time() + call.timeout_s)

    async def twice(self, item: int, call: Call) -> int:
        return await self.double(await self.double(item, call), call)

    async def count(self, to: int, call: Call) -> AsyncGenerator[int, None]:
        for number in range(to):
            self.adapter.inside["count"] = tracing.current()
            yield number

    async def info(self) -> str:
        return self.name


def replica(**_: Any) -> Any:
    return traced(Replica, ON, "test", "doubler")("it")


def call(traceparent: str | None = SAMPLED) -> Call:
    return Call("r-1", 30.0, traceparent)


def test_without_a_collector_a_class_is_left_alone() -> None:
    assert traced(Replica, Tracing(), "test", "doubler") is Replica
    assert traced(replica, ON, "test", "doubler") is replica


async def test_the_class_is_what_it_was(spans: Recorded) -> None:
    made = traced(Replica, ON, "test", "doubler")
    assert (made.__name__, made.__doc__, made.double.__doc__) == ("Replica", Replica.__doc__, "Doubles.")
    copy = cloudpickle.loads(cloudpickle.dumps(made))("it")
    assert await copy.info() == "it"
    assert await copy.double(4, call()) == 8
    assert "doubler.double" in spans.names()


async def test_an_async_initialiser_stays_one(spans: Recorded) -> None:
    class Slow:
        async def __init__(self, name: str) -> None:  # type: ignore[misc]
            self.name = name

    made = traced(Slow, ON, "test", "slow")
    assert asyncio.iscoroutinefunction(made.__init__)  # type: ignore[misc]


async def test_a_call_and_its_stages(spans: Recorded) -> None:
    made = replica()
    assert await made.double(4, call()) == 8
    server = spans.one("doubler.double", model="doubler", method="double", request_id="r-1")
    assert (trace_of(server), parent_of(server), server.kind) == (TRACE, CALLER, SpanKind.SERVER)
    assert spans.below(server) == ["preprocess", "queue", "forward"]
    batch, forward, queue = spans.one("batch"), spans.one("forward"), spans.one("queue")
    assert parent_of(batch) is None
    assert trace_of(batch) != TRACE
    assert [link.context.span_id for link in batch.links] == [id_of(server)]
    assert [link.context.span_id for link in forward.links] == [id_of(batch)]
    assert (attribute(batch, "argus.batch.items"), attribute(forward, "argus.batch.items")) == (1, 1)
    assert queue.end_time == batch.start_time == forward.start_time
    inside = made.adapter.inside
    assert inside["preprocess"].get_span_context().span_id == id_of(spans.one("preprocess"))
    assert inside["forward"].get_span_context().span_id == id_of(batch)
    assert tracing.current() is None


async def test_a_call_that_is_not_sampled_leaves_nothing(spans: Recorded) -> None:
    made = replica()
    assert await made.double(4, call(None)) == 8
    assert spans.spans == []
    assert made.adapter.inside == {"preprocess": None, "forward": None}


async def test_a_pass_links_to_all_its_sampled_requests_and_says_how_many_there_were(spans: Recorded) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def run(items: list[int]) -> list[int]:
        started.set()
        await go.wait()
        return items

    async def ask(item: int, sampled: bool) -> None:
        if sampled:
            with tracing.root("request"):
                await batcher.submit(item)
        else:
            await batcher.submit(item)

    batcher: Batcher[int, int] = Batcher(run, BatchLimits(max_wait_s=0))
    first = asyncio.create_task(ask(0, sampled=False))
    await started.wait()
    rest = [asyncio.create_task(ask(item, sampled)) for item, sampled in ((1, True), (2, False), (3, True))]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, *rest)
    batch = spans.one("batch")
    assert attribute(batch, "argus.batch.items") == 3
    requests = spans.all("request")
    assert {link.context.span_id for link in batch.links} == {id_of(request) for request in requests}
    assert len({trace_of(span) for span in (batch, *requests)}) == 3
    assert all(spans.below(request) == ["queue", "forward"] for request in requests)


async def test_the_time_of_a_pass_that_failed_is_no_queueing(spans: Recorded) -> None:
    clock = Clock()

    async def run(items: list[int]) -> list[int]:
        clock.now += 8
        if len(items) > 1:
            raise ValueError("no")
        return items

    async def ask(item: int) -> int:
        with tracing.root("request"):
            return await batcher.submit(item)

    batcher: Batcher[int, int] = Batcher(run, BatchLimits(max_wait_s=0), clock=clock)
    assert await asyncio.gather(ask(1), ask(2)) == [1, 2]
    queues = [round(((span.end_time or 0) - (span.start_time or 0)) / 1e9) for span in spans.all("queue")]
    assert sorted(queues) == [0, 0, 0, 8], "both once, then the first at once, and the second after it"


async def test_a_batcher_does_not_keep_the_request_that_began_it(spans: Recorded) -> None:
    inside: list[tracing.Span | None] = []

    async def run(items: list[int]) -> list[int]:
        inside.append(tracing.current())
        return items

    batcher: Batcher[int, int] = Batcher(run)
    with tracing.root("request"):
        await batcher.submit(1)
    await batcher.submit(2)
    assert inside[0] is not None
    assert inside[1] is None


async def test_what_fails_says_so(spans: Recorded) -> None:
    made = replica()
    for item, span, code in ((13, "preprocess", "invalid_image"), (19, "forward", "model_failed")):
        spans.exporter.clear()
        with pytest.raises((InvalidMedia, ModelFailed)):
            await made.double(item, call())
        for name in (span, "doubler.double"):
            failed = spans.one(name)
            assert failed.status.status_code is StatusCode.ERROR
            assert attribute(failed, "error.type") == code
        assert "private" not in "".join(span.to_json() for span in spans.spans)
    spans.exporter.clear()
    with pytest.raises(ModelFailed):
        await made.double(17, call())
    assert spans.one("forward").status.status_code is StatusCode.UNSET, "the pass went well, the item did not"
    assert attribute(spans.one("doubler.double"), "error.type") == "model_failed"


async def test_a_method_that_calls_another_is_one_call(spans: Recorded) -> None:
    assert await replica().twice(2, call()) == 8
    server = spans.one("doubler.twice")
    assert spans.all("doubler.double") == []
    assert spans.below(server) == ["preprocess", "queue", "forward"] * 2


async def test_a_stream_ends_with_its_reader(spans: Recorded) -> None:
    made = replica()
    items = made.count(5, call())
    assert await anext(items) == 0
    assert tracing.current() is None, "its reader is not within it"
    assert spans.spans == []
    await items.aclose()
    server = spans.one("doubler.count")
    assert attribute(server, "argus.cancelled") is True
    assert made.adapter.inside["count"].get_span_context().span_id == id_of(server)
    spans.exporter.clear()
    assert [item async for item in made.count(3, call())] == [0, 1, 2]
    assert attribute(spans.one("doubler.count"), "argus.cancelled") is None


async def test_a_pool_takes_the_span_along(spans: Recorded) -> None:
    pool = CpuPool(1)
    with tracing.root("request") as request:
        assert await pool.run(tracing.current) is request
    assert await pool.run(tracing.current) is None
    pool.close()
