"""Ruling lines: the horizontal and vertical strokes that a table is drawn with."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from deployments.documents.messages import Point

# Of a line's length that its ends may differ across it, plus a unit: scans are never quite straight.
_SLANT = 0.02
# Shorter ones rule nothing, in the page's unit.
_SHORTEST = 4


class Rule(NamedTuple):
    """A horizontal or vertical line.

    Attributes:
        at: its y when horizontal, else its x.
        start, end: its extent along the other axis.
    """

    horizontal: bool
    at: float
    start: float
    end: float

    @property
    def length(self) -> float:
        """From end to end."""
        return self.end - self.start

    def placed(self, place: Callable[[Point], Point]) -> Rule:
        """The same on the page that is turned by quarters."""
        ends = ((at, self.at) if self.horizontal else (self.at, at) for at in (self.start, self.end))
        (x0, y0), (x1, y1) = map(place, ends)
        if y0 == y1:
            return Rule(True, y0, min(x0, x1), max(x0, x1))
        return Rule(False, x0, min(y0, y1), max(y0, y1))


def rule(first: Point, last: Point) -> Rule | None:
    """The line between two points; None when it is neither horizontal nor vertical, or too short to rule anything."""
    (x0, y0), (x1, y1) = first, last
    across, down = abs(x1 - x0), abs(y1 - y0)
    length = max(across, down)
    if length < _SHORTEST or min(across, down) > 1 + _SLANT * length:
        return None
    if across >= down:
        return Rule(True, (y0 + y1) / 2, min(x0, x1), max(x0, x1))
    return Rule(False, (x0 + x1) / 2, min(y0, y1), max(y0, y1))
