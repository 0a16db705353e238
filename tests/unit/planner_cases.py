"""A small world for the planner's tests: two kinds of nodes, a cascade of two models, and a hosted one."""

from __future__ import annotations

from datetime import date
from typing import Any

from benchmarks.capacity.planner.catalogue import Catalogue
from benchmarks.capacity.planner.objectives import Objective, parse_objective
from benchmarks.capacity.planner.problem import Problem, Wishes
from benchmarks.capacity.profiles import (
    PROBABILITIES,
    Distribution,
    ForwardPass,
    Generation,
    HardwareProfile,
    ModelProfile,
    Provenance,
    ProviderProfile,
    RouterProfile,
)
from benchmarks.capacity.scenario import Flow
from benchmarks.traffic.arrivals import Arrivals, Poisson
from serve.config.cluster import ClusterFile
from serve.config.load import parse

SOURCE = Provenance(kind="estimate", date=date(2026, 11, 26), sources=("made up for a test",))


def about(seconds: float, spread: float = 0.0) -> Distribution:
    """A duration that varies by `spread` of itself to either side."""
    values = tuple(seconds * (1 + spread * (2 * p - 1)) for p in PROBABILITIES)
    return Distribution(seconds=values, mean=seconds)


def encoder(item_s: float, pass_s: float, memory_gb: float = 4.0) -> ModelProfile:
    """A model whose pass of `b` items takes `item_s * b + pass_s`."""
    return ModelProfile(
        model="encoder",
        kind="clip",
        dtype="float16",
        preprocess=about(0.002),
        overhead=about(0.001),
        forward=tuple(
            ForwardPass(items=b, cost=b, seconds=about(item_s * b + pass_s, 0.1)) for b in (1, 2, 4, 8, 16, 32)
        ),
        memory_gb=memory_gb,
        start_s=20,
        provenance=SOURCE,
    )


def engine(step_s: float, memory_gb: float = 14.0, kv_tokens: int = 20_000) -> ModelProfile:
    """A model that writes text, with room for 16 sequences."""
    return ModelProfile(
        model="writer",
        kind="llava",
        dtype="float16",
        preprocess=about(0.002),
        overhead=about(0.001),
        generation=Generation(
            encode_s=step_s,
            step_s=step_s,
            sequence_s=step_s / 50,
            prompt_token_s=step_s / 100,
            max_sequences=16,
            kv_tokens=kv_tokens,
            prompt_tokens_a_step=2048,
            image_tokens=100,
        ),
        memory_gb=memory_gb,
        start_s=60,
        provenance=SOURCE,
    )


def hardware(name: Any, clip: ModelProfile, llava: ModelProfile) -> HardwareProfile:
    """A class of hardware with both models, and one provider."""
    return HardwareProfile(
        hardware=name,
        router=RouterProfile(latency=about(0.001), cpu=about(0.0005), provenance=SOURCE),
        models={"encoder": clip, "writer": llava},
        providers={
            "gpt-4o-mini": ProviderProfile(
                latency=about(0.8, 0.5), usd_per_call=0.001, tokens_per_call=1000, provenance=SOURCE
            ),
        },
    )


PROFILES: dict[Any, HardwareProfile] = {
    "t4": hardware("t4", encoder(0.004, 0.010), engine(0.040)),
    "a100": hardware("a100", encoder(0.001, 0.005), engine(0.008)),
}


def cluster(**models: Any) -> ClusterFile:
    """The base file: a cascade of an encoder and a writer, whose surplus a provider may take."""
    return parse(
        {
            "name": "small",
            "node_pools": {"here": {"gpu": "T4", "gpus": 1, "gpu_memory_gb": 16, "cpus": 8, "memory_gb": 32}},
            "models": {
                "clip": {"kind": "clip", "checkpoint": "encoder", "dtype": "float16", "gpu_memory_gb": 4},
                "llava": {"kind": "llava", "checkpoint": "writer", "dtype": "float16", "gpu_memory_gb": 14},
                "jobs": {"kind": "job_store", "placement": {"num_cpus": 0.5}},
                "spare": {"kind": "florence2", "checkpoint": "unasked", "gpu_memory_gb": 8},
                **models,
            },
            "providers": {"mini": {"kind": "openai", "model": "gpt-4o-mini", "api_key_env": "KEY"}},
            "cascades": {
                "screen": {
                    "answer": "label",
                    "labels": ["good", "bad"],
                    "steps": [
                        {
                            "name": "first",
                            "use": "clip",
                            "task": "classify",
                            "accept": {"rule": "confidence", "at_least": 0.9},
                        },
                        {
                            "name": "second",
                            "use": "llava",
                            "task": "choose",
                            "fallback": [{"on": ["rate_limited", "unavailable", "timeout"], "use": "mini"}],
                        },
                    ],
                }
            },
            "router": {"num_cpus": 1},
        }
    )


def catalogue(t4_usd: float = 0.75, a100_usd: float = 3.7, max_nodes: int = 12) -> Catalogue:
    """A T4 and an A100 node, eight cores each."""

    def node(name: str, memory_gb: float, usd: float) -> dict[str, Any]:
        price = {"usd_per_hour": usd, "availability": 0.99, "source": "a test", "date": date(2026, 11, 26)}
        return {
            "hardware": name,
            "gpu": name.upper(),
            "gpus": 1,
            "gpu_memory_gb": memory_gb,
            "cpus": 8,
            "memory_gb": 32,
            "max_nodes": max_nodes,
            "prices": {"on_demand": price, "spot": {**price, "usd_per_hour": usd / 3}},
        }

    nodes = {"t4": node("t4", 16, t4_usd), "a100": node("a100", 80, a100_usd)}
    return Catalogue.model_validate({"nodes": nodes})


SCREENED = (
    Flow(
        name="screened",
        entry="screen",
        prompt_tokens=20,
        output_tokens=10,
        escalated={"first": 0.05},
        deadline_s=10,
    ),
)
CLASSIFIED = (Flow(name="classified", entry="clip", deadline_s=5),)


def problem(
    rate: float = 50.0,
    *slo: str,
    flows: tuple[Flow, ...] = CLASSIFIED,
    arrivals: Arrivals | None = None,
    nodes: Catalogue | None = None,
    base: ClusterFile | None = None,
    **wishes: Any,
) -> Problem:
    """A problem that is solved in seconds."""
    objectives: tuple[Objective, ...] = tuple(parse_objective(one) for one in slo or ("p99=150ms",))
    return Problem(
        cluster=base or cluster(),
        flows=flows,
        arrivals=arrivals or Poisson(rate_per_s=rate),
        objectives=objectives,
        catalogue=nodes or catalogue(),
        profiles=PROFILES,
        wishes=Wishes(**{"seconds": 60.0, "seeds": 3, **wishes}),
    )
