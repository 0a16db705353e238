"""Spans of a test, in memory, through OpenTelemetry's SDK."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id

from serve.tracing.spans import Roots, install

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{CALLER}-01"
UNSAMPLED = f"00-{TRACE}-{CALLER}-00"


@dataclass
class Recorded:
    """What has ended so far."""

    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def names(self) -> list[str]:
        return sorted(span.name for span in self.spans)

    def one(self, name: str, **attributes: object) -> ReadableSpan:
        """The only span of this name, and of these attributes (`_` for `.`)."""
        found = self.all(name, **attributes)
        assert len(found) == 1, (name, attributes, self.names())
        return found[0]

    def all(self, name: str, **attributes: object) -> list[ReadableSpan]:
        wanted = {f"argus.{key}": value for key, value in attributes.items()}
        return [
            span for span in self.spans if span.name == name and wanted.items() <= dict(span.attributes or {}).items()
        ]

    def below(self, parent: ReadableSpan) -> list[str]:
        """Names of the spans right below one, in the order of their beginning."""
        own = [span for span in self.spans if span.parent is not None and span.parent.span_id == id_of(parent)]
        return [span.name for span in sorted(own, key=lambda span: span.start_time or 0)]


def id_of(span: ReadableSpan) -> int:
    """A span's own id."""
    assert span.context is not None
    return span.context.span_id


def trace_of(span: ReadableSpan) -> str:
    """The id of its trace."""
    assert span.context is not None
    return format_trace_id(span.context.trace_id)


def parent_of(span: ReadableSpan) -> str | None:
    """The id of the span above it."""
    return None if span.parent is None else format_span_id(span.parent.span_id)


def attribute(span: ReadableSpan, name: str) -> object:
    """One attribute; None when it is not there."""
    return (span.attributes or {}).get(name)


@contextmanager
def recording(ratio: float = 1.0, most_per_s: float = 1e4) -> Iterator[Recorded]:
    """This process makes spans, for the time of the block."""
    recorded = Recorded()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(recorded.exporter))
    install(provider.get_tracer("test"), Roots(ratio, most_per_s))
    try:
        yield recorded
    finally:
        install(None, None)
