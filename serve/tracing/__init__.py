"""OpenTelemetry traces of requests: which spans there are stands in docs/operations.md, "Tracing".

A process that was told of no collector (`set_up`) makes no spans, and what is here costs it a look at a variable. A
request that is not sampled has no spans either: its hops find no current one, and do nothing more.

`spans` begins and ends spans, `export` sends them. Exporters are loaded by `set_up`.
"""

from serve.tracing.export import set_up, shut_down
from serve.tracing.spans import (
    Kind,
    Link,
    Span,
    at,
    carried,
    current,
    enabled,
    fail,
    incoming,
    link_to,
    root,
    span,
    start,
    trace_id,
    traceparent,
    use,
)

__all__ = [
    "Kind",
    "Link",
    "Span",
    "at",
    "carried",
    "current",
    "enabled",
    "fail",
    "incoming",
    "link_to",
    "root",
    "set_up",
    "shut_down",
    "span",
    "start",
    "trace_id",
    "traceparent",
    "use",
]
