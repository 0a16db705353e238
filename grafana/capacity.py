"""Capacity: what is offered against what the plan holds, what the nodes still have, and what load tests do to both."""

from __future__ import annotations

from typing import Final

from grafana.panels import WINDOW, Dashboard, Panel, Query, Row, Variable, largest, quantile, rate, selector, total

_LOAD_TESTS: Final = "docs/load-testing.md"
_PLANNING: Final = "docs/capacity-planning.md"
_NO_PLAN: Final = "no plan: run argus plan"
_CLIENT: Final = 'client=~"$client"'
_PLACED: Final = 'Name=~"CPU|GPU"'
_USED: Final = 'State="USED"'


def _by_entry(metric: str, label: str, *matchers: str) -> str:
    """A counter a second, its label also named `entry`: the model, provider or cascade that a plan's flow asks."""
    return f'label_replace(rate({selector(metric, *matchers)}[{WINDOW}]), "entry", "$1", "{label}", "(.+)")'


# Whatever arrives at cascades, and at models and providers.
_CASCADES = f"sum by (entry) ({_by_entry('ray_argus_cascade_requests_total', 'cascade')})"
_ATTEMPTS = f"sum by (entry) ({_by_entry('ray_argus_call_attempts_total', 'target')})"

# A plan's flow enters the cluster at a cascade, or at a model or provider that is asked by itself: not with what the
# router asks once more, and not with what a cascade asks on its behalf. Shadow checks stay in it: their counter does
# not say which model checked.
_ON_BEHALF = " or ".join(
    (
        _by_entry("ray_argus_call_retries_total", "target"),
        _by_entry("ray_argus_call_hedges_total", "target"),
        _by_entry("ray_argus_cascade_steps_total", "model", 'result!="skipped"'),
    )
)
_ENTERING = f"({_CASCADES} or clamp_min({_ATTEMPTS} - (sum by (entry) ({_ON_BEHALF}) or 0 * {_ATTEMPTS}), 0))"


_PLANNED: Final = total("argus_plan:capacity:qps", by="entry")
_PLANNED_REPLICAS: Final = selector("argus_plan:replicas:count")

_PLAN = Row(
    "Offered and planned",
    (
        Panel(
            "Offered and planned",
            "Requests a second that enter at each model, provider and cascade that the plan names (what cascades, "
            "retries and hedges ask of it is none; shadow checks are), and what the plan holds. Above the planned line "
            "its promises end: plan anew with the new rate.",
            "reqps",
            (
                Query(f"{_ENTERING} and on (entry) {_PLANNED}", "{{entry}} offered"),
                Query(total("argus_plan:capacity:qps", by="flow"), "{{flow}} planned"),
            ),
            width=12,
            no_value=_NO_PLAN,
            runbook=_PLANNING,
        ),
        Panel(
            "Used of the plan",
            "Offered as a share of planned. Order nodes at 0.8: they take minutes to come.",
            "percentunit",
            (Query(f"{_ENTERING} / on (entry) {_PLANNED}", "{{entry}}"),),
            kind="stat",
            thresholds=((0.8, "orange"), (1, "red")),
            width=6,
            decimals=0,
            no_value=_NO_PLAN,
            runbook=_PLANNING,
        ),
        Panel(
            "Cost of the plan, an hour",
            "Nodes and calls of providers at the planned rate.",
            "currencyUSD",
            (Query(total("argus_plan:cost:usd_per_hour"), "plan"),),
            kind="stat",
            width=6,
            decimals=2,
            no_value=_NO_PLAN,
            runbook=_PLANNING,
        ),
        Panel(
            "Replicas planned and running",
            "What the plan says should run at the planned rate, and what is healthy now. Fewer is right while less is "
            "offered than planned.",
            "short",
            (
                Query(f"sum by (model) ({_PLANNED_REPLICAS})", "{{model}} planned"),
                Query(
                    f"{total('ray_serve_deployment_replica_healthy', by='deployment')} and on (deployment) "
                    f'label_replace({_PLANNED_REPLICAS}, "deployment", "$1", "model", "(.+)")',
                    "{{deployment}} running",
                ),
            ),
            width=8,
            decimals=0,
            no_value=_NO_PLAN,
            runbook=_PLANNING,
        ),
        Panel(
            "Nodes planned",
            "By pool. Compare with the nodes that are alive, below.",
            "short",
            (Query(total("argus_plan:nodes:count", by="pool"), "{{pool}}"),),
            width=4,
            decimals=0,
            no_value=_NO_PLAN,
            runbook=_PLANNING,
        ),
        Panel(
            "Offered, planned or not",
            "Requests a second at cascades, and attempts a second at models and providers, steps of cascades included.",
            "reqps",
            (Query(f"{_CASCADES} or {_ATTEMPTS}", "{{entry}}"),),
            width=12,
        ),
    ),
)

_NODES = Row(
    "What nodes have",
    (
        Panel(
            "CPU of nodes",
            "Share of a node's cores in use. Above 0.9 the tail of every latency grows.",
            "percentunit",
            (Query(f"{selector('ray_node_cpu_utilization')} / 100", "{{ip}}"),),
            thresholds=((0.9, "orange"),),
            most=1,
            width=6,
        ),
        Panel(
            "Memory of nodes",
            "Share of a node's memory in use. Ray ends processes from 0.95.",
            "percentunit",
            (Query(f"{selector('ray_node_mem_used')} / {selector('ray_node_mem_total')}", "{{ip}}"),),
            thresholds=((0.85, "orange"), (0.95, "red")),
            most=1,
            width=6,
        ),
        Panel(
            "Reserved by placements",
            "Cores and GPUs that placements of the cluster file have taken, as a share of what the nodes have. What is "
            "free here is where further replicas go.",
            "percentunit",
            (
                Query(
                    f"{total('ray_resources', _PLACED, _USED, by='Name')} / "
                    f"{total('ray_resources', _PLACED, by='Name')}",
                    "{{Name}}",
                ),
            ),
            most=1,
            width=6,
        ),
        Panel(
            "Nodes",
            "Nodes that Ray counts as alive.",
            "short",
            (Query(total("ray_cluster_active_nodes"), "alive"),),
            width=6,
            decimals=0,
        ),
        Panel(
            "Replicas by deployment",
            "Healthy replicas: how the autoscaler answers the load.",
            "short",
            (Query(total("ray_serve_deployment_replica_healthy", by="deployment"), "{{deployment}}"),),
            width=12,
            decimals=0,
        ),
        Panel(
            "Versions",
            "Router replicas by cluster file and version. Two versions at once are a roll-out that has not ended.",
            "short",
            (Query(total("ray_argus_build_info", by="cluster, version"), "{{cluster}} {{version}}"),),
            kind="stat",
            width=6,
        ),
        Panel(
            "Metrics that arrive",
            "Targets of Prometheus that answer, by job. 0: the numbers of that node are missing everywhere.",
            "short",
            (Query(total("up", 'job=~"argus.*"', by="job"), "{{job}}"),),
            kind="stat",
            thresholds=((-1e9, "red"), (1, "green")),
            width=6,
            runbook="docs/operations.md#what-each-alert-means",
        ),
    ),
)

_LOAD = Row(
    "Load tests",
    (
        Panel(
            "Requests of the chosen clients",
            "Choose the client whose key the load generator sends. What is offered is the generator's to say; a gap to "
            "what ends here is requests that wait or are refused.",
            "reqps",
            (Query(rate("ray_argus_requests_total", _CLIENT, by="client, route"), "{{client}} {{route}}"),),
            stacked=True,
            runbook=_LOAD_TESTS,
        ),
        Panel(
            "Failures of the chosen clients",
            "Ends other than `ok`, by code.",
            "reqps",
            (Query(rate("ray_argus_requests_total", _CLIENT, 'outcome!="ok"', by="outcome"), "{{outcome}}"),),
            stacked=True,
            runbook=_LOAD_TESTS,
        ),
        Panel(
            "Latency by route, P99",
            "Of all clients, measured in the router; an open-loop generator's own figures contain the way to it too.",
            "s",
            (Query(quantile(0.99, "ray_argus_request_seconds", by="route"), "{{route}}"),),
            runbook=_LOAD_TESTS,
        ),
        Panel(
            "Responses of the ingress",
            "By class of status, as HAProxy counts them. 5xx here and none in the router: the router could not be "
            "reached.",
            "reqps",
            (
                Query(
                    f'sum by (proxy, code) (rate(haproxy_frontend_http_responses_total{{cluster=~"$cluster", '
                    f'proxy=~".*_frontend"}}[{WINDOW}]))',
                    "{{proxy}} {{code}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Sessions at the ingress",
            "Open connections of clients, and requests that wait in the ingress for a router replica.",
            "short",
            (
                Query(
                    largest("haproxy_frontend_current_sessions", 'proxy=~".*_frontend"', by="proxy"), "{{proxy}} open"
                ),
                Query(largest("haproxy_backend_current_queue", by="proxy"), "{{proxy}} waiting"),
            ),
        ),
        Panel(
            "Memory by process",
            "Resident memory over a long run. A line that rises under steady load is a leak; `argus load --soak` puts "
            "a confidence interval to it.",
            "bytes",
            (Query(total("ray_component_rss_bytes", by="Component"), "{{Component}}"),),
            runbook=_LOAD_TESTS,
        ),
    ),
)

CAPACITY = Dashboard(
    "argus-capacity",
    "Argus: capacity and load tests",
    "What is offered against what the plan holds, what the nodes still have, and what load tests do to both.",
    (_PLAN, _NODES, _LOAD),
    (Variable("client", "Client", selector("ray_argus_requests_total")),),
)
