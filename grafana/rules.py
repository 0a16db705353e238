"""Prometheus' rules of a cluster file: what is recorded of its objectives, and when somebody is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import yaml

from grafana import alerts, objectives
from serve.config.cluster import ClusterFile

# Seconds between evaluations.
_INTERVAL_S: Final = 30


def render(cluster: ClusterFile) -> dict[str, Any]:
    """The rules of a cluster, as the content of a rule file."""
    name = cluster.name
    groups = [
        _group(f"argus-{name}-slo-{slo}", [rule.rule() for rule in objectives.recordings(cluster, slo, objective)])
        for slo, objective in cluster.objectives.slos.items()
    ]
    if cluster.objectives.slos:
        groups.append(_group(f"argus-{name}-burn", [alert.rule(name) for alert in objectives.burn_alerts(cluster)]))
    remembered = [rule.rule() for rule in alerts.recordings(cluster)]
    groups.append(
        _group(f"argus-{name}-alerts", [*remembered, *(alert.rule(name) for alert in alerts.alerts(cluster))])
    )
    return {"groups": groups}


def text(cluster: ClusterFile, command: str) -> str:
    """The rule file.

    Args:
        command: that makes it, for its first line.
    """
    rules = yaml.dump(render(cluster), Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)
    return f"# Made by `{command}`. Do not edit: change the cluster file or the folder grafana.\n{rules}"


def _group(name: str, rules: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "interval": f"{_INTERVAL_S}s", "rules": list(rules)}


class _Dumper(yaml.SafeDumper):
    """Without anchors, which Prometheus reads and people do not."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
