"""Scenarios of made-up models for tests of the simulator."""

from __future__ import annotations

from typing import Any

from benchmarks.capacity.profiles import Distribution, ForwardPass, Generation, ModelProfile, ProviderProfile
from benchmarks.capacity.scenario import Flow, Scenario, Stage
from benchmarks.simulator import MADE_UP, constant, model, router
from deployments.batching import BatchLimits

__all__ = ["constant", "engine", "model", "passes", "provider", "router", "scenario", "stage"]


def passes(*sizes: tuple[float, float]) -> tuple[ForwardPass, ...]:
    """Passes that always take as long: (items, seconds)."""
    return tuple(ForwardPass(items=int(n), cost=n, seconds=constant(seconds)) for n, seconds in sizes)


def stage(name: str = "clip", *, seconds: float = 0.01, item_s: float = 0.0, **changes: Any) -> Stage:
    """A deployment whose pass takes `seconds` and `item_s` more for each item after the first."""
    profile = changes.pop("profile", model(passes((1, seconds), (1024, seconds + 1023 * item_s))))
    settings: dict[str, Any] = {"replicas": 1, "preprocess_workers": 2, "pool": "p", "limits": BatchLimits()}
    return Stage(name, profile, **{**settings, **changes})


def engine(**changes: Any) -> ModelProfile:
    """A model with continuous batching: a step of 10 ms, whatever is in it."""
    settings = {
        "encode_s": 0.0,
        "step_s": 0.01,
        "sequence_s": 0.0,
        "prompt_token_s": 0.0,
        "max_sequences": 8,
        "kv_tokens": 10_000,
        "prompt_tokens_a_step": 1000,
        "image_tokens": 0,
    }
    generation = Generation(**{**settings, **changes})
    return model(passes((1, 1.0))).model_copy(update={"forward": (), "generation": generation})


def provider(seconds: float = 1.0, **changes: Any) -> ProviderProfile:
    """A hosted model that always takes as long."""
    latency: Distribution = changes.pop("latency", constant(seconds))
    return ProviderProfile(latency=latency, usd_per_call=changes.pop("usd", 0.001), provenance=MADE_UP, **changes)


def scenario(*stages: Stage, flows: tuple[Flow, ...] | None = None, **changes: Any) -> Scenario:
    """These deployments behind a router that costs nothing; by default each request asks the first of them."""
    settings: dict[str, Any] = {
        "providers": {},
        "cascades": {},
        "router": router(),
        "router_replicas": 1,
        "cores": 0.0,
        "router_places": 2**30,
    }
    return Scenario(
        stages={one.name: one for one in stages},
        flows=flows or (Flow(name="all", entry=stages[0].name),),
        **{**settings, **changes},
    )
