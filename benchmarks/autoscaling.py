"""Autoscaling of a cascade under ramps: Ray Serve's policy beside the one for cascades, in the simulator.

The same arrivals and the same draws meet both. Times are the simulation's, and the decisions are the product's own
functions (serve/autoscaling), told as late as on a real cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.profiles import HardwareClass, shipped_profiles
from benchmarks.capacity.scenario import NODE_START_S, Flow, Scenario, scenario
from benchmarks.capacity.simulator import load, simulate
from benchmarks.report import Column, Report, this_command
from benchmarks.traffic.renewals import poisson_times
from serve.config.autoscaling import PolicyName
from serve.config.cluster import ClusterFile
from serve.config.load import parse

GOAL = "under every ramp fewer requests over the objective than with Ray Serve's policy, or none with either"
# Latency that a moderation should have at most, in seconds (profile `cluster`).
OBJECTIVE_S = 2.0
ESCALATED = 0.1
_CALM_S, _HOLD_S = 300.0, 600.0
_COLUMNS = (
    Column("ramp", "ramp"),
    Column("nodes", "nodes"),
    Column("policy", "policy"),
    Column("requests", "requests", ","),
    Column("over", "over objective", ","),
    Column("over_share", "share", ".3%"),
    Column("failed", "of these refused or late", ","),
    Column("requested_s", "LLaVA requested after s", "+.0f"),
    Column("most", "most LLaVA"),
    Column("replica_hours", "LLaVA hours", ".2f"),
)


@dataclass(frozen=True, slots=True)
class Ramp:
    """From one rate to another in a straight line, after a calm and before a hold.

    Attributes:
        rise_s: how long it takes; 0 for a step.
    """

    name: str
    from_per_s: float
    to_per_s: float
    rise_s: float

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return _CALM_S + self.rise_s + _HOLD_S

    def times(self, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Arrivals of a Poisson process of this rate."""
        generator = np.random.default_rng(seed)
        peak = max(self.from_per_s, self.to_per_s)
        times = poisson_times(peak, self.seconds, generator)
        rates = np.interp(times, (_CALM_S, _CALM_S + max(self.rise_s, 1e-9)), (self.from_per_s, self.to_per_s))
        return times[generator.random(len(times)) * peak < rates]


RAMPS = (
    Ramp("2 min", 20, 200, 120),
    Ramp("5 min", 20, 200, 300),
    Ramp("15 min", 20, 200, 900),
    Ramp("step", 20, 120, 0),
)
Nodes = Literal["up", "join"]


def cluster(policy: PolicyName, nodes: Nodes = "up") -> ClusterFile:
    """CLIP on T4 and LLaVA on A100, and a cascade over both.

    Args:
        nodes: `up` when there is always one with room; with `join` those beyond the first of each kind come when they
            are wanted.
    """
    first = 1 if nodes == "join" else 4
    return parse(
        {
            "name": "autoscaled",
            "node_pools": {
                "t4": {"gpu": "T4", "gpus": 1, "gpu_memory_gb": 16, "cpus": 8, "min_nodes": 4, "max_nodes": 4},
                "a100": {
                    "gpu": "A100",
                    "gpus": 1,
                    "gpu_memory_gb": 80,
                    "cpus": 16,
                    "min_nodes": first,
                    "max_nodes": 4,
                },
            },
            "models": {
                "clip": {
                    "kind": "clip",
                    "checkpoint": "openai/clip-vit-large-patch14",
                    "dtype": "float16",
                    "gpu_memory_gb": 4,
                    "batching": {"max_items": 64},
                    "autoscaling": {"min_replicas": 4, "max_replicas": 4},
                    "placement": {"pool": "t4"},
                },
                "llava": {
                    "kind": "llava",
                    "checkpoint": "llava-hf/llava-1.5-7b-hf",
                    "dtype": "float16",
                    "gpu_memory_gb": 60,
                    "autoscaling": {
                        "min_replicas": 1,
                        "max_replicas": 4,
                        "start_s": 82 if nodes == "up" else 82 + NODE_START_S,
                    },
                    "placement": {"pool": "a100"},
                },
            },
            "cascades": {
                "moderation": {
                    "answer": "label",
                    "labels": ["harmless", "harmful"],
                    "steps": [
                        {
                            "name": "screen",
                            "use": "clip",
                            "task": "classify",
                            "accept": {"rule": "confidence", "at_least": 0.9},
                        },
                        {"name": "analyse", "use": "llava", "task": "choose", "max_tokens": 32},
                    ],
                }
            },
            "autoscaling": {"policy": policy},
        }
    )


def made(policy: PolicyName, nodes: Nodes = "up") -> Scenario:
    """The scenario of `cluster`, with the shipped profiles."""
    hardware: dict[str, HardwareClass] = {"t4": "t4", "a100": "a100"}
    profiles = shipped_profiles()
    flow = Flow(
        name="moderation",
        entry="moderation",
        prompt_tokens=40,
        output_tokens=24,
        escalated={"screen": ESCALATED},
    )
    return scenario(
        cluster(policy, nodes), {pool: profiles[kind] for pool, kind in hardware.items()}, (flow,), autoscale=True
    )


def run(*, quick: bool, seed: int) -> Report:
    """The table; see the module's text.

    Args:
        quick: one ramp.
    """
    load()
    ramps = RAMPS[1:2] if quick else RAMPS
    rows = list(compared(ramps, ("up",) if quick else ("up", "join"), seed))
    return Report(
        command=this_command(),
        title="Autoscaling of a cascade under ramps, simulated",
        goal=GOAL,
        columns=_COLUMNS,
        settings={"seed": seed, "objective_s": OBJECTIVE_S, "escalated": ESCALATED},
        rows=rows,
        notes=[
            f"From 20 to 200 requests a second (step: to 120) after {_CALM_S:.0f} s of calm, then {_HOLD_S:.0f} s at "
            f"that; one in {1 / ESCALATED:.0f} goes on from CLIP (4 replicas on T4) to LLaVA (1 to 4 on A100).",
            "Requested: first wish for a second LLaVA replica, from the beginning of the rise. Over: later than "
            f"{OBJECTIVE_S:g} s, or not answered. A replica takes 82 s to start, and where nodes must join, "
            f"{NODE_START_S:.0f} s more.",
        ],
        misses=list(_misses(rows)),
    )


def compared(ramps: tuple[Ramp, ...], nodes: tuple[Nodes, ...], seed: int) -> Iterator[dict[str, Any]]:
    """A row for each ramp, state of the nodes and policy."""
    for ramp in ramps:
        times = ramp.times(seed)
        for state in nodes:
            for policy in ("queue", "cascade"):
                done = simulate(made(policy, state), times, seed=seed, end_s=ramp.seconds)
                yield {"ramp": ramp.name, "nodes": state, "policy": policy, **figures(done, ramp)}


def figures(done: Outcome, ramp: Ramp) -> dict[str, Any]:
    """What a run is judged by."""
    late = ~done.ok | (done.latency_s > OBJECTIVE_S)
    changes = done.changes["llava"]
    first = next((change.at for change in changes if change.after > 1), None)
    return {
        "requests": int(done.arrived_s.size),
        "over": int(late.sum()),
        "over_share": float(late.mean()),
        "failed": int((~done.ok).sum()),
        "requested_s": None if first is None else first - _CALM_S,
        "most": max((change.after for change in changes), default=1),
        "replica_hours": done.stages["llava"].replicas * ramp.seconds / 3600,
    }


def _misses(rows: list[dict[str, Any]]) -> Iterator[str]:
    for rays, ours in zip(rows[::2], rows[1::2], strict=True):
        if ours["over"] >= rays["over"] and ours["over"] > 0:
            yield f"{ours['ramp']}, nodes {ours['nodes']}: {ours['over']:,} over, {rays['over']:,} with Ray's policy"
