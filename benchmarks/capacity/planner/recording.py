"""What was planned, as Prometheus recording rules: the dashboards show it beside what is offered."""

from __future__ import annotations

from typing import Any

import yaml

from benchmarks.capacity.planner.plan import Plan


def recording_rules(plan: Plan) -> str:
    """A rule file. Names follow `level:metric:operation`; constants, since a plan does not change by itself.

    `argus_plan:capacity:qps{flow,entry}` is the load up to which the plan holds, `argus_plan:rate:qps{flow,entry}` what it
    was made for, `argus_plan:replicas:count{model}` and `argus_plan:nodes:count{pool}` what it says should run.
    """
    rules: list[dict[str, Any]] = []
    for flow in plan.flows:
        rate = plan.rate_per_s * flow.share
        # What is offered is counted by cascade and by route, so the entry says beside which of them a flow belongs.
        of = {"flow": flow.name, "entry": flow.entry}
        rules.append(_rule("argus_plan:capacity:qps", plan.capacity_per_s.get(flow.name, rate), **of))
        rules.append(_rule("argus_plan:rate:qps", rate, **of))
    rules += [_rule("argus_plan:replicas:count", one.replicas, model=one.name) for one in plan.stages]
    rules += [_rule("argus_plan:nodes:count", one.working, pool=one.name) for one in plan.nodes]
    rules.append(_rule("argus_plan:cost:usd_per_hour", plan.usd_per_hour))
    group = {"name": "argus_plan", "interval": "1m", "rules": rules}
    return yaml.safe_dump({"groups": [group]}, sort_keys=False, width=120)


def _rule(record: str, value: float, **labels: str) -> dict[str, Any]:
    return {"record": record, "expr": f"vector({value:.6g})", **({"labels": labels} if labels else {})}
