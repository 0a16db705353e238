"""A page's words and lines as what a reader sees: tables, and lines in reading order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from deployments.documents.columns import Aligned, aligned
from deployments.documents.grids import grids
from deployments.documents.headings import has_headings
from deployments.documents.messages import Box, Cell, Table, TextLine, around
from deployments.documents.order import reading_order
from deployments.documents.rules import Rule
from deployments.documents.segments import Segment, Word, rejoined, rows_of, segments_of, typical_height

Cells = tuple[tuple[tuple[Word, ...], ...], ...]


@dataclass(frozen=True, slots=True)
class _Block:
    """What is read as a whole."""

    box: Box
    segments: tuple[Segment, ...]


def laid_out(
    words: Sequence[Word], rules: Sequence[Rule], *, tables: bool = True
) -> tuple[tuple[TextLine, ...], tuple[Table, ...]]:
    """Lines in reading order, and tables from top to bottom.

    Args:
        rules: ruling lines of the page.
        tables: whether tables are looked for. Their lines are kept together in either case.
    """
    height = typical_height(word.box for word in words)
    found: list[Table] = []
    blocks: list[_Block] = []
    free = list(words)
    for grid in grids(rules, free, height):
        found.append(_table(grid.cells, ruled=True))
        blocks.append(_block(grid.cells))
        free = _without(free, grid.cells)
    for piece in (part for whole in aligned(free, height) for part in _apart(whole, rules, height)):
        if not piece.pairs:
            found.append(_table(piece.cells, ruled=False))
        blocks.append(_block(piece.cells))
        free = _without(free, piece.cells)
    blocks += [_Block(segment.box, (segment,)) for segment in segments_of(free)]
    ordered = reading_order(blocks, height)
    lines = tuple(segment.line() for segment in _read(ordered))
    return lines, tuple(sorted(found, key=lambda table: table.box or ())) if tables else ()


def _apart(piece: Aligned, rules: Sequence[Rule], height: float) -> list[Aligned]:
    """Tables that stand beside each other row by row, told by ruling lines none of which reaches across both."""
    left, top, right, bottom = piece.box
    bounds = [left]  # where lines begin and end, by turns
    reach = left
    for rule in sorted((rule for rule in rules if rule.horizontal), key=lambda rule: rule.start):
        if top - height <= rule.at <= bottom + height and rule.start < right and rule.end > left:
            if rule.start - reach > height:
                bounds += [reach, rule.start]
            reach = max(reach, rule.end)
    if piece.pairs or len(bounds) == 1:
        return [piece]
    parts: dict[int, list[Word]] = {}
    for word in (word for row in piece.cells for cell in row for word in cell):
        begins, ends = bisect_right(bounds, word.box.left), bisect_right(bounds, word.box.right)
        if begins != ends or begins % 2 == 0:  # it stands where no line is
            return [piece]
        parts.setdefault(begins, []).append(word)
    return [part for words in parts.values() for part in aligned(words, height)]


def _read(ordered: Sequence[_Block]) -> list[Segment]:
    """The lines of blocks in their order. Cells of a table stay apart, whatever stands beside them."""
    segments: list[Segment] = []
    for is_text, blocks in groupby(ordered, key=lambda block: len(block.segments) == 1):
        read = [segment for block in blocks for segment in block.segments]
        segments += rejoined(read) if is_text else read
    return segments


def _without(words: Sequence[Word], cells: Cells) -> list[Word]:
    taken = {id(word) for row in cells for cell in row for word in cell}
    return [word for word in words if id(word) not in taken]


def _block(cells: Cells) -> _Block:
    """Cells as lines, row by row."""
    segments = [segment for row in cells for cell in row if cell for segment in _lines(cell)]
    return _Block(around([segment.box for segment in segments]), tuple(segments))


def _lines(cell: Sequence[Word]) -> list[Segment]:
    return [Segment(tuple(row), around([word.box for word in row])) for row in rows_of(cell)]


def _table(cells: Cells, *, ruled: bool) -> Table:
    texts = tuple(tuple(" ".join(line.text for line in _lines(cell)) for cell in row) for row in cells)
    placed = tuple(
        Cell(r, c, texts[r][c], around([word.box for word in cell]))
        for r, row in enumerate(cells)
        for c, cell in enumerate(row)
        if cell
    )
    box = around([cell.box for cell in placed])
    headers, rows = (texts[0], texts[1:]) if has_headings(texts) else ((), texts)
    return Table(headers, rows, placed, box, ruled)
