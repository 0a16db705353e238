"""One step's calibration from its logits and a reference: temperature, thresholds, certificate, evidence.

Samples are parted at random. The smaller part fits the temperature and gives the thresholds to test; the larger one
certifies. The certificate is exact because nothing about its samples was looked at before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from serve.calibration.bounds import Promise
from serve.calibration.certify import NEVER, Bool, Certificate, candidates, certify, curve
from serve.calibration.ece import expected_calibration_error
from serve.calibration.file import StepCalibration
from serve.calibration.temperature import Float64, Int64, confidences, fit_temperature

#: Gives the reference's answer for samples by number, each as a label's number or `NO_LABEL`.
Ask = Callable[[Int64], Int64]

_FIT_SHARE = 0.25
_FIT_MOST = 500


@dataclass(frozen=True, slots=True)
class Evidence:
    """Judged samples: what the reliability diagram and the calibration errors are made of.

    Attributes:
        before: (samples,) highest probability as the model is served.
        after: the same with the fitted temperature.
        right: (samples,) whether the answer was the reference's.
    """

    before: Float64
    after: Float64
    right: Bool


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A step's calibration with what led to it.

    Attributes:
        fitted_on: samples of the part that fitted the temperature.
        certified_on: samples of the part that certified.
    """

    step: StepCalibration
    certificate: Certificate
    evidence: Evidence
    fitted_on: int
    certified_on: int

    @property
    def accepted(self) -> float:
        """Expected share of requests that the step answers itself."""
        best = self.certificate.best
        return best.accepted / self.certified_on if best else 0.0

    @property
    def agreement(self) -> float:
        """Measured agreement of those answers; 1 when there are none."""
        best = self.certificate.best
        return 1.0 - best.errors / best.labels if best else 1.0

    @property
    def loss(self) -> float:
        """Accuracy lost by not asking further, at most, if later steps always agreed with the reference."""
        return self.accepted * (1.0 - self.agreement)


def calibrate_step(
    logits: Float64,
    ask: Ask,
    promise: Promise,
    *,
    checkpoint: str,
    served_temperature: float = 1.0,
    saving: bool = False,
    seed: int = 0,
) -> Calibrated:
    """Calibrates a step.

    Args:
        logits: (samples, labels), independent draws of what will be served.
        ask: for the reference; each sample is asked for once at most, with `saving` only where a test needs it.
        served_temperature: what the model's own probabilities are made with.
        seed: of the parting.

    Raises:
        ValueError: fewer than two samples, or logits that are no finite table.
    """
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or len(logits) < 2 or not np.isfinite(logits).all():
        raise ValueError(f"logits of shape {logits.shape} are no finite table of at least two samples")
    order = np.random.default_rng(seed).permutation(len(logits))
    size = max(1, min(_FIT_MOST, int(_FIT_SHARE * len(logits))))
    fit, test = order[:size], order[size:]
    answers = logits.argmax(axis=1)
    fit_labels = ask(fit)
    temperature = fit_temperature(logits[fit], fit_labels)
    values = confidences(logits, temperature)
    thresholds = candidates(values[fit], len(test), promise)
    everything: Bool | None = None if saving else ask(test) == answers[test]

    def judge(numbers: Int64) -> Bool:
        if everything is not None:
            return everything[numbers]
        right: Bool = ask(test[numbers]) == answers[test[numbers]]
        return right

    certificate = certify(values[test], judge, thresholds, promise, saving=saving)
    if everything is None:
        points = [one.point(len(test), promise.confidence) for one in certificate.tests if one.labels]
        shown, right = fit, fit_labels == answers[fit]
    else:
        points = curve(values[test], everything, thresholds, promise.confidence)
        shown, right = test, everything
    evidence = Evidence(
        confidences(logits[shown], served_temperature),
        values[shown],
        right,
    )
    step = StepCalibration(
        checkpoint=checkpoint,
        temperature=temperature,
        threshold=certificate.threshold,
        target=promise.target,
        confidence=promise.confidence,
        samples=len(logits),
        labels_used=size + certificate.labels_used,
        ece_before=expected_calibration_error(evidence.before, right),
        ece_after=expected_calibration_error(evidence.after, right),
        curve=tuple(points),
    )
    return Calibrated(step, certificate, evidence, size, len(test))


def why_nothing(found: Calibrated, promise: Promise) -> str | None:
    """In words, why no threshold was certified; None when one was."""
    if found.step.threshold < NEVER:
        return None
    first = found.certificate.tests[0]
    if first.accepted < promise.least_samples:
        return (
            f"{first.accepted} samples are too few: {promise.target:g} with confidence {promise.confidence:g} needs at "
            f"least {promise.least_samples}, all of them right"
        )
    return (
        f"the surest {first.accepted} samples hold {first.errors} errors among {first.labels} judged, too many for "
        f"an agreement of {promise.target:g}"
    )
