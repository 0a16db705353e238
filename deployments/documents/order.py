"""The order in which a page is read: recursive XY-cut, with headings across columns.

A region is cut at a vertical gap that runs through it (columns: left before right), else at horizontal ones (above
before below), and its parts likewise (Nagy and Seth 1984, "Hierarchical representation of optically scanned
documents"; Ha, Haralick and Phillips 1995, "Recursive X-Y cut using bounding boxes of connected components"). The
plain method cuts at every gap between paragraphs that happens to run through all columns, and so jumps between them.
Here horizontal bands are put together again as long as one gutter runs through all of them: what is left alone is
what reaches across the gutter, such as a heading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from deployments.documents.messages import Box

Gap = tuple[float, float]


class Placed(Protocol):
    """Anything with a place on the page."""

    @property
    def box(self) -> Box: ...


P = TypeVar("P", bound=Placed)

# A gutter is at least this wide, in heights of a line.
_GUTTER = 0.7
_COLUMN_LINES = 2
# Deepest nesting of cuts; real pages need five.
_MOST_DEEP = 40


def reading_order(items: Sequence[P], height: float, *, depth: int = 0) -> list[P]:
    """The items as they are read.

    Args:
        height: of a line, in the page's unit: the measure of what a gutter is.
    """
    if len(items) < 2 or depth >= _MOST_DEEP:
        return sorted(items, key=lambda item: (item.box.top, item.box.left))
    if gutters := _gutters(items, height):
        # The widest one: it separates the largest parts.
        start, end = max(gutters, key=lambda gap: gap[1] - gap[0])
        cut = (start + end) / 2
        parts = [
            [item for item in items if item.box.right <= cut],
            [item for item in items if item.box.right > cut],
        ]
    else:
        parts = _joined(_bands(items), height)
        if len(parts) == 1:  # one band without a gutter: what overlaps has no order but that of its rows
            return sorted(items, key=lambda item: (item.box.top + item.box.bottom, item.box.left))
    return [item for part in parts for item in reading_order(part, height, depth=depth + 1)]


def _gutters(items: Sequence[P], height: float) -> list[Gap]:
    """Vertical gaps that run through all items."""
    gaps: list[Gap] = []
    reach = float("-inf")
    for item in sorted(items, key=lambda item: item.box.left):
        if item.box.left - reach >= _GUTTER * height and reach > float("-inf"):
            gaps.append((reach, item.box.left))
        reach = max(reach, item.box.right)
    return gaps


def _bands(items: Sequence[P]) -> list[list[P]]:
    """Items between horizontal gaps that run through the whole region, from top to bottom."""
    bands: list[list[P]] = []
    reach = float("-inf")
    for item in sorted(items, key=lambda item: item.box.top):
        # Descenders of one line may touch the ascenders of the next: a fifth of the item is no overlap.
        if item.box.top + 0.2 * item.box.height >= reach:
            bands.append([])
        bands[-1].append(item)
        reach = max(reach, item.box.bottom)
    return bands


def _joined(bands: Sequence[list[P]], height: float) -> list[list[P]]:
    """Bands below each other that share a gutter, put together."""
    groups: list[tuple[list[P], list[Gap]]] = []
    for band in bands:
        gaps = _gutters(band, height)
        if groups:
            group, above = groups[-1]
            if both := _shared(above, gaps, height) or (not gaps and _beside(above, group, band, height)):
                groups[-1] = ([*group, *band], both)
                continue
        groups.append((list(band), gaps))
    return [group for group, _ in groups]


def _shared(above: Sequence[Gap], below: Sequence[Gap], height: float) -> list[Gap]:
    """The gutters that run through both."""
    cut = [(max(a, c), min(b, d)) for a, b in above for c, d in below]
    return [gap for gap in cut if gap[1] - gap[0] >= _GUTTER * height]


def _beside(above: Sequence[Gap], group: Sequence[Placed], band: Sequence[Placed], height: float) -> list[Gap]:
    """The gutters above that a band leaves free by standing on one side: the end of a column longer than the other.

    Two lines a side make a column; a lone pair, such as a name and a date at the top of a letter, makes none.
    """
    left, right = min(item.box.left for item in band), max(item.box.right for item in band)
    between_columns = [
        (a, b)
        for a, b in above
        if sum(item.box.right <= a for item in group) >= _COLUMN_LINES
        and sum(item.box.left >= b for item in group) >= _COLUMN_LINES
    ]
    return _shared(between_columns, [(float("-inf"), left), (right, float("inf"))], height)
