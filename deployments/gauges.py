"""Gauges that last: Ray exports a gauge only for a while after it was set.

A worker reports a gauge in the interval in which it was set (ten seconds, `metrics_report_interval_ms`), and the node's
agent drops what has not been reported for two of them (`OpenTelemetryMetricRecorder`, Ray 2.60). What is set when it
changes, such as the state of a breaker, would be gone before anybody looks, and an alert on it would end by itself. So
the values of all gauges of a process are set again every few seconds.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Mapping
from typing import Final

from ray.util import metrics

_LOG = logging.getLogger("argus.gauges")

AGAIN_S: Final = 4.0
"""Less than half a report interval, so that none passes without a value."""


class Gauge(metrics.Gauge):
    """Ray's gauge, whose last value of each label set stays exported as long as the process lives.

    Args:
        name, description, tag_keys: see `ray.util.metrics.Gauge`.
    """

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        super().__init__(name, description, tag_keys)
        self._last: dict[tuple[tuple[str, str], ...], float] = {}
        self._lock = threading.Lock()
        _KEEPER.keep(self)

    def set(self, value: float | None, tags: Mapping[str, str] | None = None) -> None:
        """Sets the value of a label set; see `ray.util.metrics.Gauge.set`."""
        if value is None:
            return
        with self._lock:
            super().set(value, dict(tags or {}))  # refuses what is wrong, which is then not said again
            self._last[tuple(sorted((tags or {}).items()))] = value

    def again(self) -> None:
        """Sets every last value once more."""
        with self._lock:
            for labels, value in self._last.items():
                super().set(value, dict(labels))

    def __reduce__(self) -> tuple[type[Gauge], tuple[str, str, tuple[str, ...]]]:
        return Gauge, (self._name, self._description, self._tag_keys)


class _Keeper:
    """All gauges of the process, and the one thread that sets them again."""

    def __init__(self) -> None:
        self._gauges: weakref.WeakSet[Gauge] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def keep(self, gauge: Gauge) -> None:
        """From now on; the thread begins with the first one, in each process."""
        with self._lock:
            self._gauges.add(gauge)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="gauges", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(AGAIN_S):
            with self._lock:
                gauges = list(self._gauges)
            for gauge in gauges:
                try:
                    gauge.again()
                except Exception:  # the other gauges go on
                    _LOG.exception("gauge %s was not set again", gauge.info["name"])


_KEEPER: Final = _Keeper()
