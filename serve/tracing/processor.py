"""Finished spans on their way to an exporter, in a bounded queue; needs OpenTelemetry's SDK.

The SDK's own processor drops what is too much without counting it, and says so in a log line a span. So the bound is
held before it, by what has been handed in and what has been taken out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult


class BoundedProcessor(SpanProcessor):
    """See the module's text.

    Args:
        count: told what became of how many spans: `exported`, `queue_full` or `export_failed`.
        max_queue: most spans that wait.
        every_s: seconds for which spans are gathered.
        most_sent: in one export.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        count: Callable[[str, int], None],
        *,
        max_queue: int,
        every_s: float,
        most_sent: int,
    ) -> None:
        self._count = count
        self._max_queue = max_queue
        self._waiting = 0
        self._lock = threading.Lock()
        self._batches = BatchSpanProcessor(
            _Counted(exporter, self._sent),
            # Spans that are being sent are out of its queue, and still in ours.
            max_queue_size=max_queue,
            schedule_delay_millis=every_s * 1e3,
            max_export_batch_size=most_sent,
        )

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is said of a span before it has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Takes a span, or counts it as dropped."""
        with self._lock:
            full = self._waiting >= self._max_queue
            self._waiting += not full
        if full:
            self._count("queue_full", 1)
        else:
            self._batches.on_end(span)

    def shutdown(self) -> None:
        """Sends what waits; as long as the exporter takes."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Sends what waits, now."""
        return self._batches.force_flush(timeout_millis)

    def _sent(self, number: int, taken: bool) -> None:
        with self._lock:
            self._waiting -= number
        self._count("exported" if taken else "export_failed", number)


class _Counted(SpanExporter):
    """An exporter whose outcomes are counted."""

    def __init__(self, exporter: SpanExporter, sent: Callable[[int, bool], None]) -> None:
        self._exporter, self._sent = exporter, sent

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See `SpanExporter.export`."""
        outcome = SpanExportResult.FAILURE
        try:
            outcome = self._exporter.export(spans)
        finally:
            self._sent(len(spans), outcome is SpanExportResult.SUCCESS)
        return outcome

    def shutdown(self) -> None:
        """See `SpanExporter.shutdown`."""
        self._exporter.shutdown()
