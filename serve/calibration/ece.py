"""How far stated confidence is from agreement: the expected calibration error, over two kinds of bins.

Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"; bins of equal mass, which do not
leave most of them empty: Nguyen and O'Connor 2015, "Posterior calibration and exploratory analysis".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from serve.calibration.certify import Bool
from serve.calibration.temperature import Float64

BINS = 15
Binning = Literal["width", "mass"]


@dataclass(frozen=True, slots=True)
class Bin:
    """Samples of like confidence.

    Attributes:
        low: least confidence of the bin.
        high: its greatest.
        confidence: mean of its samples.
        agreement: share of them that is right.
        share: of all samples.
    """

    low: float
    high: float
    confidence: float
    agreement: float
    share: float


def binned(confidence: Float64, right: Bool, binning: Binning = "width", bins: int = BINS) -> list[Bin]:
    """The bins that hold a sample, by rising confidence; equal confidences are never parted."""
    if not len(confidence):
        return []
    if binning == "width":
        edges = np.linspace(0.0, 1.0, bins + 1)
    else:
        begins = np.quantile(confidence, np.arange(bins) / bins, method="higher")
        edges = np.append(np.unique(begins), np.inf)
    places = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, len(edges) - 2)
    return [
        Bin(
            float(edges[place]),
            float(min(1.0, edges[place + 1])),
            float(confidence[places == place].mean()),
            float(right[places == place].mean()),
            float((places == place).mean()),
        )
        for place in np.unique(places).tolist()
    ]


def expected_calibration_error(confidence: Float64, right: Bool, binning: Binning = "width", bins: int = BINS) -> float:
    """Mean distance of confidence and agreement over the bins, weighted by their samples; 0 of none."""
    return sum(one.share * abs(one.agreement - one.confidence) for one in binned(confidence, right, binning, bins))
