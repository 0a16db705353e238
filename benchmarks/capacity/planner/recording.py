"""What was planned, as Prometheus recording rules: the dashboards show it beside what is offered."""

from __future__ import annotations

from typing import Any

import yaml

from benchmarks.capacity.planner.plan import Plan


def recording_rules(plan: Plan, cluster: str) -> str:
    """A rule file. Names follow `level:metric:operation`; constants, since a plan does not change by itself.

    Args:
        cluster: name of the planned cluster, the label by which dashboards choose.

    `argus_plan:capacity:qps{flow,entry}` is the load up to which the plan holds, `argus_plan:rate:qps{flow,entry}` what
    it was made for, `argus_plan:replicas:count{model}` and `argus_plan:nodes:count{pool}` what it says should run.
    """
    rules: list[dict[str, Any]] = []

    def record(name: str, value: float, **labels: str) -> None:
        rules.append({"record": name, "expr": f"vector({value:.6g})", "labels": {"cluster": cluster, **labels}})

    for flow in plan.flows:
        rate = plan.rate_per_s * flow.share
        # What is offered is counted by where it enters, so the entry says beside which of them a flow belongs.
        of = {"flow": flow.name, "entry": flow.entry}
        record("argus_plan:capacity:qps", plan.capacity_per_s.get(flow.name, rate), **of)
        record("argus_plan:rate:qps", rate, **of)
    for stage in plan.stages:
        record("argus_plan:replicas:count", stage.replicas, model=stage.name)
    for node in plan.nodes:
        record("argus_plan:nodes:count", node.rented, pool=node.name)
    record("argus_plan:cost:usd_per_hour", plan.usd_per_hour)
    group = {"name": f"argus_plan_{cluster}", "interval": "1m", "rules": rules}
    return yaml.safe_dump({"groups": [group]}, sort_keys=False, width=120)
