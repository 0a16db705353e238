"""The `objectives` section of a cluster file: what is promised of the service, and when somebody is told.

`argus observability rules` makes recording rules and alerts for Prometheus of it. The kinds of promise, and burn rates
over several windows, are those of Beyer et al. 2018, "The Site Reliability Workbook", chapters 2 and 5.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from serve.config.model_base import Name, Section
from serve.config.routes import ROUTES
from serve.latencies import LATENCIES_S, LONGEST_WAIT_S

if TYPE_CHECKING:
    from serve.config.cluster import ClusterFile

Kind = Literal["availability", "latency", "escalation", "agreement"]


class Objective(Section):
    """A share of requests that shall be good."""

    kind: Kind = Field(
        description="What is good: `availability`: the request did not fail through our fault (5xx, deadline, "
        "overload; what is the client's fault counts as good); `latency`: of those that were answered, in less than "
        "`under_s`; `escalation`: the cascade's first step was enough; `agreement`: a shadow check said the same."
    )
    route: str | None = Field(
        None,
        description="Pattern of an HTTP route or name of a gRPC method; the whole service without route and cascade.",
    )
    cascade: Name | None = Field(None, description="Name of a cascade of this file, whoever asks it.")
    target: float = Field(gt=0, lt=1, description="Least share of good ones.")
    under_s: float | None = Field(
        None, gt=0, description="For `latency`, in seconds; one of the boundaries at which latencies are counted."
    )

    @model_validator(mode="after")
    def _fitting(self) -> Objective:
        if self.route is not None and self.cascade is not None:
            raise ValueError(f"route is {self.route!r} and cascade is {self.cascade!r}; an objective is of one of them")
        if (self.under_s is not None) != (self.kind == "latency"):
            raise ValueError(f"kind is {self.kind!r} and under_s is {self.under_s}; latency and under_s go together")
        if self.kind == "latency" and self.route is None and self.cascade is None:
            raise ValueError(
                "kind is 'latency'; name a route or a cascade, since one bound for all routes says nothing"
            )
        if self.kind in ("escalation", "agreement") and self.cascade is None:
            raise ValueError(f"kind is {self.kind!r}, which is of cascades; cascade is required")
        return self


class Alerts(Section):
    """Bounds of the alerts that no objective covers."""

    queue_wait_s: float = Field(
        1.0,
        gt=0,
        lt=LONGEST_WAIT_S,
        description="P95 of the wait for a model, in seconds, that is too long when it lasts ten minutes. Waits from "
        f"{LONGEST_WAIT_S:g} s on are counted together, so that none above would be seen.",
    )
    job_queue_age_s: float = Field(600, gt=0, description="Seconds that the oldest waiting job may wait.")
    budget_left_share: float = Field(
        0.1, gt=0, lt=1, description="Share of a day's money below which it is nearly spent."
    )


class Objectives(Section):
    """What is promised of the service."""

    window_days: int = Field(30, ge=7, le=90, description="Days over which objectives hold.")
    min_requests: int = Field(
        20,
        ge=0,
        description="Fewest requests in the shorter of an alert's two windows (5 min, 30 min, 2 h, 6 h): a share of "
        "fewer says nothing.",
    )
    slos: dict[Name, Objective] = Field({}, description="Objectives by name, the label `slo` of their series.")
    alerts: Alerts = Field(Alerts(), description="Bounds of other alerts.")


def objective_problems(cluster: ClusterFile) -> Iterator[str]:
    """Everything that is wrong with the objectives of a file beyond their form."""
    for name, objective in cluster.objectives.slos.items():
        key = f"objectives.slos.{name}"
        if objective.route is not None and objective.route not in ROUTES:
            close = difflib.get_close_matches(objective.route, ROUTES, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "docs/api.md lists the routes"
            yield f"{key}.route: got {objective.route!r}, which is no route that is counted; {hint}"
        if objective.cascade is not None:
            yield from _cascade_problems(cluster, objective, objective.cascade, key)
        if objective.under_s is not None and objective.under_s not in LATENCIES_S:
            yield (
                f"{key}.under_s: got {objective.under_s:g}, at which latencies are not counted; it must be "
                f"{_nearest(objective.under_s)}"
            )


def _cascade_problems(cluster: ClusterFile, objective: Objective, name: str, key: str) -> Iterator[str]:
    cascade = cluster.cascades.get(name)
    if cascade is None:
        yield f"{key}.cascade: got {name!r}; it must be a cascade of this file: {', '.join(cluster.cascades) or 'none'}"
    elif objective.kind == "escalation" and len(cascade.steps) < 2:
        yield f"{key}.cascade: got {name!r}, which has one step; escalation is of cascades with more"
    elif objective.kind == "agreement" and not cascade.shadow.share:
        yield f"{key}.cascade: got {name!r}, whose shadow.share is 0; without shadow checks nothing can agree"


def _nearest(seconds: float) -> str:
    """The boundaries around a figure, in words."""
    below = max((b for b in LATENCIES_S if b < seconds), default=None)
    above = min((b for b in LATENCIES_S if b > seconds), default=None)
    return " or ".join(f"{bound:g}" for bound in (below, above) if bound is not None)
