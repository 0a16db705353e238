"""Boundaries of histograms: only at one of them can Prometheus say how many were faster."""

from __future__ import annotations

from typing import Final

LATENCIES_S: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5),
    *(10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0),
)
"""Seconds: 1 ms is a cached answer, 300 s the longest deadline; what objectives are stated in lies densest."""

LONGEST_WAIT_S: Final = 10.0
"""Seconds: the last boundary of the histograms of waits for a model (`deployments.replica.SECONDS`)."""
