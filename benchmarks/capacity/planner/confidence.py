"""What a few simulated runs prove: one-sided upper confidence bounds of a share and of a mean.

Requests that queue behind each other are not independent: counting each as a trial of its own would promise too much.
Runs are cut into blocks, long beside the time that a queue remembers; blocks are taken as independent.

The limit: what has left no trace in any run cannot be counted. A burst so rare that no run had it, nor a milder one
that slowed anything down, is not in the bound; longer runs and more seeds are what finds it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

Float64 = npt.NDArray[np.float64]


def upper_share(misses: Float64, requests: Float64, confidence: float, *, slow: Float64 | None = None) -> float:
    """Upper bound of the share of misses: Clopper-Pearson on the effective sample size (Korn and Graubard 1998).

    The design effect is the variance between blocks over that of independent requests, at least 1; the effective size
    is also cut for the few blocks that the variance itself is estimated from. Few misses, or none, say little of how
    they come together: `slow` says it of more requests, and the larger of the two effects counts.

    Args:
        misses, requests: by block; blocks without requests do not count.
        confidence: such as 0.95.
        slow: requests of each block in the tail that the misses are the end of.
    """
    used = requests > 0
    total, missed, blocks = float(requests.sum()), float(misses.sum()), int(used.sum())
    if not total:
        return 1.0
    share, size = missed / total, total
    if blocks > 1:
        counts = [misses] if slow is None else [misses, slow]
        effect = max(_design_effect(one[used], requests[used]) for one in counts)
        size = max(1.0, total / effect * min(1.0, _cut_for_few(blocks, total, confidence)))
    return clopper_pearson(share * size, size, confidence)


def _cut_for_few(blocks: int, total: float, confidence: float) -> float:
    """Factor on a sample size whose variance was estimated from so many blocks."""
    # At one half both quantiles are the median, which is 0.
    if total <= 1 or confidence <= 0.5:
        return 1.0
    return float(stats.t.ppf(confidence, total - 1) / stats.t.ppf(confidence, blocks - 1)) ** 2


def _design_effect(counted: Float64, requests: Float64) -> float:
    """Variance of a ratio estimate over blocks (Cochran 1977, 6.4) over the binomial one; at least 1."""
    blocks, total = len(requests), float(requests.sum())
    share = float(counted.sum()) / total
    if not 0.0 < share < 1.0:
        return 1.0
    spread = blocks / (blocks - 1) * float(((counted - share * requests) ** 2).sum()) / total**2
    return max(1.0, spread * total / (share * (1.0 - share)))


def clopper_pearson(misses: float, trials: float, confidence: float) -> float:
    """Exact one-sided upper bound of a binomial share; counts need not be whole (regularised beta function)."""
    if misses >= trials:
        return 1.0
    return float(stats.beta.ppf(confidence, misses + 1.0, trials - misses))


def upper_mean(sums: Float64, counts: Float64, confidence: float) -> float:
    """Upper bound of a mean from sums and counts by block (ratio estimate with Student's t); NaN without data."""
    used = counts > 0
    sums, counts = sums[used], counts[used]
    blocks, total = len(counts), float(counts.sum())
    if not total:
        return math.nan
    mean = float(sums.sum()) / total
    if blocks < 2:
        return mean
    variance = blocks / (blocks - 1) * float(((sums - mean * counts) ** 2).sum()) / total**2
    return mean + float(stats.t.ppf(confidence, blocks - 1)) * math.sqrt(variance)
