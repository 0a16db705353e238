"""The first page: whether promises are kept, what is asked, how long it takes, and what is wrong now."""

from __future__ import annotations

from typing import Final

from grafana.panels import (
    Dashboard,
    Panel,
    Query,
    Row,
    buckets,
    increase,
    largest,
    quantile,
    quantiles,
    rate,
    selector,
    total,
)

_REQUESTS: Final = "ray_argus_requests_total"
_SECONDS: Final = "ray_argus_request_seconds"

_OURS: Final = 'fault="server"'
_FIRING: Final = ('alertstate="firing"', 'alertname=~"Argus.*"')

_BURN: Final = (
    f"max by (slo) ({selector('argus_slo:error_ratio:rate1h')} / (1 - {selector('argus_slo:objective:ratio')}))"
)

_OBJECTIVES = Row(
    "Objectives",
    (
        Panel(
            "Alerts that fire",
            "Alerts of grafana/prometheus that fire now, by severity. Start with the pages; each alert's runbook says "
            "what to look at.",
            "short",
            (Query(f"count by (severity) ({selector('ALERTS', *_FIRING)})", "{{severity}}"),),
            kind="stat",
            thresholds=((1, "red"),),
            width=4,
            height=6,
            no_value="none",
            runbook="docs/operations.md#what-each-alert-means",
        ),
        Panel(
            "Error budget left",
            "Share of what may fail in the objective's window that has not failed yet. At 0 the objective is missed: "
            "put stability before changes until it has recovered.",
            "percentunit",
            (Query(f"min by (slo) ({selector('argus_slo:error_budget:remaining_ratio')})", "{{slo}}"),),
            kind="stat",
            thresholds=((-1e9, "red"), (0, "orange"), (0.25, "yellow"), (0.5, "green")),
            width=12,
            height=6,
            decimals=1,
            least=None,
            no_value="no objectives",
            runbook="docs/operations.md#what-each-alert-means",
        ),
        Panel(
            "Burn rate over an hour",
            "How many times faster than allowed the error budget is spent. 1 lasts exactly the window; of a "
            "window of 30 days a page is sent above 14.4, and above 6 after six hours (SRE workbook, chapter 5).",
            "short",
            (
                Query(
                    _BURN,
                    "{{slo}}",
                ),
            ),
            thresholds=((1, "yellow"), (6, "orange"), (14.4, "red")),
            width=8,
            height=6,
            no_value="no objectives",
            runbook="docs/operations.md#what-each-alert-means",
        ),
        Panel(
            "Error ratio of each objective, 5 minutes",
            "Share of requests that broke an objective: failed through our fault, or slower than promised. Look at the "
            "panels below for the route and the error code.",
            "percentunit",
            (Query(f"max by (slo) ({selector('argus_slo:error_ratio:rate5m')})", "{{slo}}"),),
            width=8,
            no_value="no objectives",
            runbook="docs/operations.md#what-each-alert-means",
        ),
        Panel(
            "Bad requests of each objective",
            "Requests that broke an objective, and all that it is about, in the hour before each moment. Of few "
            "requests a share says little; here a single bad one shows.",
            "short",
            tuple(
                Query(increase(f"ray_argus_slo_{what}_total", by="slo", window="1h"), f"{{{{slo}}}} {shown}")
                for what, shown in (("errors", "bad"), ("events", "all"))
            ),
            width=8,
            no_value="no objectives",
            runbook="docs/operations.md#what-each-alert-means",
        ),
        Panel(
            "Failures of our own making",
            "Share of requests that failed through no fault of the client's. Anything lasting above zero deserves a "
            "look at the codes beside.",
            "percentunit",
            (
                Query(
                    f"({rate(_REQUESTS, _OURS)} or 0 * {rate(_REQUESTS)}) / {rate(_REQUESTS)}",
                    "of all requests",
                ),
            ),
            thresholds=((0.001, "yellow"), (0.01, "red")),
            width=8,
            most=1,
        ),
    ),
)

_TRAFFIC = Row(
    "Traffic",
    (
        Panel(
            "Requests a second",
            "Requests that ended, by route. A sudden fall with no fall of clients means that they do not get through: "
            "look at the ingress and the refusals.",
            "reqps",
            (Query(rate(_REQUESTS, by="protocol, route"), "{{protocol}} {{route}}"),),
            stacked=True,
        ),
        Panel(
            "Errors a second by code",
            "Ends other than `ok`, by error code and whose fault it is. The codes are those of docs/api.md; a request "
            "id of each stands in the router's log.",
            "reqps",
            (Query(rate(_REQUESTS, 'outcome!="ok"', by="fault, outcome"), "{{outcome}} ({{fault}})"),),
            stacked=True,
            runbook="docs/operations.md#logs",
        ),
        Panel(
            "Requests by client",
            "By the name of the API key: who it is that asks more than before.",
            "reqps",
            (Query(rate(_REQUESTS, by="client"), "{{client}}"),),
            stacked=True,
        ),
        Panel(
            "In progress",
            "Requests that router replicas have in progress. Rising without more requests a second: answers take "
            "longer; look at queue waits of models.",
            "short",
            (Query(total("ray_argus_requests_in_flight"), "requests"),),
            width=6,
        ),
        Panel(
            "Admitted and turned away",
            "What the edge lets in by priority, and what it sheds by reason. Shedding of low priority is the system at "
            "work; of high priority it is an incident.",
            "reqps",
            (
                Query(rate("ray_argus_admitted_requests_total", by="priority"), "in: {{priority}}"),
                Query(rate("ray_argus_shed_requests_total", by="priority, reason"), "shed: {{priority}}, {{reason}}"),
            ),
            width=6,
            runbook="docs/operations.md#deadlines-and-overload",
        ),
        Panel(
            "Queue wait by lane",
            "How long calls of a route, cascade or model wait for their model, over the last second. Above "
            "`overload.target_queue_wait_ms` the router sheds.",
            "s",
            (Query(largest("ray_argus_lane_queue_wait_seconds", by="lane"), "{{lane}}"),),
            width=6,
            runbook="docs/operations.md#deadlines-and-overload",
        ),
        Panel(
            "Classes that are shed",
            "How much of a lane is cut: 0 nothing, 1 the whole lowest class. Lasting values ask for more replicas of "
            "the lane's model.",
            "short",
            (Query(largest("ray_argus_lane_cut_classes", by="lane"), "{{lane}}"),),
            width=6,
            thresholds=((0.5, "yellow"), (1, "orange"), (2, "red")),
            runbook="docs/operations.md#deadlines-and-overload",
        ),
    ),
)

_LATENCY = Row(
    "Latency",
    (
        Panel(
            "Latency of all requests",
            "From the first byte that the router sees to the last that it sends, to the width of a bucket.",
            "s",
            quantiles(_SECONDS),
        ),
        Panel(
            "P95 by route",
            "Which route is slow. Go on to the models and cascades behind it.",
            "s",
            (Query(quantile(0.95, _SECONDS, by="protocol, route"), "{{protocol}} {{route}}"),),
        ),
        Panel(
            "Where requests fall",
            "Requests by how long they took. Two bands are two paths, such as a cascade's first step and its last.",
            "s",
            (Query(buckets(_SECONDS), "{{le}}"),),
            kind="heatmap",
        ),
        Panel(
            "P95 by path of a cascade",
            "The whole cascade, by the step that answered. The first step's path is what most clients feel; a later "
            "one's contains the steps before it.",
            "s",
            (Query(quantile(0.95, "ray_argus_cascade_seconds", by="cascade, path"), "{{cascade}}: {{path}}"),),
        ),
        Panel(
            "P95 of cascades",
            "All steps of a cascade together.",
            "s",
            (Query(quantile(0.95, "ray_argus_cascade_seconds", by="cascade"), "{{cascade}}"),),
        ),
        Panel(
            "P95 of calls by model and provider",
            "One attempt of a call, as the router sees it: network, queue and forward pass.",
            "s",
            (Query(quantile(0.95, "ray_argus_call_attempt_seconds", by="target"), "{{target}}"),),
        ),
    ),
)

_WORK = Row(
    "Long work",
    (
        Panel(
            "Jobs by state",
            "Jobs in the store. Queued ones that do not fall need more router replicas or a higher `concurrency`.",
            "short",
            (Query(largest("ray_argus_jobs", by="state"), "{{state}}"),),
            stacked=True,
            runbook="docs/operations.md#jobs-on-disk",
        ),
        Panel(
            "Age of the oldest waiting job",
            "How long the job that waits longest has waited for a worker.",
            "s",
            (Query(largest("ray_argus_job_queue_age_seconds"), "oldest"),),
            thresholds=((60, "yellow"), (600, "red")),
            runbook="docs/operations.md#jobs-on-disk",
        ),
        Panel(
            "Jobs that ended, 5 minutes",
            "By operation and how they ended. Failed ones carry their error in the job.",
            "short",
            (
                Query(
                    increase("ray_argus_job_seconds_count", by="operation, state", window="5m"),
                    "{{operation}} {{state}}",
                ),
            ),
            width=4,
            runbook="docs/operations.md#jobs-on-disk",
        ),
        Panel(
            "Time of jobs, P95",
            "From a job's submission to its end, by operation.",
            "s",
            (Query(quantile(0.95, "ray_argus_job_seconds", by="operation"), "{{operation}}"),),
            width=4,
            runbook="docs/operations.md#jobs-on-disk",
        ),
    ),
)

_TRACES = Row(
    "Traces",
    (
        Panel(
            "Spans a second",
            "Spans that the collector has taken, and spans that no collector has seen, by reason. Requests never wait "
            "for either.",
            "cps",
            (
                Query(rate("ray_argus_spans_exported_total"), "exported"),
                Query(rate("ray_argus_spans_dropped_total", by="reason"), "dropped: {{reason}}"),
            ),
            width=24,
            height=6,
            no_value="no tracing",
        ),
    ),
)

OVERVIEW = Dashboard(
    "argus-overview",
    "Argus: overview",
    "Whether promises are kept, what is asked, how long it takes, what is wrong now.",
    (_OBJECTIVES, _TRAFFIC, _LATENCY, _WORK, _TRACES),
)
