"""Metrics and log lines of the router. Metrics are Ray's, exported with the prefix `ray_`."""

from __future__ import annotations

import asyncio
from collections import Counter as Counts
from dataclasses import dataclass
from typing import Protocol

from ray.util.metrics import Counter, Histogram

from deployments.gauges import Gauge
from serve.errors import Fault
from serve.latencies import LATENCIES_S
from serve.objectives import ObjectiveMetrics
from serve.request_log import RequestLog

# Seconds for which counts are gathered before they are handed to Ray.
_FLUSH_S = 0.25


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
        fault: whose it is that the request failed; `none` when it did not.
        trace_id: 32 hexadecimal digits; None when the request is not sampled.
    """

    request_id: str
    protocol: str
    route: str
    client: str
    outcome: str
    status: int
    seconds: float
    fault: Fault = "none"
    trace_id: str | None = None

    def fields(self) -> dict[str, str | int | float]:
        """For a log line; `operation` is the route's pattern or the RPC."""
        fields: dict[str, str | int | float] = {
            "request_id": self.request_id,
            "protocol": self.protocol,
            "operation": self.route,
            "client": self.client,
            "outcome": self.outcome,
            "status": self.status,
            "seconds": self.seconds,
        }
        if self.trace_id is not None:
            fields["trace_id"] = self.trace_id
        return fields


class Recorder(Protocol):
    """Takes ends of requests."""

    def record(self, request: RequestRecord) -> None: ...

    def in_flight(self, count: int) -> None: ...

    def viewing(self, count: int) -> None: ...


class RouterMetrics:
    """Counts what the edge sees, and logs it.

    Args:
        requests: where each request's line goes.
        cluster: its name, for dashboards of several.
        version: of Argus.
        objectives: are told of each request.

    Counts and lines are gathered and handed over a few times a second: each call into Ray, and each write, costs what
    a request cannot spare.
    """

    def __init__(self, requests: RequestLog, cluster: str, version: str, objectives: ObjectiveMetrics) -> None:
        self._log = requests
        self._objectives = objectives
        self._requests = Counter(
            "argus_requests_total",
            "Requests by protocol, route, caller, outcome (`ok` or an error code) and whose fault a failure is "
            "(none, client, server, gone).",
            tag_keys=("protocol", "route", "client", "outcome", "fault"),
        )
        self._seconds = Histogram(
            "argus_request_seconds",
            "From the first byte that the router sees to the last that it sends.",
            boundaries=list(LATENCIES_S),
            tag_keys=("protocol", "route", "fault"),
        )
        self._in_flight = Gauge("argus_requests_in_flight", "Requests in progress in a router replica.")
        self._viewers = Gauge("argus_scene_viewers", "Live views of scenes that are open in a router replica.")
        self._build = Gauge(
            "argus_build_info", "1, with what runs in a router replica.", tag_keys=("cluster", "version")
        )
        self._build.set(1, tags={"cluster": cluster, "version": version})
        self._counted: Counts[tuple[str, str, str, str, Fault]] = Counts()
        self._in_flight_now = 0
        self._viewers_now = 0
        self._flush_due = False

    def record(self, request: RequestRecord) -> None:
        """One request ended."""
        self._counted[request.protocol, request.route, request.client, request.outcome, request.fault] += 1
        self._seconds.observe(
            request.seconds, tags={"protocol": request.protocol, "route": request.route, "fault": request.fault}
        )
        self._objectives.request(request.route, request.fault, request.seconds)
        self._log.write(request.fields())
        self._flush_soon()

    def in_flight(self, count: int) -> None:
        """Requests in progress now."""
        self._in_flight_now = count
        self._flush_soon()

    def viewing(self, count: int) -> None:
        """Live views of scenes that are open now."""
        self._viewers_now = count
        self._flush_soon()

    def flush(self) -> None:
        """Hands over what has been gathered."""
        self._flush_due = False
        counted, self._counted = self._counted, Counts()
        for (protocol, route, client, outcome, fault), count in counted.items():
            tags = {"protocol": protocol, "route": route, "client": client, "outcome": outcome, "fault": fault}
            self._requests.inc(count, tags=tags)
        self._in_flight.set(self._in_flight_now)
        self._viewers.set(self._viewers_now)
        self._log.flush()

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)
