"""Does a generating model fit its budget? Weights, KV cache and activations in 16, 8 and 4 bits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.generation.published import config_of
from deployments.generation.sizing import MemoryPlan, Quantization, plan
from deployments.gpu import CONTEXT_GB
from serve.config.cluster import ClusterFile
from serve.config.models import GenerativeModel

_GB = 1e9
_STEP_TOKENS = 2048
BITS: Mapping[Quantization, str] = {"none": "unquantised", "int8": "8 bits", "4bit": "4 bits"}
# What a model is asked to hold at least when the cluster file names no context window and the checkpoint's is longer.
_LEAST_CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """One generating model against its budget.

    Attributes:
        model: its name.
        budget: in bytes, without what a CUDA context takes; 0 on a CPU.
        chosen: how its weights are quantised.
        plans: one for each way of holding them.
        context: tokens that one conversation may have.
        cache: bytes that the file gives the KV cache; None when it takes what the budget leaves.
    """

    model: str
    budget: float
    chosen: Quantization
    plans: Mapping[Quantization, MemoryPlan]
    context: int
    cache: float | None = None

    def tokens(self, quantization: Quantization) -> int:
        """Tokens that the KV cache holds with weights of so many bits: what the budget leaves, and no more than the
        file gives it; 0 where the weights do not fit."""
        one = self.plans[quantization]
        left = one.tokens_within(self.budget)
        return left if self.cache is None else min(left, int(self.cache // one.kv_per_token))

    def problem(self) -> str | None:
        """Why it will not start, with the sum and what would do; None when it fits."""
        if not self.budget:
            return None
        mine = self.plans[self.chosen]
        if self.tokens(self.chosen) >= self.context:
            return None
        needed = mine.total(self.context) / _GB + CONTEXT_GB
        cache = mine.kv_per_token * self.context / _GB
        if self.cache is not None and mine.tokens_within(self.budget) >= self.context:
            return (
                f"models.{self.model}.kv_cache_gb: got {self.cache / _GB:g}; a KV cache of {self.context} tokens takes "
                f"{cache:.1f} GB: it must be at least that, or max_model_len less"
            )
        return (
            f"models.{self.model}.gpu_memory_gb: got {self.budget / _GB + CONTEXT_GB:g}; weights ({BITS[self.chosen]}) "
            f"take {mine.weights / _GB:.1f} GB, activations {mine.activations / _GB:.1f}, a KV cache of {self.context} "
            f"tokens {cache:.1f}, CUDA {CONTEXT_GB:g}: it must be at least {needed:.1f}, or max_model_len less"
        )

    def cell(self, quantization: Quantization) -> str:
        """`weights 3.9 + activations 0.4 GB, KV for 6100 tokens`; on a CPU without the last part."""
        one = self.plans[quantization]
        text = f"{one.weights / _GB:.2g} + {one.activations / _GB:.2g} GB"
        if not self.budget:
            return text
        tokens = self.tokens(quantization)
        return f"{text}, {tokens:,} tokens" if tokens else f"{text}, does not fit"


def memory(cluster: ClusterFile) -> list[ModelMemory]:
    """One entry for each generating model whose architecture is known: a folder's, or a published checkpoint's."""
    found = []
    for name, model in cluster.models.items():
        if not isinstance(model, GenerativeModel) or (config := _config(model)) is None:
            continue
        try:
            found.append(_measured(name, model, config))
        except ValueError:
            continue  # an architecture that `sizing` does not know; the engine will say whether it can serve it
    return found


def main_memory_gb(cluster: ClusterFile, pool: str) -> float:
    """What the generating models of a pool that run on the CPU are known to hold in main memory, in GB: weights,
    activations and one conversation's cache of each replica. Their processes, and all other models, come on top.
    """
    found = 0.0
    for one in memory(cluster):
        model = cluster.models[one.model]
        if not model.gpu_memory_gb and cluster.pool_of(one.model) == pool:
            found += max(1, model.autoscaling.min_replicas) * one.plans[one.chosen].total(one.context) / _GB
    return found


def _measured(name: str, model: GenerativeModel, config: Mapping[str, Any]) -> ModelMemory:
    budget = max(0.0, (model.gpu_memory_gb - CONTEXT_GB) * _GB) if model.gpu_memory_gb else 0.0
    plans = {quantization: plan_of(model, config, quantization) for quantization in BITS}
    window = (config.get("text_config") or {}).get("max_position_embeddings") or _LEAST_CONTEXT
    context = model.max_model_len or min(window, _LEAST_CONTEXT)
    cache = None if model.kv_cache_gb is None else model.kv_cache_gb * _GB
    return ModelMemory(name, budget, model.quantization, plans, context, cache)


def plan_of(model: GenerativeModel, config: Mapping[str, Any], quantization: Quantization) -> MemoryPlan:
    """The plan with the model's own batching limits."""
    return plan(
        config,
        model.dtype,
        quantization,
        step_tokens=int(model.batching.max_cost or _STEP_TOKENS),
        sequences=model.batching.max_items,
    )


def _config(model: GenerativeModel) -> Mapping[str, Any] | None:
    path = Path(model.checkpoint) / "config.json"
    if not path.is_file():
        return config_of(model.checkpoint)
    config = json.loads(path.read_text(encoding="utf-8"))
    return config if isinstance(config, dict) else None
