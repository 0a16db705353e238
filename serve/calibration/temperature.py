"""One temperature for a checkpoint, and the confidence that it makes of logits.

Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2: logits are divided by one number, fitted by
negative log likelihood on held-out data. It changes no answer, only how sure it says it is. One temperature serves a
zero-shot CLIP over prompts and label sets alike (Levine et al. 2023, "Enabling Calibration in the Zero-Shot Inference
of Large Vision-Language Models").
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

BOUNDS = (0.01, 100.0)
#: The reference gave an answer that is none of the labels: whatever the step says is wrong.
NO_LABEL = -1


def negative_log_likelihood(logits: Float64, labels: Int64, temperature: float) -> float:
    """Mean over samples, in nats, of (samples, labels) logits and the number of each sample's right label."""
    chances = log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    return float(-chances[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: Float64, labels: Int64) -> float:
    """The temperature within `BOUNDS` of least negative log likelihood; samples with `NO_LABEL` are left out.

    It is 1 where the data name none: no sample, every answer right, or a likelihood that rises up to a bound.
    """
    known = np.asarray(labels) != NO_LABEL
    logits, labels = np.asarray(logits, np.float64)[known], np.asarray(labels, np.int64)[known]
    if (logits.argmax(axis=1) == labels).all():
        return 1.0
    low, high = map(math.log, BOUNDS)
    found = minimize_scalar(
        lambda log: negative_log_likelihood(logits, labels, math.exp(log)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6},
    )
    best = float(found.x)
    return math.exp(best) if low + 1e-3 < best < high - 1e-3 else 1.0


def probabilities(logits: Float64, temperature: float) -> Float64:
    """(samples, labels) in float64: in float32 the surest confidences would all be 1."""
    chances: Float64 = softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    return chances


def confidences(logits: Float64, temperature: float) -> Float64:
    """What the rule `confidence` compares with its threshold: each sample's highest probability, (samples,)."""
    top: Float64 = probabilities(logits, temperature).max(axis=1)
    return top
