"""The planned cluster as a file that `argus up` and `argus config check` take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from benchmarks.capacity.planner.plan import Plan
from serve.config.checkpoints import DEMO_CHECKPOINTS, DEMO_SCENES
from serve.config.cluster import ClusterFile


def cluster_yaml(cluster: ClusterFile, plan: Plan) -> str:
    """The whole file, with what the plan costs and promises as its head. It stands for itself: a file that only adds to
    another cannot take a model away."""
    content = _portable(cluster.model_dump(mode="json", exclude_unset=True, exclude_none=True))
    return _head(plan) + yaml.safe_dump(content, sort_keys=False, width=120, allow_unicode=True)


def _head(plan: Plan) -> str:
    nodes = " + ".join(f"{one.rented} {one.name}" for one in plan.nodes)
    lines = [
        f"Made by argus plan on {plan.made}: {nodes}, {plan.usd_per_hour:.2f} $/h.",
        f"For {plan.rate_per_s:.4g} requests a second ({plan.arrivals}); simulated, it",
        *(f"{'holds' if one.held else 'misses'} {one.objective}" for one in plan.findings),
    ]
    return "".join(f"# {line}\n" for line in lines)


def _portable(value: Any) -> Any:
    """The same with paths of what is shipped as `demo:NAME`; others stay whole, since the file may be read anywhere."""
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    if not isinstance(value, str) or not value.startswith("/"):
        return value
    path = Path(value)
    for folder in (DEMO_CHECKPOINTS, DEMO_SCENES):
        if path.is_relative_to(folder):
            return f"demo:{path.relative_to(folder)}"
    return value
