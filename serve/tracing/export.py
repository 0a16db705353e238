"""From finished spans to the collector: gathered, sent in a thread of their own, and dropped when there are too many.

No request waits for any of it, whatever the collector does. What is lost is counted
(`argus_spans_dropped_total{reason}`).
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from serve.config.tracing import Tracing
from serve.tracing import spans
from serve.tracing.spans import Roots

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_LOG = logging.getLogger("argus.tracing")
_PATH: Final = "/v1/traces"
# Most spans in one message, and seconds that the last ones have when the process ends.
_MOST_SENT: Final = 512
_FAREWELL_S: Final = 2.0

Count = Callable[[str, int], None]
"""Told what became of how many spans: `exported`, `queue_full` or `export_failed`."""


class _Installed:
    """The provider of this process."""

    provider: TracerProvider | None = None


def set_up(
    settings: Tracing,
    cluster: str,
    service: str,
    *,
    count: Count | None = None,
) -> None:
    """From here on this process makes spans and sends them; does nothing when `settings` names no collector, or where
    OpenTelemetry is switched off (`OTEL_SDK_DISABLED`): its tracers then make spans that are none.

    Args:
        cluster: its name (`service.namespace`).
        service: `router`, or a model's name: what follows the `service_name`.
        count: told what becomes of spans; Ray's metrics by default.
    """
    if settings.endpoint is None or spans.enabled():
        return
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        _LOG.warning("OTEL_SDK_DISABLED is set: there are no traces")
        return
    # They warn of each `traceparent` and `tracestate` that is too long or bad, in the words of whoever sent it.
    for name in ("opentelemetry.trace.span", "opentelemetry.trace.propagation.tracecontext"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    from serve.tracing.processor import BoundedProcessor

    # Not `Resource.create`, which adds what the environment and the command line say: those may hold secrets.
    resource = Resource(
        {
            "service.namespace": cluster,
            "service.name": f"{settings.service_name}-{service}",
            "service.version": version("argus-serve"),
            "service.instance.id": f"{os.uname().nodename}-{os.getpid()}",
            "argus.deployment": service,
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.language": "python",
            "telemetry.sdk.version": version("opentelemetry-sdk"),
        }
    )
    # `Roots` has decided before a span is begun; and its own end waits for the collector as long as that likes.
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(
        BoundedProcessor(
            _exporter(settings),
            _metrics() if count is None else count,
            max_queue=settings.max_queue,
            every_s=settings.export_every_s,
            most_sent=min(_MOST_SENT, settings.max_queue),
        )
    )
    _Installed.provider = provider
    spans.install(
        provider.get_tracer("argus", version("argus-serve")),
        Roots(settings.sample_ratio, settings.max_traces_per_s),
    )
    atexit.register(shut_down)


def shut_down(within_s: float = _FAREWELL_S) -> None:
    """Sends what is left, for at most `within_s` seconds, and makes no more spans."""
    provider, _Installed.provider = _Installed.provider, None
    spans.install(None, None)
    if provider is None:
        return
    atexit.unregister(shut_down)
    # The SDK waits for the collector; a process that ends does not.
    ending = threading.Thread(target=provider.shutdown, name="last-spans", daemon=True)
    ending.start()
    ending.join(within_s)


def _exporter(settings: Tracing) -> SpanExporter:
    endpoint = settings.endpoint
    assert endpoint is not None, "only called with one"
    headers = _headers(settings.headers_env)
    if settings.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        insecure = urlsplit(endpoint).scheme == "http"
        return GrpcExporter(endpoint, insecure, headers=tuple(headers.items()), timeout=settings.timeout_s)
    import requests
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    session = requests.Session()
    session.trust_env = not _is_loopback(endpoint)  # a proxy is of no use towards this machine
    return HttpExporter(address(endpoint), headers=headers, timeout=settings.timeout_s, session=session)


def address(endpoint: str) -> str:
    """Where OTLP over HTTP is posted (OTLP 1.9, "OTLP/HTTP Request"): the default path, unless there is another."""
    return endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + _PATH


def _headers(variables: Mapping[str, str]) -> dict[str, str]:
    """Values of the variables; one that is not set is said, and its header left out: the collector will refuse us."""
    found: dict[str, str] = {}
    for header, variable in variables.items():
        value = os.environ.get(variable)
        if value:
            found[header] = value
        else:
            _LOG.warning("tracing.headers_env.%s: the variable %s is not set", header, variable)
    return found


def _is_loopback(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _metrics() -> Count:
    from ray.util.metrics import Counter

    exported = Counter("argus_spans_exported_total", "Spans that the collector has taken.")
    dropped = Counter("argus_spans_dropped_total", "Spans that no collector has seen.", tag_keys=("reason",))

    def count(what: str, number: int) -> None:
        if what == "exported":
            exported.inc(number)
        else:
            dropped.inc(number, tags={"reason": what})

    return count
