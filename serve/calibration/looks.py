"""One exact binomial test that may stop early: labels are asked for in parts, and fewer of them are needed.

Every look counts the errors among the first labels of a sample. The most errors with which a look certifies are chosen
so that a share of agreement that is exactly the target is certified, by any look, with probability at most delta: the
errors at the looks are a random walk, and its distribution is computed, not bounded. A smaller agreement makes more
errors at every look, so the target is the worst case. How much of delta a look may spend is fixed beforehand (Lan and
DeMets 1983, "Discrete sequential boundaries for clinical trials"); what the integers leave over goes to the next.
With one look this is the Clopper-Pearson test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import binom

from serve.calibration.bounds import Promise

_GROWTH = 1.5
#: Share of delta that the first look may spend; the others spend the rest in equal parts.
_FIRST_SHARE = 0.25
#: A test is given up when, at the rate of errors so far, it would pass with less than this probability.
_HOPE = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """When a test looks, and what certifies.

    Attributes:
        sizes: labels at each look, rising; empty when so few samples can certify nothing.
        allowed: most errors with which each look certifies; -1 when it cannot.
    """

    sizes: tuple[int, ...]
    allowed: tuple[int, ...]

    def is_hopeless(self, look: int, errors: int) -> bool:
        """Whether to give up after a look that did not certify; giving up certifies nothing and costs no confidence."""
        rate = (errors + 0.5) / (self.sizes[look] + 1.0)
        left = [
            float(binom.cdf(self.allowed[later] - errors, self.sizes[later] - self.sizes[look], rate))
            for later in range(look + 1, len(self.sizes))
        ]
        return max(left, default=0.0) < _HOPE


@lru_cache(maxsize=8192)
def plan(samples: int, promise: Promise, saving: bool) -> Plan:
    """The test of `samples` samples: one look at all of them or, `saving` labels, several at growing parts."""
    if samples < promise.least_samples:
        return Plan((), ())
    sizes = _sizes(samples, promise) if saving else (samples,)
    return Plan(sizes, _allowed(sizes, promise))


def _sizes(samples: int, promise: Promise) -> tuple[int, ...]:
    """From as many as certify without an error by the first look's share of delta, up to all."""
    size = math.ceil(math.log(_FIRST_SHARE * promise.delta) / math.log(promise.target) - 1e-9)
    sizes = []
    while size * math.sqrt(_GROWTH) < samples:
        sizes.append(size)
        size = math.ceil(size * _GROWTH)
    return (*sizes, samples)


def _allowed(sizes: tuple[int, ...], promise: Promise) -> tuple[int, ...]:
    """The most errors that certify at each look, by the exact distribution under an agreement of `target`."""
    going_on = np.ones(1)  # probability of each number of errors, and no look having certified yet
    spent, seen = 0.0, 0
    allowed = []
    for number, size in enumerate(sizes):
        new = size - seen
        going_on = np.convolve(going_on, binom.pmf(np.arange(new + 1), new, 1.0 - promise.target))
        seen = size
        certified = spent + np.cumsum(going_on)
        most = int(np.searchsorted(certified, _spending(number, len(sizes)) * promise.delta, side="right")) - 1
        if most >= 0:
            spent = float(certified[most])
            going_on[: most + 1] = 0.0
        allowed.append(most)
    return tuple(allowed)


def _spending(look: int, looks: int) -> float:
    """Share of delta that looks 0 to `look` may spend together."""
    return 1.0 if looks == 1 else _FIRST_SHARE + (1.0 - _FIRST_SHARE) * look / (looks - 1)
