"""The plan: what `argus plan` writes as plan.json, typed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Literal

from pydantic import Field

from benchmarks.capacity.planner.objectives import Finding, Objective
from benchmarks.capacity.profiles import Record
from benchmarks.capacity.scenario import Flow
from benchmarks.traffic.arrivals import Arrivals


class Latency(Record):
    """Of answered requests, in milliseconds."""

    path: str = Field(description="The step or model that answered; `all` for the mixture.")
    flow: str = Field(description="The flow; `all` for every one.")
    share: float = Field(description="Of all requests of the flow.")
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


class StagePlan(Record):
    """One hosted model."""

    name: str
    node: str
    replicas: int
    gpu_fraction: float = Field(description="Of a GPU, a replica; 0 on a CPU.")
    gpu_memory_gb: float
    max_items: int = Field(description="Bound of a batch.")
    max_queue: int | None = Field(description="Bound of a replica's queue where its surplus goes to a provider.")
    overflow: str | None = Field(description="That provider.")
    calls_per_s: float = Field(description="Average load.")
    capacity_per_s: float = Field(description="Of all replicas, sharing GPUs as planned.")
    use: float = Field(description="The one over the other: rho.")
    use_per_point: float = Field(description="What one point more of escalation adds to it.")
    burst_per_s: float = Field(description="Capacity that the arrivals' bursts ask at least: a lower bound.")
    envelope_per_s: float = Field(
        description="Capacity with which, by the envelope of one run's arrivals, nothing would be late: enough."
    )
    mean_bound_ms: float | None = Field(
        description="Mean response for Poisson arrivals, by Inoue's bound for batches without a limit: an "
        "approximation. None for engines, calls of several items, and where batches are not rarely full."
    )
    busy_share: float = Field(description="Simulated.")
    mean_batch: float = Field(description="Simulated.")
    queue_wait_ms: float = Field(description="Simulated mean.")


class CalledPlan(Record):
    """One model that others host."""

    provider: str
    stands_in_for: str | None = Field(
        description="The model that it is asked in place of; none where the file names it."
    )
    calls_per_s: float
    usd_per_call: float
    usd_per_hour: float
    calls_per_minute: float | None = Field(None, description="That its limits let pass; none when there are none.")


class NodePlan(Record):
    """Nodes of one kind."""

    name: str
    working: int = Field(description="That the plan needs.")
    rented: int = Field(description="With those for the wanted availability.")
    usd_per_hour: float = Field(description="Of one.")
    price: str = Field(description="Way of renting; on_demand where the catalogue lacks the one that was wished.")
    source: str
    contents: tuple[Mapping[str, int], ...] = Field(description="Replicas on each, as planned.")


class ThresholdPlan(Record):
    """A calibrated threshold."""

    cascade: str
    step: str
    threshold: float
    before: float
    certified_agreement: float
    escalated: float


class WhatIf(Record):
    """The plan when something changes."""

    change: str
    held: bool
    worst: str = Field(description="The objective that is nearest to its bound, or over it.")
    bound_over_allowed: float = Field(description="Of that objective: above 1 it is missed.")
    usd_per_hour_to_hold: float | None = Field(
        description="Under the change, calls included: of this plan where it holds, else of the cheapest that does."
    )
    remark: str = ""


class BreakEven(Record):
    """Hosting a model against calling a provider in its place."""

    stage: str
    provider: str
    node: str
    node_usd_per_hour: float
    usd_per_call: float
    calls_per_s: float = Field(description="From which one node of that kind costs less than the calls.")
    node_capacity_per_s: float = Field(description="Calls a second that a node does at most.")
    verdict: Literal["host", "call", "host some"] = Field(
        description="At the planned load: the cheaper way, by arithmetic alone."
    )


class CostPoint(Record):
    """The cheapest cluster at another strictness."""

    factor: float = Field(description="On every latency bound.")
    usd_per_hour: float | None


class Plan(Record):
    """A plan, or why there is none."""

    version: Literal[1] = 1
    made: date
    feasible: bool
    reasons: tuple[str, ...] = Field((), description="Why there is none.")
    nearest: str | None = Field(None, description="What would be feasible instead.")

    flows: tuple[Flow, ...]
    arrivals: str = Field(description="The process, in words.")
    process: Arrivals = Field(description="The process itself, at the planned rate.")
    rate_per_s: float
    objectives: tuple[Objective, ...]
    confidence: float
    seeds: tuple[int, ...]
    run_seconds: float
    price: str
    survives_node_loss: bool

    nodes: tuple[NodePlan, ...] = ()
    stages: tuple[StagePlan, ...] = ()
    providers: tuple[CalledPlan, ...] = ()
    thresholds: tuple[ThresholdPlan, ...] = ()
    routers: int = 0
    left_out: tuple[str, ...] = Field((), description="Models of the base file that no flow asks; not planned.")

    nodes_usd_per_hour: float = 0.0
    calls_usd_per_hour: float = 0.0
    usd_per_day: float | None = Field(None, description="What the cluster file lets all calls of a day cost.")
    usd_per_1000: float = 0.0
    findings: tuple[Finding, ...] = ()
    latencies: tuple[Latency, ...] = ()
    capacity_per_s: Mapping[str, float] = Field({}, description="Load that still holds, by flow.")
    what_if: tuple[WhatIf, ...] = ()
    break_even: tuple[BreakEven, ...] = ()
    cost_against_slo: tuple[CostPoint, ...] = ()

    candidates_simulated: int = 0
    requests_simulated: int = 0
    proven: bool = Field(True, description="Nothing cheaper was left untried within the search's space.")
    search_seconds: float = Field(0.0, description="Wall time to the plan itself.")
    total_seconds: float = Field(0.0, description="With sensitivity, break-even and curves.")
    provenance: Mapping[str, str] = Field({}, description="Of each profile that it rests on: measured or estimate.")

    @property
    def usd_per_hour(self) -> float:
        """Nodes and calls together."""
        return self.nodes_usd_per_hour + self.calls_usd_per_hour
