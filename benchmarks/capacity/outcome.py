"""What became of a run's requests, simulated or real: the same columns, and the same figures out of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StageUse:
    """One deployment over a run.

    Attributes:
        busy_share: of its replicas' time, 0 to 1.
        mean_batch: items in a forward pass, or sequences in an engine step.
        queue_wait_s: mean, of its items.
        replicas: mean number that ran.
    """

    busy_share: float
    mean_batch: float
    queue_wait_s: float
    replicas: float


@dataclass(frozen=True, slots=True)
class Change:
    """Another number of replicas was decided.

    Attributes:
        at: seconds since the run began.
        before, after: numbers of replicas.
    """

    at: float
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """Columns over the requests of a run, in the order of their arrival.

    Attributes:
        arrived_s: when each was sent, or should have been, in seconds since the run began.
        latency_s: from there to its end, whatever the end was.
        ok: whether it was answered; what is refused or too late is not.
        path: index into `paths` of the step that answered; -1 for none.
        paths: names: the model, or the cascade's step.
        usd: paid to providers for it.
        flow: index into `flows` of what it asked for.
        start_s, end_s: the measured window; what arrives before is warm-up.
        stages: by deployment or provider.
        changes: of their numbers of replicas, by deployment; those that scale have an entry.
        woken: how often event loops began after a pause, by whose they are: `router`, `replica` (of all models),
            `ingress`, `client` (the load generator). Nothing of a real run.
    """

    arrived_s: Float64
    latency_s: Float64
    ok: npt.NDArray[np.bool_]
    path: npt.NDArray[np.int16]
    paths: tuple[str, ...]
    usd: Float64
    flow: npt.NDArray[np.int16]
    flows: tuple[str, ...]
    start_s: float
    end_s: float
    stages: Mapping[str, StageUse] = field(default_factory=dict)
    changes: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)
    woken: Mapping[str, int] = field(default_factory=dict)

    @property
    def measured(self) -> npt.NDArray[np.bool_]:
        """Which requests count: those due in the window."""
        return (self.arrived_s >= self.start_s) & (self.arrived_s < self.end_s)

    def answers_per_s(self, flow: str | None = None) -> float:
        """Right answers of one flow, or of all, that ended in the window, a second of it, whenever they were asked for.

        Of the requests that were sent in the window as many as ever may be answered in the end, however slowly.
        """
        ended = self.arrived_s + self.latency_s
        inside = self.ok & (ended >= self.start_s) & (ended < self.end_s)
        if flow is not None:
            inside &= self.flow == self.flows.index(flow)
        return float(inside.sum()) / (self.end_s - self.start_s)

    def summary(self, flow: str | None = None) -> Summary:
        """Figures of one flow, or of all requests."""
        chosen = self.measured
        if flow is not None:
            chosen = chosen & (self.flow == self.flows.index(flow))
        return summarise(self, chosen)


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of a set of requests.

    Attributes:
        done_per_s: answered ones among those sent in the window, a second of it, whenever they were answered; how many
            are answered in a second is `Outcome.answers_per_s`.
        failed_share: of all sent.
        mean_s, p50_s, p95_s, p99_s: latency of the answered ones; NaN when there are none.
        path_share: of the answered ones, by the step that answered.
        usd_per_1000: paid to providers for a thousand requests.
    """

    requests: int
    done_per_s: float
    failed_share: float
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    path_share: Mapping[str, float]
    usd_per_1000: float


def summarise(outcome: Outcome, chosen: npt.NDArray[np.bool_]) -> Summary:
    """Figures of the `chosen` requests."""
    count = int(chosen.sum())
    ok = chosen & outcome.ok
    latencies = outcome.latency_s[ok]
    answered = int(ok.sum())
    if answered:
        p50, p95, p99 = np.quantile(latencies, (0.5, 0.95, 0.99), method="inverted_cdf")
        mean = float(latencies.mean())
    else:
        mean = p50 = p95 = p99 = float("nan")
    shares = {
        name: float((outcome.path[ok] == index).mean()) if answered else 0.0 for index, name in enumerate(outcome.paths)
    }
    return Summary(
        requests=count,
        done_per_s=answered / (outcome.end_s - outcome.start_s),
        failed_share=1.0 - answered / count if count else 0.0,
        mean_s=mean,
        p50_s=float(p50),
        p95_s=float(p95),
        p99_s=float(p99),
        path_share=shares,
        usd_per_1000=1000.0 * float(outcome.usd[chosen].mean()) if count else 0.0,
    )
