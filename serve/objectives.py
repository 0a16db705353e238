"""What the objectives of a cluster file count: requests that each is about, and the bad ones among them.

Each has two counters of its own, which begin at 0: so the first bad request of a route that is seldom asked is seen
(`deployments.counters`), which among counters by client and error code it would not be. Prometheus' rules
(`grafana.objectives`) read these two.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Counts
from collections.abc import Mapping

from deployments.counters import Counter
from serve.cascade.recorder import ShadowResult
from serve.config.objectives import Objective
from serve.config.routes import PROBES, UNMATCHED
from serve.errors import Fault

_FLUSH_S = 0.25
_NOBODYS = frozenset((*PROBES, UNMATCHED))


def request_was_bad(objective: Objective, route: str, fault: Fault, seconds: float) -> bool | None:
    """Of a request to the service; None where the objective is not about it."""
    if objective.cascade is not None:
        return None
    mine = route == objective.route if objective.route is not None else route not in _NOBODYS
    return _was_bad(objective, fault, seconds) if mine else None


def cascade_was_bad(
    objective: Objective, cascade: str, fault: Fault, seconds: float, *, escalated: bool
) -> bool | None:
    """Of a cascade that ended, whoever asked it; None where the objective is not about it.

    Args:
        escalated: more than the first step was called.
    """
    if cascade != objective.cascade or objective.kind == "agreement":
        return None
    return escalated if objective.kind == "escalation" else _was_bad(objective, fault, seconds)


def shadow_was_bad(objective: Objective, cascade: str, result: ShadowResult) -> bool | None:
    """Of a shadow check that said something; None where the objective is not about it."""
    if cascade != objective.cascade or objective.kind != "agreement" or result not in ("agreed", "disagreed"):
        return None
    return result == "disagreed"


def _was_bad(objective: Objective, fault: Fault, seconds: float) -> bool | None:
    if objective.under_s is None:
        return fault == "server"
    late = seconds > objective.under_s
    # Who left before the promised time has seen neither a fast answer nor a slow one; a failure is no answer.
    return late if fault == "none" or (fault == "gone" and late) else None


class ObjectiveMetrics:
    """Counts by objective; lives on the router's event loop. Counts are handed to Ray a few times a second.

    Args:
        slos: objectives by name.
    """

    def __init__(self, slos: Mapping[str, Objective]) -> None:
        self._slos = slos
        self._events = Counter("argus_slo_events_total", "Requests that an objective counts.", tag_keys=("slo",))
        self._errors = Counter("argus_slo_errors_total", "Bad ones among an objective's requests.", tag_keys=("slo",))
        self._counted: Counts[tuple[str, bool]] = Counts()
        self._flush_due = False
        for slo in slos:
            for counter in (self._events, self._errors):
                counter.begin({"slo": slo})

    def request(self, route: str, fault: Fault, seconds: float) -> None:
        """One request to the service ended."""
        for slo, objective in self._slos.items():
            self._count(slo, request_was_bad(objective, route, fault, seconds))

    def cascade(self, cascade: str, fault: Fault, seconds: float, *, escalated: bool) -> None:
        """One request to a cascade ended."""
        for slo, objective in self._slos.items():
            self._count(slo, cascade_was_bad(objective, cascade, fault, seconds, escalated=escalated))

    def shadow(self, cascade: str, result: ShadowResult) -> None:
        """One shadow check ended."""
        for slo, objective in self._slos.items():
            self._count(slo, shadow_was_bad(objective, cascade, result))

    def flush(self) -> None:
        """Hands over what has been gathered."""
        self._flush_due = False
        counted, self._counted = self._counted, Counts()
        for (slo, bad), count in counted.items():
            self._events.inc(count, tags={"slo": slo})
            if bad:
                self._errors.inc(count, tags={"slo": slo})

    def _count(self, slo: str, bad: bool | None) -> None:
        if bad is None:
            return
        self._counted[slo, bad] += 1
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)
