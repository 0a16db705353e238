"""Ruling lines in a picture."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from deployments.documents.rules import Rule

# Shortest line that is looked for, in pixels: longer than any letter's stroke at 300 dpi.
_SHORTEST = 40
# Thickest line, in pixels, and how much more a slanted one may take of its length; what is thicker is an area.
_THICKEST, _SLANT = 12, 0.02


def rules_in(pixels: npt.NDArray[np.uint8]) -> list[Rule]:
    """Lines in a picture, by morphological opening with long thin elements.

    Args:
        pixels: (height, width, 3) uint8 RGB.

    Returns:
        In pixels.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    # Local contrast: lines of a scan are often grey, and the paper is not evenly bright.
    dark = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, 25, 10)
    found: list[Rule] = []
    for horizontal in (True, False):
        size = (_SHORTEST, 1) if horizontal else (1, _SHORTEST)
        lines = cv2.morphologyEx(dark, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_RECT, size))
        # Two pixels across, so that a slightly slanted line, which is a staircase, stays one.
        joined = cv2.dilate(lines, np.ones((3, 1) if horizontal else (1, 3), np.uint8))
        _, _, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
        for left, top, width, height, _ in stats[1:].tolist():
            thick, length = (height, width) if horizontal else (width, height)
            if thick > _THICKEST + _SLANT * length or length < 3 * thick:
                continue
            middle = (top + height / 2) if horizontal else (left + width / 2)
            start = left if horizontal else top
            found.append(Rule(horizontal, middle, start, start + length))
    return found
