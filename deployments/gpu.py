"""One memory budget a model, turned into everything that enforces it.

A model's `gpu_memory_gb` becomes Ray's `num_gpus` (what the scheduler packs), torch's per-process memory fraction (what
the allocator may take) and, for vLLM, its utilisation. Sizes are in GB of 1e9 bytes, as GPU vendors state them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

# A CUDA context, cuBLAS workspaces and kernels live outside torch's allocator, so its cap leaves this much room.
CONTEXT_GB = 0.5
# Ray keeps four decimals of a resource.
_RAY_PRECISION = 10_000


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """GPU memory that a kind of model needs, in GB: as required for its published checkpoint.

    Attributes:
        minimum: at 16 bits, below which it does not load.
        recommended: at 16 bits, with room for batches.
        four_bit: with 4-bit weights, where a figure is stated.
    """

    minimum: float
    recommended: float
    four_bit: float | None = None


NEEDS: Mapping[str, MemoryNeed] = {
    "clip": MemoryNeed(2, 4),
    "blip2": MemoryNeed(6, 12),
    "llava": MemoryNeed(14, 24, four_bit=5),
    "florence2": MemoryNeed(4, 8),
}


def gpu_fraction(budget_gb: float, gpu_memory_gb: float) -> float:
    """Ray's `num_gpus` for a budget: a fraction of one GPU, or a whole number of GPUs when it needs more than one.

    Rounded up to Ray's precision, so that fractions that Ray packs together never sum to more memory than there is.
    """
    share = budget_gb / gpu_memory_gb
    if share > 1:
        return float(math.ceil(share))
    return math.ceil(round(share * _RAY_PRECISION, 6)) / _RAY_PRECISION


def allocator_fraction(budget_gb: float, gpu_memory_gb: float) -> float:
    """torch's `set_per_process_memory_fraction`: the budget less the CUDA context, as a share of the device.

    Raises:
        ValueError: the budget does not even hold a CUDA context.
    """
    if budget_gb <= CONTEXT_GB:
        raise ValueError(f"gpu_memory_gb is {budget_gb:g}; a CUDA context alone takes {CONTEXT_GB:g}")
    return min(1.0, (budget_gb - CONTEXT_GB) / gpu_memory_gb)


@dataclass(frozen=True, slots=True)
class Claim:
    """What one model's replicas ask of a node pool."""

    model: str
    budget_gb: float
    replicas: int


@dataclass(frozen=True, slots=True)
class Packing:
    """How claims fall onto the GPUs of one pool.

    Attributes:
        used_gb: of each GPU.
        homeless: names of models with a replica for which there is no room.
        models: names of the replicas on each GPU, those of several GPUs left out; `spread` alone says it.
    """

    used_gb: tuple[float, ...]
    homeless: tuple[str, ...]
    models: tuple[tuple[str, ...], ...] = ()

    @property
    def total_gb(self) -> float:
        """Of all GPUs together."""
        return sum(self.used_gb)


def pack(claims: Sequence[Claim], gpus: int, gpu_memory_gb: float, *, nodes: int = 1) -> Packing:
    """First-fit decreasing over `nodes` of `gpus` each, in the units in which Ray places fractions.

    A fraction cannot straddle two GPUs, and the whole GPUs of a replica lie on one node, so a sum that fits may still
    not pack. Within 11/9 of the optimum plus one GPU (Johnson 1973, "Near-optimal bin packing algorithms").
    """
    free = [[_RAY_PRECISION] * gpus for _ in range(nodes)]
    homeless: list[str] = []
    for claim in sorted(claims, key=lambda claim: -claim.budget_gb):
        units = _units(claim, gpus, gpu_memory_gb)
        for _ in range(claim.replicas):
            if not any(_place(units, node) is not None for node in free) and claim.model not in homeless:
                homeless.append(claim.model)
    return _packing(free, gpu_memory_gb, homeless)


def spread(claims: Sequence[Claim], gpus: int, gpu_memory_gb: float, *, nodes: int = 1) -> Packing:
    """As Ray spreads actors: one by one, in the order of `claims`, each on the next node in turn that has room.

    What fits by `pack` may not fit so: small replicas that are spread first leave no node with room for a large one.
    """
    free = [[_RAY_PRECISION] * gpus for _ in range(nodes)]
    models: list[list[list[str]]] = [[[] for _ in range(gpus)] for _ in range(nodes)]
    homeless: list[str] = []
    turn = 0
    for claim in claims:
        units = _units(claim, gpus, gpu_memory_gb)
        for _ in range(claim.replicas):
            order = [(turn + offset) % nodes for offset in range(nodes)]
            chosen = next(((i, at) for i in order if (at := _place(units, free[i])) is not None), None)
            if chosen is not None:
                node, at = chosen
                turn = node + 1
                if units <= _RAY_PRECISION:
                    models[node][at].append(claim.model)
            elif claim.model not in homeless:
                homeless.append(claim.model)
    on_gpus = tuple(tuple(names) for node in models for names in node)
    return replace(_packing(free, gpu_memory_gb, homeless), models=on_gpus)


def _units(claim: Claim, gpus: int, gpu_memory_gb: float) -> int:
    """Of a replica, in the units in which Ray places fractions."""
    return round(gpu_fraction(claim.budget_gb, gpu_memory_gb) * _RAY_PRECISION) if gpus else 0


def _packing(free: Sequence[Sequence[int]], gpu_memory_gb: float, homeless: Sequence[str]) -> Packing:
    used = (_RAY_PRECISION - left for node in free for left in node)
    return Packing(tuple(units * gpu_memory_gb / _RAY_PRECISION for units in used), tuple(homeless))


def _place(units: int, node: list[int]) -> int | None:
    """Takes `units` from one GPU of the node, or whole GPUs if there are more than one GPU's.

    Returns:
        The first GPU that is taken; None when there is no room.
    """
    if units > _RAY_PRECISION:
        whole = [i for i, left in enumerate(node) if left == _RAY_PRECISION][: units // _RAY_PRECISION]
        if len(whole) * _RAY_PRECISION < units:
            return None
        for i in whole:
            node[i] = 0
        return whole[0]
    for i, left in enumerate(node):
        if left >= units:
            node[i] = left - units
            return i
    return None


def cap_allocator(budget_gb: float) -> None:
    """Caps this process' torch allocator on the current CUDA device; without CUDA there is nothing to cap.

    Raises:
        ValueError: see `allocator_fraction`.
    """
    import torch

    if torch.cuda.is_available():
        total_gb = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 1e9
        torch.cuda.set_per_process_memory_fraction(allocator_fraction(budget_gb, total_gb))
