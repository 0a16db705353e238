"""Metrics and log lines of the router. Metrics are Ray's, exported with the prefix `ray_`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from ray.util.metrics import Counter, Gauge, Histogram

from deployments.replica import SECONDS

# Ray Serve writes this logger, and what hangs below it, as JSON lines.
log = logging.getLogger("ray.serve.argus")


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request that ended.

    Attributes:
        protocol: `http` or `grpc`.
        route: the route's pattern, never the path: its values are bounded.
        client: name of the API key.
        outcome: `ok` or an error code.
        status: HTTP status, or gRPC code.
        seconds: from the first byte that the router saw to the last that it sent.
    """

    request_id: str
    protocol: str
    route: str
    client: str
    outcome: str
    status: int
    seconds: float

    def fields(self) -> dict[str, str | int | float]:
        """For a log line. Ray's formatter has a field `route` of its own, so ours is called `operation` there."""
        return {
            "request_id": self.request_id,
            "protocol": self.protocol,
            "operation": self.route,
            "client": self.client,
            "outcome": self.outcome,
            "status": self.status,
            "seconds": self.seconds,
        }


class Recorder(Protocol):
    """Takes ends of requests."""

    def record(self, request: RequestRecord) -> None: ...

    def in_flight(self, count: int) -> None: ...


class RouterMetrics:
    """Counts and logs what the edge sees."""

    def __init__(self) -> None:
        self._requests = Counter(
            "argus_requests_total",
            "Requests by protocol, route, caller and outcome (`ok` or an error code).",
            tag_keys=("protocol", "route", "client", "outcome"),
        )
        self._seconds = Histogram(
            "argus_request_seconds",
            "From the first byte that the router sees to the last that it sends.",
            boundaries=SECONDS,
            tag_keys=("protocol", "route"),
        )
        self._in_flight = Gauge("argus_requests_in_flight", "Requests in progress in a router replica.")

    def record(self, request: RequestRecord) -> None:
        """One request ended."""
        self._requests.inc(
            tags={
                "protocol": request.protocol,
                "route": request.route,
                "client": request.client,
                "outcome": request.outcome,
            }
        )
        self._seconds.observe(request.seconds, tags={"protocol": request.protocol, "route": request.route})
        if log.isEnabledFor(logging.INFO):
            log.info("request", extra=request.fields())

    def in_flight(self, count: int) -> None:
        """Requests in progress now."""
        self._in_flight.set(count)
