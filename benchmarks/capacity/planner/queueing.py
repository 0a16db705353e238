"""Closed forms for a model that takes whatever waits as its next batch: fit, capacity, and the mean response."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from benchmarks.capacity.profiles import ForwardPass, Generation

# Chance that more come during a pass than the next one takes, up to which a batch counts as without a limit.
_RARELY = 1e-3


@dataclass(frozen=True, slots=True)
class BatchService:
    """A pass of `b` items takes `item_s * b + pass_s` seconds on average.

    Attributes:
        max_items: of a batch.
    """

    item_s: float
    pass_s: float
    max_items: int

    def seconds(self, items: float) -> float:
        """Of one pass."""
        return self.item_s * items + self.pass_s

    @property
    def capacity_per_s(self) -> float:
        """Items a second of one replica that runs full batches."""
        return self.max_items / self.seconds(self.max_items)

    def mean_response_bound(self, rate_per_s: float) -> float:
        """Upper bound of the mean time from arrival to end, in seconds, for Poisson arrivals; infinite when overloaded.

        Inoue, "Queueing analysis of GPU-based inference servers with dynamic batching" (Performance Evaluation 2021,
        arXiv 1912.06322), equations for phi_0 and phi_1; for batches without a limit, of single items. There the bound
        stands a few per cent above the true mean; with batches that are often full it lies below: see `rarely_full`.
        """
        rate, item, base = rate_per_s, self.item_s, self.pass_s
        load = rate * item
        if load >= 1.0 or rate >= self.capacity_per_s:
            return math.inf
        first = (item + base) / (2 * (1 - load)) * (1 + 2 * rate * base + (1 - rate * base) / (1 + load))
        second = 1.5 * base / (1 - load) + item / 2 * (load + 2) / (1 - load**2)
        return min(first, second)

    def rarely_full(self, rate_per_s: float) -> bool:
        """Whether more hardly ever come during the longest pass than the next batch takes: its limit is none."""
        return float(stats.poisson.sf(self.max_items, rate_per_s * self.seconds(self.max_items))) < _RARELY


def fit(forward: tuple[ForwardPass, ...], max_items: int) -> BatchService:
    """Least squares over the mean seconds of the passes up to `max_items`; neither coefficient is below 0."""
    used = [one for one in forward if one.items <= max_items] or [forward[0]]
    sizes = np.array([one.items for one in used], dtype=np.float64)
    seconds = np.array([one.seconds.mean for one in used])
    if len(used) == 1:
        return BatchService(0.0, float(seconds[0]), max_items)
    slope, base = np.polyfit(sizes, seconds, 1)
    if base < 0:
        slope, base = float((sizes * seconds).sum() / (sizes**2).sum()), 0.0
    return BatchService(max(0.0, float(slope)), float(base), max_items)


def forward_seconds(forward: tuple[ForwardPass, ...], items: float) -> float:
    """Mean seconds of a pass of `items`: between measured sizes on a line, beyond the largest in proportion to it."""
    sizes = [float(one.items) for one in forward]
    seconds = [one.seconds.mean for one in forward]
    if items > sizes[-1]:
        return seconds[-1] * items / sizes[-1]
    return float(np.interp(items, sizes, seconds))


def concurrency(engine: Generation, max_sequences: int, prompt: float, output: float) -> int:
    """Sequences that can run at a time: the engine's bound, the cluster file's, and the room in the KV cache."""
    fitting = int(engine.kv_tokens // max(1.0, prompt + output))
    return max(1, min(engine.max_sequences, max_sequences, fitting))


def engine_seconds(engine: Generation, sequences: int, prompt: float, output: float, images: int) -> float:
    """Engine time that one request takes up while `sequences` run side by side; its inverse is the capacity.

    Each of its `output` steps is shared by all; encoding and prefill are its own (`profiles.Generation`).
    """
    own = engine.encode_s * images + engine.prompt_token_s * prompt
    return own + output * (engine.sequence_s + engine.step_s / sequences)


def engine_response(engine: Generation, prompt: float, output: float, images: int) -> float:
    """Seconds from arrival to the last token on an idle engine."""
    prefill_steps = math.ceil(prompt / engine.prompt_tokens_a_step)
    own = engine.encode_s * images + engine.prompt_token_s * prompt
    return own + engine.step_s * max(0, prefill_steps - 1) + output * (engine.sequence_s + engine.step_s)
