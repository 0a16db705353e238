"""A rule of Prometheus, before it is text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Severity = Literal["page", "ticket", "info"]

RUNBOOK: Final = "docs/operations.md"
"""Where each alert has a heading of its name."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording rule."""

    record: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def rule(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {"record": self.record, "expr": self.expr, "labels": dict(self.labels)}


@dataclass(frozen=True, slots=True)
class Alert:
    """An alerting rule.

    Attributes:
        severity: `page` wakes somebody, `ticket` is for working hours, `info` for whoever looks.
        lasts: how long the expression must hold.
        labels: beside the severity and the cluster.
    """

    name: str
    expr: str
    severity: Severity
    summary: str
    description: str
    lasts: str = "0m"
    labels: Mapping[str, str] = field(default_factory=dict)

    def rule(self, cluster: str) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.lasts,
            "labels": {"severity": self.severity, "cluster": cluster, **self.labels},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook": f"{RUNBOOK}#{self.name.lower()}",
            },
        }
