"""Tables that are drawn: a grid of ruling lines, and the words in its cells."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from deployments.documents.messages import Box, around
from deployments.documents.rules import Rule
from deployments.documents.segments import Word, rows_of

# Lines that end this close to each other, in heights of a line of text, meet.
_MEET = 0.4
# A line closes a cell's side when it covers this much of it.
_COVERS = 0.5
# More lines than this are a drawing or a map, not a table.
_MOST_RULES = 5000

Row = Sequence[Sequence[Word]]


@dataclass(frozen=True, slots=True)
class Grid:
    """Words by the cell they are in, row by row. Of a merged cell the upper left part has the words."""

    box: Box
    cells: tuple[tuple[tuple[Word, ...], ...], ...]


def grids(rules: Sequence[Rule], words: Sequence[Word], height: float) -> list[Grid]:
    """The drawn tables with at least two rows and two columns.

    Args:
        height: of a line of text, in the page's unit.
    """
    near = _MEET * height
    long = [line for line in rules if line.length >= height]
    if len(long) > _MOST_RULES:
        return []
    lines = _merged(long, near)
    return [grid for group in _connected(lines, near) if (grid := _grid(group, words, height)) is not None]


def _merged(rules: Sequence[Rule], near: float) -> list[Rule]:
    """Pieces of one line, and lines drawn twice, as one."""
    merged: list[Rule] = []
    for line in sorted(rules, key=lambda line: (line.horizontal, line.at, line.start)):
        same = next((i for i in range(len(merged) - 1, -1, -1) if _continues(merged[i], line, near)), None)
        if same is None:
            merged.append(line)
            continue
        other = merged[same]
        # The place of the longer piece: drifting by averages would let a staircase become one line.
        at = max(other, line, key=lambda one: one.length).at
        merged[same] = Rule(line.horizontal, at, min(other.start, line.start), max(other.end, line.end))
    return merged


def _continues(one: Rule, other: Rule, near: float) -> bool:
    return (
        one.horizontal == other.horizontal
        and abs(one.at - other.at) <= near
        and one.start <= other.end + near
        and other.start <= one.end + near
    )


def _connected(lines: Sequence[Rule], near: float) -> list[list[Rule]]:
    """Lines that touch each other, directly or through others."""
    left = list(lines)
    groups: list[list[Rule]] = []
    while left:
        group = [left.pop()]
        for line in group:
            touching = [other for other in left if _touch(line, other, near)]
            group += touching
            left = [other for other in left if other not in touching]
        groups.append(group)
    return groups


def _touch(one: Rule, other: Rule, near: float) -> bool:
    return (
        one.horizontal != other.horizontal
        and other.start - near <= one.at <= other.end + near
        and one.start - near <= other.at <= one.end + near
    )


def _grid(lines: Sequence[Rule], words: Sequence[Word], height: float) -> Grid | None:
    near = _MEET * height
    across = [line for line in lines if line.horizontal]
    down = [line for line in lines if not line.horizontal]
    if not across or not down:
        return None
    xs = _edges([line.at for line in down], [end for line in across for end in (line.start, line.end)], near)
    ys = _edges([line.at for line in across], [end for line in down for end in (line.start, line.end)], near)
    if len(xs) < 3 or len(ys) < 3:
        return None
    origin = _origins(xs, ys, across, down, near)
    held: dict[tuple[int, int], list[Word]] = {}
    for word in words:
        x, y = (word.box.left + word.box.right) / 2, (word.box.top + word.box.bottom) / 2
        row, column = bisect_right(ys, y) - 1, bisect_right(xs, x) - 1
        if 0 <= row < len(ys) - 1 and 0 <= column < len(xs) - 1:
            held.setdefault(origin[row, column], []).append(word)
    columns = [c for c in range(len(xs) - 1) if any(column == c for _, column in held)]
    rows = [r for r in range(len(ys) - 1) if any(row == r for row, _ in held)]
    if len(columns) < 2 or len(rows) < 2:
        return None
    heading, *bands = [[held.get((r, c), []) for c in columns] for r in rows]
    widths = [xs[c + 1] - xs[c] for c in columns]
    parted = [heading, *(row for band in bands for row in _parted(band, widths, height))]
    cells = tuple(tuple(tuple(cell) for cell in row) for row in parted)
    return Grid(Box(xs[0], ys[0], xs[-1], ys[-1]), cells)


def _parted(band: Row, widths: Sequence[float], height: float) -> list[Row]:
    """The rows between two horizontal lines: many tables have such a line below the heading only.

    Lines of text are rows when each has a name and a value, and they do not look like wrapped cells.
    """
    column = {id(word): c for c, cell in enumerate(band) for word in cell}
    rows = [
        [[word for word in line if column[id(word)] == c] for c in range(len(band))]
        for line in rows_of([word for cell in band for word in cell])
    ]
    if not all(row[0] and any(row[1:]) for row in rows):
        return [band]
    broken = any(_had_room(*pair, widths, height) for pair in pairwise(rows))
    return [*rows] if broken else [band]


def _had_room(above: Row, below: Row, widths: Sequence[float], height: float) -> bool:
    """Whether some cell's next word would have fitted behind the line above, so that it was not wrapped."""
    return any(
        around([word.box for word in line]).width + following[0].box.width + height <= width
        for line, following, width in zip(above, below, widths, strict=True)
        if line and following
    )


def _edges(lines: Sequence[float], ends: Sequence[float], near: float) -> list[float]:
    """Where cells end: at lines, and, of a table that is open at its sides, where the crossing lines end."""
    edges: list[float] = []
    for at in sorted(lines):
        if not edges or at - edges[-1] > near:
            edges.append(at)
    if min(ends) < edges[0] - 3 * near:
        edges.insert(0, min(ends))
    if max(ends) > edges[-1] + 3 * near:
        edges.append(max(ends))
    return edges


def _origins(
    xs: Sequence[float], ys: Sequence[float], across: Sequence[Rule], down: Sequence[Rule], near: float
) -> dict[tuple[int, int], tuple[int, int]]:
    """The upper left part of the merged cell that each part of the grid belongs to."""
    origin: dict[tuple[int, int], tuple[int, int]] = {}
    for row, (top, bottom) in enumerate(pairwise(ys)):
        for column, (left, right) in enumerate(pairwise(xs)):
            origin[row, column] = (row, column)
            if column and not _closed(down, left, top, bottom, near):
                origin[row, column] = origin[row, column - 1]
            elif row and not _closed(across, top, left, right, near):
                origin[row, column] = origin[row - 1, column]
    return origin


def _closed(lines: Sequence[Rule], at: float, start: float, end: float, near: float) -> bool:
    """Whether lines at this place cover most of a cell's side."""
    covered = sum(
        max(0.0, min(line.end, end) - max(line.start, start)) for line in lines if abs(line.at - at) <= 1.5 * near
    )
    return covered >= _COVERS * (end - start)
