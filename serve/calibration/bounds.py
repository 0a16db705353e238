"""Exact bounds of a share from counts.

Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import beta


@dataclass(frozen=True, slots=True)
class Promise:
    """What is to be certified.

    Attributes:
        target: wanted agreement of accepted answers with the reference, in (0, 1).
        confidence: least probability that the statement is true, in (0, 1).

    Raises:
        ValueError: a value outside its range.
    """

    target: float
    confidence: float

    def __post_init__(self) -> None:
        for name in ("target", "confidence"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ValueError(f"{name} is {value}; it must lie between 0 and 1")

    @property
    def delta(self) -> float:
        """Most probability of a statement that is false."""
        return 1.0 - self.confidence

    @property
    def least_samples(self) -> int:
        """Fewest samples that can certify the target: all of them right."""
        return math.ceil(math.log(self.delta) / math.log(self.target) - 1e-9)


def lower_bound(right: int, of: int, confidence: float) -> float:
    """One-sided exact lower bound of a share, of which `right` among `of` independent samples were seen; 0 of none.

    Raises:
        ValueError: counts that are none.
    """
    if not 0 <= right <= of:
        raise ValueError(f"{right} of {of} is no count")
    return float(beta.ppf(1.0 - confidence, right, of - right + 1)) if right else 0.0
