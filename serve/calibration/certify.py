"""The lowest threshold whose accepted answers agree with the reference as often as wanted, with a guarantee.

Thresholds are tested from high to low, each by an exact binomial test at the whole delta, up to the first that fails
(fixed-sequence testing; Angelopoulos et al. 2021, "Learn then Test", section 5). To certify a bad threshold, the first
bad one in the sequence must pass its test, which happens with probability at most delta: no correction for their number
is due, and agreement need not rise with the threshold.

That holds in finite samples if (1) the thresholds are fixed before the tested samples are seen, so they come from the
scores of others (`candidates`), and (2) tested samples are independent draws of what will be served. Scores need not be
calibrated, and ties do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from serve.calibration import looks
from serve.calibration.bounds import Promise, lower_bound
from serve.calibration.file import CurvePoint
from serve.calibration.temperature import Float64, Int64

Bool = npt.NDArray[np.bool_]
#: Tells for the samples of the given numbers whether the step's answer is the reference's.
Judge = Callable[[Int64], Bool]

#: Stands for "nothing could be certified": no score reaches it.
NEVER = 2.0
STEPS = 25
# A first threshold that accepts few samples fails by a single error; one that accepts many gives away the surest ones.
# So it should bear the most of these errors for which it needs no more than this share of the samples.
_ERRORS_AT_FIRST = (3, 2, 1, 0)
_SHARE_AT_FIRST = 1 / 3
# Its number of accepted samples varies; so much more than needed is aimed at.
_SLACK = 1.15


@dataclass(frozen=True, slots=True)
class Test:
    """One threshold's test.

    Attributes:
        accepted: samples with at least this score.
        labels: of those, how many were judged, a random part.
    """

    threshold: float
    accepted: int
    labels: int
    errors: int
    passed: bool

    def point(self, samples: int, confidence: float) -> CurvePoint:
        """As a point of the curve over `samples` samples."""
        right = self.labels - self.errors
        return CurvePoint(
            threshold=self.threshold,
            accepted=self.accepted / samples,
            agreement=right / self.labels if self.labels else 1.0,
            lower=lower_bound(right, self.labels, confidence),
        )


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was certified, and how.

    Attributes:
        tests: in order; all but the last passed, and the last one did when every candidate did.
        labels_used: distinct samples that were judged.
    """

    tests: tuple[Test, ...]
    labels_used: int

    @property
    def threshold(self) -> float:
        """The lowest certified one, or `NEVER`."""
        return min((test.threshold for test in self.tests if test.passed), default=NEVER)

    @property
    def best(self) -> Test | None:
        """The test of that threshold."""
        return next((test for test in reversed(self.tests) if test.passed), None)


def candidates(others: Float64, samples: int, promise: Promise, steps: int = STEPS) -> Float64:
    """Thresholds to test, from high to low: quantiles of the scores of samples that will not be tested.

    Args:
        others: scores; labels are not needed.
        samples: how many will be tested; the first threshold leaves enough of them to certify it.

    Raises:
        ValueError: no score.
    """
    if not len(others):
        raise ValueError("thresholds are quantiles of scores, and there is none")
    first = min(1.0, _first_count(samples, promise) / max(1, samples))
    shares = np.linspace(first, 1.0, steps)
    quantiles = np.quantile(np.asarray(others, np.float64), 1.0 - shares, method="lower")
    found: Float64 = np.unique(quantiles)[::-1]
    return found


def _first_count(samples: int, promise: Promise) -> float:
    """How many samples the first threshold should accept."""
    counts = [_SLACK * least_with_errors(errors, promise) for errors in _ERRORS_AT_FIRST]
    return next((count for count in counts if count <= _SHARE_AT_FIRST * samples), counts[-1])


@lru_cache(maxsize=256)
def least_with_errors(errors: int, promise: Promise) -> int:
    """Fewest samples that certify although so many of them are wrong."""
    count = promise.least_samples
    while binom.cdf(errors, count, 1.0 - promise.target) > promise.delta:
        count += 1
    return count


def certify(
    scores: Float64, judge: Judge, thresholds: Sequence[float] | Float64, promise: Promise, *, saving: bool = False
) -> Certificate:
    """Tests thresholds until one fails.

    Args:
        scores: (samples,), the samples in an order that says nothing of them, such as a shuffled one.
        judge: asked once for a sample at most, and only for those that a test needs.
        thresholds: falling, and chosen without these samples.
        saving: test in several looks (`serve.calibration.looks`), so that fewer labels are asked for; otherwise every
            accepted sample of a tested threshold is judged, and somewhat lower thresholds are certified.

    Raises:
        ValueError: thresholds that do not fall.
    """
    if np.any(np.diff(thresholds) >= 0):
        raise ValueError("thresholds must fall")
    verdicts = _Verdicts(len(scores), judge)
    tests: list[Test] = []
    for threshold in thresholds:
        tests.append(_test(float(threshold), np.flatnonzero(scores >= threshold), verdicts, promise, saving))
        if not tests[-1].passed:
            break
    return Certificate(tuple(tests), verdicts.used)


def curve(scores: Float64, right: Bool, thresholds: Sequence[float] | Float64, confidence: float) -> list[CurvePoint]:
    """Every threshold's point, where all samples are judged; each bound holds for its point alone."""
    points = []
    for threshold in thresholds:
        accepted = right[scores >= threshold]
        errors = len(accepted) - int(accepted.sum())
        test = Test(float(threshold), len(accepted), len(accepted), errors, False)
        points.append(test.point(max(1, len(scores)), confidence))
    return points


class _Verdicts:
    """Judgements so far."""

    def __init__(self, samples: int, judge: Judge) -> None:
        self._right = np.zeros(samples, np.bool_)
        self._known = np.zeros(samples, np.bool_)
        self._judge = judge

    def errors(self, numbers: Int64) -> int:
        """Errors among samples; those not judged yet are judged."""
        new = numbers[~self._known[numbers]]
        if len(new):
            self._right[new] = self._judge(new)
            self._known[new] = True
        return len(numbers) - int(self._right[numbers].sum())

    @property
    def used(self) -> int:
        return int(self._known.sum())


def _test(threshold: float, accepted: Int64, verdicts: _Verdicts, promise: Promise, saving: bool) -> Test:
    plan = looks.plan(len(accepted), promise, saving)
    labels = errors = 0
    for look, (size, allowed) in enumerate(zip(plan.sizes, plan.allowed, strict=True)):
        labels, errors = size, verdicts.errors(accepted[:size])
        if errors <= allowed:
            return Test(threshold, len(accepted), labels, errors, True)
        if plan.is_hopeless(look, errors):
            break
    return Test(threshold, len(accepted), labels, errors, False)
