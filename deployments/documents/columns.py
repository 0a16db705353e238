"""Tables that are not drawn: rows of words whose gaps stand below each other.

Rows that fall into as many pieces suggest where the columns are; rows above and below join while they leave the gaps
between columns free. Of such suggestions, the one that explains most is the table. Columns of running text look alike,
and so do names with their values and two addresses beside each other: the first are told by how full their lines are,
the second by their colons and usual names, the third by standing as close below each other as lines of a text do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from deployments.documents.headings import is_figure
from deployments.documents.labels import is_label
from deployments.documents.messages import Box, around
from deployments.documents.segments import Word, rows_of, split

Row = list[Word]
Cells = tuple[tuple[tuple[Word, ...], ...], ...]
Span = tuple[float, float]

# Least gap between columns, in heights of a line, and in multiples of the page's usual space between words.
_GAP, _WIDER = 0.5, 1.5
# Share of it that the longest cell of a column must leave.
_LEFT = 0.7
# Widest white space between the rows of one table, in heights of a line, and in multiples of its usual one.
_FAR, _FARTHER = 1.5, 1.8
# A row is the second line of a wrapped cell when it holds one cell and stands this close, in heights of white space, or
# when it stands this much closer than rows do, from middle to middle.
_CLOSE, _CLOSER = 0.35, 0.85
# Lines of text stand at most this far below each other, from middle to middle, in heights of a line.
_SET = 1.4
# Rows with something in every column are of one table up to this distance, whatever stands between them.
_REACH = 4.0
# A column is running text when its lines fill it to this share and have so many words, on average.
_FULL, _WORDY = 0.7, 3.0


@dataclass(frozen=True, slots=True)
class Aligned:
    """Rows of cells, each with its words; or names with their values, which have two columns.

    Attributes:
        pairs: it is the latter: lines of a form or a letter head, no table. What stands beside them is left out.
    """

    box: Box
    cells: Cells
    pairs: bool


def aligned(words: Sequence[Word], height: float) -> list[Aligned]:
    """What stands in columns, from top to bottom.

    Args:
        height: of a line of text, in the page's unit.
    """
    rows = rows_of(words)
    spaces = [b.box.left - a.box.right for row in rows for part in split(row) for a, b in pairwise(part.words)]
    return _search(rows, height, max(_GAP * height, _WIDER * median(spaces or [0.0])))


def _search(rows: Sequence[Row], height: float, gap: float) -> list[Aligned]:
    """The table that explains most of the rows, those above it and those below it."""
    candidates = list(_candidates(rows, height, gap))
    if not candidates:
        return []
    first, last, found = max(candidates, key=lambda one: (one[1] - one[0] + 1) * len(one[2].cells[0]))
    taken = {id(word) for row in found.cells for cell in row for word in cell}
    left = [rest for row in rows[first : last + 1] if (rest := [word for word in row if id(word) not in taken])]
    beside = _search(left, height, gap)
    return [*_search(rows[:first], height, gap), *beside, found, *_search(rows[last + 1 :], height, gap)]


def _candidates(rows: Sequence[Row], height: float, gap: float) -> Iterator[tuple[int, int, Aligned]]:
    """Tables that rows with as many pieces suggest, with their first and last row."""
    counts = [len(split(row)) for row in rows]
    for pieces in sorted({count for count in counts if count > 1}, reverse=True):
        for seeds in _runs(rows, counts, pieces, height, gap):
            gaps = _gaps([rows[i] for i in seeds], gap)
            if not pieces <= len(gaps) + 1 < 2 * pieces:  # not every row has something in every column
                continue
            first, last, left = _extent(rows, seeds, gaps, height, gap)
            held = rows[first : last + 1]
            found = _table(held, _occupied(held, left), height)
            if found is not None:
                yield first, last, found


def _runs(rows: Sequence[Row], counts: Sequence[int], pieces: int, height: float, gap: float) -> list[list[int]]:
    """Groups of rows near each other that have at least so many pieces; at least two in each."""
    runs: list[list[int]] = []
    for i, count in enumerate(counts):
        if count < pieces:
            continue
        if runs and _are_near(rows[runs[-1][-1] : i + 1], height, gap):
            runs[-1].append(i)
        else:
            runs.append([i])
    return [run for run in runs if len(run) >= 2]


def _are_near(rows: Sequence[Row], height: float, gap: float) -> bool:
    """Whether the first and the last row may be of one table: they are close, or the rows between have empty cells."""
    first, *between, last = rows
    if _white(first, last) <= _REACH * height:
        return True
    gaps = _gaps([first, last], gap)
    return (
        bool(gaps)
        and all(_white(above, below) <= _FAR * height for above, below in pairwise(rows))
        and all(_narrowed(gaps, row, gap) is not None for row in between)
    )


def _gaps(rows: Sequence[Row], least: float) -> list[Span]:
    """Vertical strips that no word of these rows stands in."""
    gaps: list[Span] = []
    reach = float("-inf")
    for word in sorted((word for row in rows for word in row), key=lambda word: word.box.left):
        if reach > float("-inf") and word.box.left - reach >= least:
            gaps.append((reach, word.box.left))
        reach = max(reach, word.box.right)
    return gaps


def _extent(
    rows: Sequence[Row], seeds: Sequence[int], gaps: Sequence[Span], height: float, least: float
) -> tuple[int, int, list[Span]]:
    """The first and last row of the table that has these gaps, and what all its rows leave of them."""
    usual = median([_white(rows[i], rows[i + 1]) for i in range(seeds[0], seeds[-1])])
    far = max(_FAR * height, _FARTHER * usual)
    left = list(gaps)
    first = last = seeds[0]
    while last + 1 < len(rows) and _white(rows[last], rows[last + 1]) <= far:
        if (narrowed := _narrowed(left, rows[last + 1], least)) is None:
            break
        last, left = last + 1, narrowed
    while first > 0 and _white(rows[first - 1], rows[first]) <= far:
        if (narrowed := _narrowed(left, rows[first - 1], least)) is None:
            break
        first, left = first - 1, narrowed
    # Above the headings stands what is no part of the table, below the last row its remarks.
    while first < last and not _heads(rows[first], left):
        first += 1
    while last > first and _filled(rows[last], left) < 2 and _white(rows[last - 1], rows[last]) > _CLOSE * height:
        last -= 1
    return first, last, left


def _occupied(rows: Sequence[Row], gaps: Sequence[Span]) -> list[Span]:
    """The gaps between columns that hold something."""
    columns = zip(*(_cells(row, gaps) for row in rows), strict=True)
    held = [i for i, column in enumerate(columns) if any(column)]
    return [(gaps[one][0], gaps[other - 1][1]) for one, other in pairwise(held)]


def _heads(row: Row, gaps: Sequence[Span]) -> bool:
    """Whether a row can be a table's first: half of its cells hold something, and they are no line of text.

    The spaces of a line of text may happen to stand above the gaps between columns.
    """
    filled = _filled(row, gaps)
    is_text = len(gaps) > 1 < filled and len(split(row)) == 1
    return 2 * filled >= max(len(gaps) + 1, 3) and not is_text


def _narrowed(gaps: Sequence[Span], row: Row, least: float) -> list[Span] | None:
    """What a row leaves of the gaps; None when it leaves too little of one, as running text does.

    A row of large letters has wide spaces: those of a heading across columns are no gap between cells.
    """
    left = [_left_of(gap, row) for gap in gaps]
    least = max(least, _GAP * median([word.box.height for word in row]))
    return left if all(end - start >= _LEFT * least for start, end in left) else None


def _left_of(gap: Span, row: Row) -> Span:
    start, end = gap
    for word in row:
        if word.box.right <= start or word.box.left >= end:
            continue
        # It belongs to the column that it is nearer to.
        if word.box.left - start <= end - word.box.right:
            start = word.box.right
        else:
            end = word.box.left
    return start, end


def _table(rows: Sequence[Row], gaps: Sequence[Span], height: float) -> Aligned | None:
    """Rows and columns; None when they are columns of text, or too few for a table."""
    columns = len(gaps) + 1
    if _prose_columns(rows, gaps) >= 2:
        return None
    if pairs := _named(rows, gaps):
        return Aligned(around([word.box for row in pairs for cell in row for word in cell]), pairs, pairs=True)
    merged = _unwrapped(rows, gaps, height)
    cells = tuple(tuple(tuple(_by_line(cell)) for cell in row) for row in merged)
    box = around([word.box for row in rows for word in row])
    names = [row[0] for row in merged if row[0]]
    if columns == 2 and sum(name[-1].text.endswith(":") for name in names) * 2 > len(merged):
        return Aligned(box, cells, pairs=True)
    if len(merged) < (2 if columns > 2 else 3) or (columns == 2 and _is_set_as_text(rows, cells, height)):
        return None
    return Aligned(box, cells, pairs=False)


def _named(rows: Sequence[Row], gaps: Sequence[Span]) -> Cells:
    """The last two columns where they hold usual names of fields with their values; nothing where they do not.

    To the left of such names may stand an address: a line of it has nothing to do with the name beside it.
    """
    lines = [tuple(tuple(cell) for cell in _cells(row, gaps)[-2:]) for row in rows]
    labels = [is_label(_text(name)) and bool(value) for name, value in lines]
    if sum(labels) < 2 or 2 * sum(labels) <= sum(bool(name) for name, _ in lines):
        return ()
    named = lines[labels.index(True) : len(labels) - labels[::-1].index(True)]
    return tuple(line for line in named if any(line))


def _is_set_as_text(rows: Sequence[Row], cells: Cells, height: float) -> bool:
    """Whether two columns without figures stand as close as lines of a text: addresses beside each other."""
    if median([_middle(below) - _middle(above) for above, below in pairwise(rows)]) > _SET * height:
        return False
    columns = [[_text(cell) for cell in column if cell] for column in zip(*cells, strict=True)]
    return not any(2 * sum(map(is_figure, column)) > len(column) for column in columns)


def _text(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)


def _by_line(cell: Sequence[Word]) -> list[Word]:
    """The words of a cell as they are read."""
    return [word for line in rows_of(cell) for word in line]


def _unwrapped(rows: Sequence[Row], gaps: Sequence[Span], height: float) -> list[list[list[Word]]]:
    """Rows of cells; the second line of a wrapped cell belongs to the row above."""
    pitches = [_middle(below) - _middle(above) for above, below in pairwise(rows)]
    # Of the distances between rows, a large one: half of them may be those within wrapped cells.
    usual = sorted(pitches)[len(pitches) * 3 // 4] if pitches else 0.0
    merged: list[list[list[Word]]] = []
    for i, row in enumerate(rows):
        cells = _cells(row, gaps)
        filled = sum(map(bool, cells))
        is_rest = filled == 1 and len(cells) > 2 and _white(rows[i - 1], row) <= _CLOSE * height if i else False
        is_rest = (is_rest and not (i == 1 and cells[0])) or (i > 0 and pitches[i - 1] <= _CLOSER * usual)
        # A total with its name is a row of its own, however close it stands.
        if merged and is_rest and not (cells[-1] and any(is_label(_text(cell)) for cell in cells[:-1] if cell)):
            for above, below in zip(merged[-1], cells, strict=True):
                above.extend(below)
        else:
            merged.append(cells)
    return merged


def _cells(row: Row, gaps: Sequence[Span]) -> list[list[Word]]:
    cells: list[list[Word]] = [[] for _ in range(len(gaps) + 1)]
    for word in row:
        middle = (word.box.left + word.box.right) / 2
        cells[sum(middle > (start + end) / 2 for start, end in gaps)].append(word)
    return cells


def _filled(row: Row, gaps: Sequence[Span]) -> int:
    return sum(map(bool, _cells(row, gaps)))


def _prose_columns(rows: Sequence[Row], gaps: Sequence[Span]) -> int:
    """How many columns hold running text."""
    count = 0
    for lines in zip(*(_cells(row, gaps) for row in rows), strict=True):
        held = [line for line in lines if line]
        if len(held) < 2:
            continue
        boxes = [around([word.box for word in line]) for line in held]
        full = sum(box.width for box in boxes) / len(boxes) / max(around(boxes).width, 1e-6)
        count += full >= _FULL and sum(map(len, held)) / len(held) >= _WORDY
    return count


def _middle(row: Row) -> float:
    return median([(word.box.top + word.box.bottom) / 2 for word in row])


def _white(above: Row, below: Row) -> float:
    """White space between two rows; negative when they overlap."""
    return min(word.box.top for word in below) - max(word.box.bottom for word in above)
