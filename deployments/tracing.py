"""Spans of a model replica: one for each call, and for each forward pass the shares of the calls in it.

A forward pass belongs to many requests and a span to one trace, so a pass is told twice. Each sampled request has spans
`queue` and `forward` of its own, below what it is waiting in. The pass itself is a span `batch` in a trace of its own,
which links to all of these requests; their `forward` spans link to it.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from deployments.messages import Call
from serve import tracing
from serve.config.tracing import Tracing
from serve.tracing.spans import Kind, alone, continued


def traced(factory: Callable[..., Any], settings: Tracing, cluster: str, model: str) -> Callable[..., Any]:
    """A replica's class with a span around each method that takes a `Call`; the class itself where nothing is traced.

    Args:
        factory: what Ray Serve makes the model's replicas with.
        cluster: its name.
        model: the model's.
    """
    if settings.endpoint is None or not isinstance(factory, type):
        return factory
    members: dict[str, Any] = {"__init__": _initialiser(factory, settings, cluster, model), "__doc__": factory.__doc__}
    for name, function in inspect.getmembers(factory, inspect.isfunction):
        if "call" not in inspect.signature(function).parameters:
            continue
        if inspect.iscoroutinefunction(function):
            members[name] = _unary(function, model)
        elif inspect.isasyncgenfunction(function):
            members[name] = _streaming(function, model)
    return type(factory.__name__, (factory,), members)


def _initialiser(factory: type, settings: Tracing, cluster: str, model: str) -> Callable[..., Any]:
    """Each replica is a process, and sets up its own export before it loads anything."""
    make: Any = factory.__init__  # type: ignore[misc]
    if inspect.iscoroutinefunction(make):

        async def initialise_async(self: Any, *args: Any, **kwargs: Any) -> None:
            tracing.set_up(settings, cluster, model)
            await make(self, *args, **kwargs)

        return initialise_async

    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        tracing.set_up(settings, cluster, model)
        make(self, *args, **kwargs)

    return initialise


def _unary(function: Callable[..., Any], model: str) -> Callable[..., Any]:
    @functools.wraps(function)
    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        span = _begun(model, function.__name__, args, kwargs)
        if span is None:
            return await function(self, *args, **kwargs)
        try:
            with tracing.use(span):
                return await function(self, *args, **kwargs)
        except BaseException as error:
            tracing.fail(span, error)
            raise
        finally:
            span.end()

    return method


def _streaming(function: Callable[..., Any], model: str) -> Callable[..., Any]:
    @functools.wraps(function)
    async def method(self: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        span = _begun(model, function.__name__, args, kwargs)
        try:
            async with aclosing(function(self, *args, **kwargs)) as items:
                while True:
                    with tracing.use(span):
                        try:
                            item = await anext(items)
                        except StopAsyncIteration:
                            return
                    yield item
        except BaseException as error:
            if span is not None:
                tracing.fail(span, error)
            raise
        finally:
            if span is not None:
                span.end()

    return method


def _begun(model: str, method: str, args: Sequence[Any], kwargs: dict[str, Any]) -> tracing.Span | None:
    """The span of a call from the router; None when that is not sampled, or when a method calls another of its own."""
    call = kwargs.get("call", args[-1] if args else None)
    if not isinstance(call, Call) or call.traceparent is None or tracing.current() is not None:
        return None
    attributes = {"argus.model": model, "argus.method": method, "argus.request_id": call.request_id}
    return continued(f"{model}.{method}", call.traceparent, Kind.SERVER, attributes)


class TracedPass:
    """One forward pass with sampled requests in it; a `with` block around the pass, within which `batch` is current.

    Args:
        spans: what each item's caller is in; None where that is not sampled.
        waited_s: seconds that each item has waited, since the last pass where that failed.
        cost: of all items together.
    """

    def __init__(self, spans: Sequence[tracing.Span | None], waited_s: Sequence[float], cost: float) -> None:
        self._began = time.time_ns()
        self._error: BaseException | None = None
        sampled = [(span, wait) for span, wait in zip(spans, waited_s, strict=True) if span is not None]
        links = [link for span, _ in sampled if (link := tracing.link_to(span)) is not None]
        self._sizes = {"argus.batch.items": len(spans), "argus.batch.cost": cost}
        self._batch = alone("batch", self._sizes, links, self._began)
        self._current = tracing.use(self._batch)
        self._callers = [span for span, _ in sampled]
        for span, wait in sampled:
            queue = tracing.start("queue", parent=span, start_ns=self._began - int(wait * 1e9))
            if queue is not None:
                queue.end(self._began)

    def failed(self, error: BaseException) -> None:
        """The pass failed as a whole."""
        self._error = error

    def __enter__(self) -> TracedPass:
        self._current.__enter__()
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        self._current.__exit__(None, None, None)
        links = [] if (link := tracing.link_to(self._batch)) is None else [link]
        shares = [
            tracing.start("forward", parent=caller, attributes=self._sizes, links=links, start_ns=self._began)
            for caller in self._callers
        ]
        for span in (self._batch, *shares):
            if span is not None:
                if (why := error or self._error) is not None:
                    tracing.fail(span, why)
                span.end()
