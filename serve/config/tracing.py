"""The `tracing` section: where spans go, and of how many requests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from serve.config.model_base import Name, Section

Protocol = Literal["http/protobuf", "grpc"]
Header = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Tracing(Section):
    """OpenTelemetry traces, sent by OTLP (https://opentelemetry.io/docs/specs/otlp/). Without an endpoint there are
    none, and no exporter is loaded."""

    endpoint: str | None = Field(
        None,
        description="Collector, such as http://collector:4318 (http/protobuf) or http://collector:4317 (grpc); "
        "https:// for TLS. For http/protobuf, /v1/traces is added to an address without a path.",
    )
    protocol: Protocol = Field("http/protobuf", description="OTLP's transport.")
    sample_ratio: float = Field(
        0.01, ge=0, le=1, description="Share of requests traced among those that do not say themselves."
    )
    max_traces_per_s: float = Field(
        50,
        gt=0,
        le=10_000,
        description="Most traces begun a second in a router replica: half of "
        "them of clients that ask, half by sample_ratio.",
    )
    service_name: Name = Field("argus", description="Services are named NAME-router and NAME-MODEL.")
    headers_env: dict[Header, Variable] = Field(
        {}, description="Headers sent to the collector, each with the environment variable that holds its value."
    )
    timeout_s: float = Field(10, gt=0, le=120, description="Longest that one export may last, its retries included.")
    export_every_s: float = Field(1, gt=0, le=60, description="Seconds for which finished spans are gathered.")
    max_queue: int = Field(
        4096, ge=64, le=1_000_000, description="Most finished spans that wait in a process; more are dropped, counted."
    )
    propagate_to: tuple[Name, ...] = Field(
        (), description="Providers that are sent `traceparent`; others learn nothing of our traces."
    )

    @field_validator("endpoint")
    @classmethod
    def _address(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be http://HOST:PORT or https://HOST:PORT")
        if parts.username or parts.password or parts.query:
            raise ValueError("must hold no secret and no query; headers_env names variables for those")
        return endpoint


def tracing_problems(tracing: Tracing, providers: Iterable[str]) -> Iterable[str]:
    """What only shows across sections, one line each."""
    known = list(providers)
    for name in tracing.propagate_to:
        if name not in known:
            right = ", ".join(known) or "none"
            yield f"tracing.propagate_to: got {name!r}; it must be a provider of this file: {right}"
