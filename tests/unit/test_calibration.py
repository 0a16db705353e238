"""Temperature, bounds, tests in looks, certification: exactness, properties, and the guarantee itself by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from serve.calibration import looks
from serve.calibration.bounds import Promise, lower_bound
from serve.calibration.certify import NEVER, candidates, certify, curve, least_with_errors
from serve.calibration.ece import binned, expected_calibration_error
from serve.calibration.fit import calibrate_step, why_nothing
from serve.calibration.temperature import NO_LABEL, confidences, fit_temperature, negative_log_likelihood

PROMISES = st.builds(Promise, st.sampled_from([0.8, 0.9, 0.95, 0.98]), st.sampled_from([0.8, 0.9, 0.95, 0.99]))


@pytest.mark.parametrize(("right", "of"), [(0, 10), (1, 1), (95, 100), (200, 200), (999, 1000)])
def test_the_bound_is_scipys_exact_one(right: int, of: int) -> None:
    known = binomtest(right, of, alternative="greater").proportion_ci(0.95, "exact").low
    assert lower_bound(right, of, 0.95) == pytest.approx(known, abs=1e-9)


def test_counts_that_are_none_and_promises_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="3 of 2"):
        lower_bound(3, 2, 0.95)
    with pytest.raises(ValueError, match="target is 1"):
        Promise(1.0, 0.95)


@given(PROMISES)
def test_the_fewest_samples_are_those_that_certify_without_an_error(promise: Promise) -> None:
    few = promise.least_samples
    assert lower_bound(few, few, promise.confidence) >= promise.target - 1e-9
    assert few == 1 or lower_bound(few - 1, few - 1, promise.confidence) < promise.target


@given(PROMISES, st.integers(0, 4))
def test_fewest_samples_with_errors(promise: Promise, errors: int) -> None:
    few = least_with_errors(errors, promise)
    assert lower_bound(few - errors, few, promise.confidence) >= promise.target - 1e-9


@given(PROMISES, st.integers(1, 700))
@settings(deadline=None)
def test_one_look_is_the_clopper_pearson_test(promise: Promise, samples: int) -> None:
    plan = looks.plan(samples, promise, False)
    if samples < promise.least_samples:
        assert plan.sizes == ()
        return
    allowed = plan.allowed[0]
    assert lower_bound(samples - allowed, samples, promise.confidence) >= promise.target - 1e-9
    assert lower_bound(samples - allowed - 1, samples, promise.confidence) < promise.target


@given(PROMISES, st.integers(1, 3000))
@settings(deadline=None, max_examples=40)
def test_several_looks_together_spend_no_more_than_delta(promise: Promise, samples: int) -> None:
    plan = looks.plan(samples, promise, True)
    assume(plan.sizes)
    assert plan.sizes[-1] == samples
    assert list(plan.sizes) == sorted(set(plan.sizes))
    # The same probability by another way: the walk of the errors, sample by sample.
    alive, spent, seen = {0: 1.0}, 0.0, 0
    for size, allowed in zip(plan.sizes, plan.allowed, strict=True):
        moved: dict[int, float] = {}
        for errors, chance in alive.items():
            for more, share in enumerate(binom.pmf(range(size - seen + 1), size - seen, 1 - promise.target)):
                if share > 1e-14:
                    moved[errors + more] = moved.get(errors + more, 0.0) + chance * share
        spent += sum(chance for errors, chance in moved.items() if errors <= allowed)
        alive = {errors: chance for errors, chance in moved.items() if errors > allowed}
        seen = size
    assert spent <= promise.delta + 1e-9


def _certified(scores: np.ndarray, right: np.ndarray, promise: Promise, *, saving: bool = False) -> float:
    fit = len(scores) // 4
    thresholds = candidates(scores[:fit], len(scores) - fit, promise)
    return certify(scores[fit:], lambda i: right[fit:][i], thresholds, promise, saving=saving).threshold


@given(st.integers(0, 2**32 - 1), st.integers(40, 600), st.sampled_from([0.1, 1.0, 5.0]))
@settings(deadline=None, max_examples=40)
def test_of_the_same_thresholds_a_higher_target_never_certifies_a_lower_one(seed: int, n: int, slope: float) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random(n)
    right = rng.random(n) < 1 - (1 - scores) ** slope * 0.5
    grid = np.linspace(1, 0, 21)
    found = [
        certify(scores, lambda i: right[i], grid, Promise(target, 0.9)).threshold for target in (0.8, 0.9, 0.95, 0.99)
    ]
    assert found == sorted(found)


@given(st.integers(1, 400), PROMISES, st.booleans())
@settings(deadline=None)
def test_too_few_samples_certify_nothing_however_right_they_are(n: int, promise: Promise, saving: bool) -> None:
    scores = np.linspace(0, 1, n)
    found = certify(scores, lambda i: np.ones(len(i), bool), [0.0], promise, saving=saving)
    assert (found.threshold < NEVER) == (n >= promise.least_samples)


def test_ties_are_accepted_together() -> None:
    rng = np.random.default_rng(0)
    scores = np.repeat([0.9, 0.5], 400)
    rng.shuffle(scores)
    right = scores > 0.6
    promise = Promise(0.95, 0.95)
    assert candidates(scores[:200], 600, promise).tolist() == [0.9, 0.5]
    assert _certified(scores, right, promise) == 0.9
    same = np.full(800, 0.7)
    assert _certified(same, right, promise) == NEVER
    assert _certified(same, np.ones(800, bool), promise) == 0.7


def test_testing_stops_at_the_first_failure() -> None:
    """Agreement that rises again further down certifies nothing there."""
    scores = np.linspace(0, 1, 2000)
    right = ~((scores > 0.6) & (scores < 0.8))
    found = certify(scores, lambda i: right[i], np.linspace(0.9, 0, 19), Promise(0.9, 0.95))
    assert found.threshold > 0.7
    assert [test.passed for test in found.tests] == [True] * (len(found.tests) - 1) + [False]


def test_each_sample_is_judged_once_and_only_those_that_a_test_needs() -> None:
    rng = np.random.default_rng(3)
    scores = rng.random(4000)
    asked: list[int] = []

    def judge(numbers: np.ndarray) -> np.ndarray:
        asked.extend(numbers.tolist())
        return scores[numbers] > 0.5

    promise, grid = Promise(0.95, 0.95), np.linspace(0.9, 0, 19)
    everything = certify(scores, judge, grid, promise)
    assert len(asked) == len(set(asked)) == everything.labels_used
    assert scores[asked].min() >= everything.tests[-1].threshold
    asked.clear()
    saving = certify(scores, judge, grid, promise, saving=True)
    assert len(asked) == len(set(asked)) == saving.labels_used
    assert saving.labels_used < 0.5 * everything.labels_used
    assert saving.threshold == pytest.approx(everything.threshold, abs=0.1)


def test_thresholds_that_do_not_fall_are_refused() -> None:
    with pytest.raises(ValueError, match="must fall"):
        certify(np.ones(3), lambda i: np.ones(len(i), bool), [0.1, 0.2], Promise(0.9, 0.9))


@pytest.mark.parametrize("saving", [False, True])
@pytest.mark.parametrize("shape", ["at the edge", "a cliff", "falling with the score"])
def test_the_guarantee_holds_in_small_samples(shape: str, saving: bool) -> None:
    """300 seeds, 300 samples each: false certificates stay below the 99.9 % quantile of what delta allows."""
    promise = Promise(0.9, 0.9)
    agreement = {
        "at the edge": lambda s: np.full_like(s, 0.899),
        "a cliff": lambda s: np.where(s > 0.5, 0.92, 0.5),
        "falling with the score": lambda s: 0.98 - 0.25 * s,
    }[shape]
    grid = np.linspace(0, 1, 100_001)
    false = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        scores = rng.random(300)
        found = _certified(scores, rng.random(300) < agreement(scores), promise, saving=saving)
        false += found < NEVER and agreement(grid[grid >= found]).mean() < promise.target
    assert false <= binom.ppf(0.999, 300, promise.delta)
    if shape == "at the edge" and not saving:
        assert false >= 1, "a test that never errs here would be no test of the bound"


def test_the_naive_rule_breaks_the_same_promise() -> None:
    """What the simulation above can tell apart: the lowest threshold with enough agreement in the sample."""
    promise, false = Promise(0.9, 0.9), 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        scores = rng.random(300)
        right = rng.random(300) < 0.899
        points = curve(scores, right, np.sort(scores)[::-1][20:], 0.9)
        false += any(point.agreement >= promise.target for point in points)
    assert false > 50


def test_a_temperature_is_found_again_and_changes_no_answer() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(4000, 6)) * 3
    labels = np.array([rng.choice(6, p=row / row.sum()) for row in np.exp(true)])
    for factor in (0.3, 1.0, 4.0):
        assert fit_temperature(true * factor, labels) == pytest.approx(factor, rel=0.06)
    assert (confidences(true, 2.0) < confidences(true, 1.0)).all()


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_no_temperature_nearby_is_likelier(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(50, 3)), rng.integers(0, 3, 50)
    best = fit_temperature(logits, labels)
    assume(best != 1.0)
    least = negative_log_likelihood(logits, labels, best)
    for factor in (0.9, 1.1):
        assert least <= negative_log_likelihood(logits, labels, best * factor) + 1e-9


def test_data_that_name_no_temperature_leave_it_at_one() -> None:
    logits = np.array([[3.0, 1.0], [5.0, 0.0]])
    assert fit_temperature(logits, np.array([0, 0])) == 1.0
    assert fit_temperature(logits, np.array([NO_LABEL, NO_LABEL])) == 1.0


def test_calibration_errors_by_hand() -> None:
    confidence = np.array([0.9, 0.9, 0.6, 0.6])
    right = np.array([True, True, True, False])
    assert expected_calibration_error(confidence, right) == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)
    assert expected_calibration_error(confidence, right, "mass", 2) == pytest.approx(0.1)
    assert expected_calibration_error(np.array([]), np.array([], bool)) == 0.0
    assert expected_calibration_error(np.ones(4), right, "mass") == pytest.approx(0.25)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.sampled_from(["width", "mass"]))
def test_bins_hold_every_sample_once(confidence: list[float], binning: str) -> None:
    values = np.array(confidence)
    bins = binned(values, values > 0.5, binning)  # type: ignore[arg-type]
    assert sum(one.share for one in bins) == pytest.approx(1.0)
    assert sum(one.share * one.confidence for one in bins) == pytest.approx(values.mean())


def test_a_step_is_calibrated_end_to_end() -> None:
    rng = np.random.default_rng(1)
    sure = rng.normal(size=(3000, 5)) * 2
    labels = np.array([rng.choice(5, p=row / row.sum()) for row in np.exp(sure)])
    found = calibrate_step(sure * 5, lambda i: labels[i], Promise(0.9, 0.95), checkpoint="here")
    assert found.step.temperature == pytest.approx(5, rel=0.1)
    assert found.step.ece_after < 0.05 < found.step.ece_before
    assert found.fitted_on + found.certified_on == found.step.samples == 3000
    accepted = confidences(sure * 5, found.step.temperature) >= found.step.threshold
    assert accepted.mean() == pytest.approx(found.accepted, abs=0.03)
    assert (sure.argmax(1) == labels)[accepted].mean() >= 0.9
    assert found.loss == pytest.approx(found.accepted * (1 - found.agreement))
    shares = [point.accepted for point in found.step.curve]
    assert shares == sorted(shares)
    assert why_nothing(found, Promise(0.9, 0.95)) is None
    less = calibrate_step(sure * 5, lambda i: labels[i], Promise(0.9, 0.95), checkpoint="here", saving=True)
    assert less.step.labels_used < found.step.labels_used
    assert math.isclose(less.step.temperature, found.step.temperature)


def test_why_nothing_was_certified_is_said() -> None:
    rng = np.random.default_rng(2)
    logits, promise = rng.normal(size=(100, 3)), Promise(0.98, 0.95)
    few = calibrate_step(logits, lambda i: logits[i].argmax(1), promise, checkpoint="x")
    assert few.step.threshold == NEVER
    assert "needs at least 149" in (why_nothing(few, promise) or "")
    logits = rng.normal(size=(2000, 3))
    bad = calibrate_step(logits, lambda i: np.zeros(len(i), np.int64), promise, checkpoint="x")
    assert "too many" in (why_nothing(bad, promise) or "")
