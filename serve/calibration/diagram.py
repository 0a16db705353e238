"""The reliability diagram: stated confidence against agreement, before and after calibration, as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from serve.calibration.certify import Bool
from serve.calibration.ece import BINS, binned, expected_calibration_error
from serve.calibration.fit import Evidence
from serve.calibration.temperature import Float64

_AGREEMENT, _GAP, _COUNT = "#2c6fbb", "#d1495b", "#8d99ae"


def draw(evidence: Evidence, title: str, path: Path, *, threshold: float | None = None) -> None:
    """Writes the PNG, 1350 x 840 pixels.

    Args:
        threshold: drawn as a line on the right side when given.
    """
    # Imported here, since it is slow; the figure is drawn without pyplot, which would keep it and look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(2, 2, sharex="col", gridspec_kw={"height_ratios": (3, 1)})
    for column, (name, confidence) in enumerate((("before", evidence.before), ("after", evidence.after))):
        _reliability(grid[0, column], name, confidence, evidence.right)
        _counts(grid[1, column], confidence)
    if threshold is not None and threshold <= 1.0:
        for row in (0, 1):
            grid[row, 1].axvline(threshold, color="black", linewidth=1, label=f"threshold {threshold:.4f}")
        grid[0, 1].legend(loc="upper left", fontsize=8, frameon=False)
    figure.suptitle(f"{title} ({len(evidence.right)} samples)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _reliability(axes: Any, name: str, confidence: Float64, right: Bool) -> None:
    bins = binned(confidence, right)
    places = [(one.low + one.high) / 2 for one in bins]
    width = 0.94 / BINS
    axes.plot((0, 1), (0, 1), color="grey", linestyle=":", linewidth=1)
    axes.bar(places, [one.agreement for one in bins], width, color=_AGREEMENT, label="agreement")
    gaps = [one.confidence - one.agreement for one in bins]
    bottoms = [one.agreement for one in bins]
    axes.bar(places, gaps, width, bottoms, fill=False, hatch="//", edgecolor=_GAP, label="to mean confidence")
    errors = [expected_calibration_error(confidence, right, binning) for binning in ("width", "mass")]
    axes.set_title(f"{name}: ECE {errors[0]:.3f}, with bins of equal mass {errors[1]:.3f}", fontsize=10)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="agreement with the reference")
    axes.legend(loc="upper left", fontsize=8, frameon=False)


def _counts(axes: Any, confidence: Float64) -> None:
    axes.hist(confidence, bins=np.linspace(0, 1, BINS + 1).tolist(), color=_COUNT, rwidth=0.94)
    axes.set(xlabel="confidence", ylabel="samples (log)", yscale="log")
