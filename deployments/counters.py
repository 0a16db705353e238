"""Counters that are there before anything has happened.

`rate()` and `increase()` compare what two scrapes saw: of a counter that appears with a value already they see nothing,
and the first failure of what seldom fails is lost. Prometheus' advice is to have every series from the start, at 0
(https://prometheus.io/docs/practices/instrumentation/#avoid-missing-metrics), which is for counters of few labels.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util import metrics


class Counter(metrics.Counter):
    """Ray's counter, which can also begin at 0: `inc` takes no 0."""

    def begin(self, tags: Mapping[str, str]) -> None:
        """A label set is exported from now on; as 0 where nothing was counted."""
        self._record(0.0, tags=dict(tags))
