"""The order in which a page is read: recursive XY-cut, with headings across columns.

A region is cut at a vertical gap that runs through it (columns: left before right), else at horizontal ones (above
before below), and its parts likewise (Nagy and Seth 1984, "Hierarchical representation of optically scanned
documents"; Ha, Haralick and Phillips 1995, "Recursive X-Y cut using bounding boxes of connected components"). The
plain method cuts at every gap between paragraphs that happens to run through all columns, and so jumps between them.
Here horizontal bands are put together again as long as one gutter runs through all of them: what is left alone is
what reaches across the gutter, such as a heading. One that is too short for that is told by standing in the middle.
"""

from __future__ import annotations

from bisect import bisect, bisect_left
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
# Of its height, what an item may overlap another one that it stands below, and one that it stands beside.
_TIGHT, _TOUCHING = 0.5, 0.2
# How far a heading's middle may be from that of ragged text, and the beginnings of lines of one column from each other,
# in heights of a line.
_OFF_CENTRE, _ALIGNED = 1.5, 0.3
# Deepest nesting of cuts; real pages need five.
_MOST_DEEP = 40


def reading_order(items: Sequence[P], height: float, *, depth: int = 0) -> list[P]:
    """The items as they are read.

    Args:
        height: of a line, in the page's unit: the measure of what a gutter is.
    """
    if len(items) < 2 or depth >= _MOST_DEEP:
        return sorted(items, key=lambda item: (item.box.top, item.box.left))
    parts = _cut_at_headings(items, height)
    if len(parts) == 1:
        parts = _cut_at_gutter(items, height) or _joined(_bands(items), height)
    if len(parts) == 1:  # one band without a gutter: what overlaps has no order but that of its rows
        return sorted(items, key=lambda item: (item.box.top + item.box.bottom, item.box.left))
    return [item for part in parts for item in reading_order(part, height, depth=depth + 1)]


def _cut_at_gutter(items: Sequence[P], height: float) -> list[list[P]]:
    """Items left and right of the widest gutter, which separates the largest parts; nothing without one."""
    gutters = _gutters(items, height)
    if not gutters:
        return []
    start, end = max(gutters, key=lambda gap: gap[1] - gap[0])
    cut = (start + end) / 2
    return [[item for item in items if item.box.right <= cut], [item for item in items if item.box.right > cut]]


def _gutters(items: Sequence[P], height: float) -> list[Gap]:
    """Vertical gaps that run through all items."""
    gaps: list[Gap] = []
    reach = float("-inf")
    for item in sorted(items, key=lambda item: item.box.left):
        if item.box.left - reach >= _GUTTER * height and reach > float("-inf"):
            gaps.append((reach, item.box.left))
        reach = max(reach, item.box.right)
    return gaps


def _cut_at_headings(items: Sequence[P], height: float) -> list[list[P]]:
    """Items above, in and below each line that stands alone in the middle: it may be too short to reach columns beside
    it, and belongs to none of them.

    The last lines of a middle column stand there too, but begin where its other lines do.
    """
    left, right = min(item.box.left for item in items), max(item.box.right for item in items)
    starts = sorted(item.box.left for item in items)
    parts: list[list[P]] = []
    after_heading = True
    for band in _bands(items):
        box = band[0].box
        is_heading = (
            len(band) == 1
            and abs(box.left + box.right - left - right) <= 2 * _OFF_CENTRE * height
            and bisect(starts, box.left + _ALIGNED * height) - bisect_left(starts, box.left - _ALIGNED * height) == 1
        )
        if is_heading or after_heading:
            parts.append([])
        parts[-1] += band
        after_heading = is_heading
    return parts


def _bands(items: Sequence[P]) -> list[list[P]]:
    """Items between horizontal gaps that run through the whole region, from top to bottom."""
    bands: list[list[P]] = []
    for item in sorted(items, key=lambda item: item.box.top):
        if not bands or all(_under(item.box, other.box) for other in reversed(bands[-1])):
            bands.append([])
        bands[-1].append(item)
    return bands


def _under(box: Box, other: Box) -> bool:
    """Whether an item stands below another, however tightly: descenders may touch the ascenders of the next line.

    Where they stand side by side, a small overlap already shows that no gap runs between them.
    """
    stacked = box.left < other.right and other.left < box.right
    return box.top + (_TIGHT if stacked else _TOUCHING) * box.height >= other.bottom


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
