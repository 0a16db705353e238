"""Spans of this process, and the one that is current in each task.

The decision whether a request is traced is made once, where it enters (`incoming`, `root`); from there on there is a
current span, or there is none. That span is a context variable of our own: looking at it costs a twentieth of what
OpenTelemetry's own current context costs, and most requests only look. It is set back by value, not by token, because
generators are closed in whatever context their reader has.

Spans carry names of the cluster file, numbers and stable codes. What a client wrote, or an error's words, stays out.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import partial
from typing import Final, ParamSpec, TypeVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link as Link
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace import Span as Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

P = ParamSpec("P")
T = TypeVar("T")

Kind = SpanKind
Attributes = Mapping[str, str | bool | int | float | Sequence[str]]

_CURRENT: ContextVar[Span | None] = ContextVar("argus_span", default=None)
# The caller's own words, `traceparent` and `tracestate`, where the request is not sampled here.
_GIVEN: ContextVar[tuple[str, str | None] | None] = ContextVar("argus_given", default=None)
_NO_PARENT: Final = Context()
_W3C: Final = TraceContextTextMapPropagator()


class Roots:
    """Which traces are begun: a share of them, and never more than so many a second.

    Half of the bound is for those that ask, the other half for the share: a client must not decide how much we write,
    nor that nothing else is written.

    Args:
        ratio: share of those that do not say themselves.
        most_per_s: of all together.
        draw: uniform in [0, 1).
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        ratio: float,
        most_per_s: float,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ratio, self._draw = ratio, draw
        self._asked = _Bucket(most_per_s / 2, clock)
        self._drawn = _Bucket(most_per_s / 2, clock)

    def take(self, asked: bool) -> bool:
        """Whether the next trace is begun.

        Args:
            asked: it is already traced elsewhere.
        """
        if asked:
            return self._asked.take()
        return self._draw() < self._ratio and self._drawn.take()


class _Bucket:
    """A token bucket that holds what a second brings, and at least one."""

    def __init__(self, per_s: float, clock: Callable[[], float]) -> None:
        self._per_s, self._clock = per_s, clock
        self._most = max(1.0, per_s)
        self._left, self._since = self._most, clock()

    def take(self) -> bool:
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._since) * self._per_s)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _Process:
    """What `install` was given."""

    tracer: trace.Tracer | None = None
    roots: Roots | None = None


def install(tracer: trace.Tracer | None, roots: Roots | None) -> None:
    """From here on this process makes spans with `tracer`, or with None no more."""
    _Process.tracer, _Process.roots = tracer, roots


def enabled() -> bool:
    """Whether this process makes spans."""
    return _Process.tracer is not None


def current() -> Span | None:
    """The span of the running task; None when its request is not sampled."""
    return _CURRENT.get()


def trace_id() -> str | None:
    """The running task's trace, 32 hexadecimal digits; None when its request is not sampled."""
    found = _CURRENT.get()
    return None if found is None else hex_id(found)


def hex_id(span: Span) -> str:
    """The trace of a span, 32 hexadecimal digits."""
    return trace.format_trace_id(span.get_span_context().trace_id)


def traceparent() -> str | None:
    """The current span as the W3C writes it (Trace Context, section 3.2); None when there is none."""
    found = _CURRENT.get()
    return None if found is None else headers(found).get("traceparent")


def headers(span: Span) -> dict[str, str]:
    """`traceparent` and, if the trace has any, `tracestate`, for whoever is asked next."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span, _NO_PARENT))
    return carrier


def outgoing() -> dict[str, str]:
    """What another service is told of the trace that this task is part of; empty when it is part of none.

    A request that is not sampled here stays in its caller's trace: its context goes on with the sampled flag cleared
    (W3C Trace Context, section 3.2.2.5).
    """
    if (found := _CURRENT.get()) is not None:
        return headers(found)
    given = _GIVEN.get()
    if given is None or (parent := _extracted(*given)) is None:
        return {}
    caller = parent.get_span_context()
    unsampled = SpanContext(caller.trace_id, caller.span_id, True, TraceFlags(0), caller.trace_state)
    return headers(NonRecordingSpan(unsampled))


def incoming(
    name: str, kind: Kind, given: str | None, state: str | None = None, attributes: Attributes | None = None
) -> Span | None:
    """The first span of a request that enters here; None when it is not sampled.

    A caller's decision holds, within the bound of `Roots`; a `traceparent` that is not one is taken for none.

    Args:
        given, state: the caller's `traceparent` and `tracestate`.
    """
    tracer, roots = _Process.tracer, _Process.roots
    if tracer is None or roots is None:
        return None
    parent = None if given is None else _extracted(given)
    if parent is None:
        taken = roots.take(asked=False)
    else:
        taken = parent.get_span_context().trace_flags.sampled and roots.take(asked=True)
    if not taken:
        _GIVEN.set(None if given is None or parent is None else (given, state))
        return None
    _GIVEN.set(None)
    if given is not None and state is not None:  # read only now, since it may be long
        parent = _extracted(given, state)
    return tracer.start_span(name, _within(parent), kind, attributes)


def root(name: str, cause: Link | None = None, *, asked: bool = True) -> AbstractContextManager[Span | None]:
    """A block in a trace of its own, for what goes on beside or after what caused it; without a span if not sampled.

    Args:
        cause: the span that caused it.
        asked: what was caused by a sampled request is sampled; otherwise the configured share is.
    """
    tracer, roots = _Process.tracer, _Process.roots
    if tracer is None or roots is None:
        return _OFF
    taken = roots.take(asked=asked and cause is not None)
    links = () if cause is None else (cause,)
    return _Block(tracer.start_span(name, _NO_PARENT, links=links) if taken else None, ends=True)


def continued(name: str, given: str, kind: Kind = Kind.SERVER, attributes: Attributes | None = None) -> Span | None:
    """The span of a call from another process of ours, which has decided that it is sampled."""
    tracer, parent = _Process.tracer, _extracted(given)
    if tracer is None or parent is None:
        return None
    return tracer.start_span(name, _within(parent), kind, attributes)


def start(
    name: str,
    *,
    kind: Kind = Kind.INTERNAL,
    parent: Span | None = None,
    attributes: Attributes | None = None,
    links: Sequence[Link] = (),
    start_ns: int | None = None,
) -> Span | None:
    """A span below `parent`, else below the current one; None when there is none. The caller ends it."""
    above = parent or _CURRENT.get()
    tracer = _Process.tracer
    if above is None or tracer is None:
        return None
    return tracer.start_span(name, _within(above), kind, attributes, links, start_ns)


def alone(name: str, attributes: Attributes, links: Sequence[Link], start_ns: int) -> Span | None:
    """A span of a trace of its own whatever the sampling, for work that many sampled requests share."""
    tracer = _Process.tracer
    return None if tracer is None else tracer.start_span(name, _NO_PARENT, Kind.INTERNAL, attributes, links, start_ns)


def span(name: str, kind: Kind = Kind.INTERNAL) -> AbstractContextManager[Span | None]:
    """A span below the current one, and current, for the time of a block; what the block raises is its failure.

    Not around a `yield`: what reads a generator would run within the span.
    """
    if _CURRENT.get() is None:
        return _OFF
    return _Block(start(name, kind=kind), ends=True)


def use(span: Span | None) -> AbstractContextManager[Span | None]:
    """Makes a span current for the time of a block, which neither ends it nor fails it."""
    return _OFF if span is None else _Block(span, ends=False)


def fail(span: Span, error: BaseException | str) -> None:
    """Says of a span that it failed: the error's stable code, never its words, which may quote what a client sent."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        span.set_attribute("argus.cancelled", True)  # whoever asked has left: nothing failed
        return
    code = error if isinstance(error, str) else getattr(error, "code", None)
    span.set_attribute("error.type", code if isinstance(code, str) else type(error).__qualname__)
    span.set_status(StatusCode.ERROR)


def link_to(given: Span | str | None) -> Link | None:
    """A link to a span, or to one that was written as a `traceparent`."""
    found = _extracted(given) if isinstance(given, str) else given
    return None if found is None else Link(found.get_span_context())


def at(monotonic_s: float) -> int:
    """A time on `time.monotonic()` as spans state it: nanoseconds since 1970."""
    return time.time_ns() + int((monotonic_s - time.monotonic()) * 1e9)


def carried(function: Callable[P, T]) -> Callable[P, T]:
    """A function that finds the current span in whatever thread it runs; `function` itself when there is none.

    Executors do not take context variables along (`loop.run_in_executor`, unlike `asyncio.to_thread`).
    """
    if _CURRENT.get() is None:
        return function
    return partial(contextvars.copy_context().run, function)


class _Off(AbstractContextManager[None]):
    """A block without a span."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *failure: object) -> None:
        return None


_OFF: Final = _Off()


class _Block(AbstractContextManager[Span | None]):
    """A block with a current span, or with none and in nobody's trace."""

    __slots__ = ("_before", "_ends", "_given", "_span")

    def __init__(self, span: Span | None, *, ends: bool) -> None:
        self._span, self._ends = span, ends
        self._before: Span | None = None
        self._given: tuple[str, str | None] | None = None

    def __enter__(self) -> Span | None:
        self._before, self._given = _CURRENT.get(), _GIVEN.get()
        _CURRENT.set(self._span)
        _GIVEN.set(None)
        return self._span

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        _CURRENT.set(self._before)
        _GIVEN.set(self._given)
        if self._ends and self._span is not None:
            if error is not None:
                fail(self._span, error)
            self._span.end()


def _within(parent: Span | None) -> Context:
    return _NO_PARENT if parent is None else trace.set_span_in_context(parent, _NO_PARENT)


def _extracted(given: str, state: str | None = None) -> Span | None:
    carrier = {"traceparent": given} if state is None else {"traceparent": given, "tracestate": state}
    found = trace.get_current_span(_W3C.extract(carrier, _NO_PARENT))
    return found if found.get_span_context().is_valid else None
