"""From words to the pieces of lines that layout is made of: pure geometry, the same for text layers and OCR."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from deployments.documents.messages import Box, Quad, TextLine, around

# Words further apart than this, in heights of the line, may be in different columns or cells. A space is a quarter of
# the letters' height; only in justified text it can be wider than this, see `rejoined`.
_GAP = 0.9
_JUSTIFIED_GAP = 1.8
# Two words stand in one line when they share this much of the lower one's height.
_SAME_LINE = 0.5
# A bullet or a number before an item stays with it up to this distance, in heights.
_BULLET_GAP = 3.0
_BULLET_CHARS = 3


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a page.

    Attributes:
        quad: its corners where it may be slanted; its box's otherwise.
    """

    text: str
    box: Box
    score: float = 1.0
    quad: Quad | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """Words that follow each other in one line without a gap that would separate columns."""

    words: tuple[Word, ...]
    box: Box

    @property
    def text(self) -> str:
        """Its words with spaces between them."""
        return " ".join(word.text for word in self.words)

    def line(self) -> TextLine:
        """As it is sent to the router: the quadrilateral from its first word to its last."""
        first, last = (word.quad or word.box.quad for word in (self.words[0], self.words[-1]))
        score = sum(word.score for word in self.words) / len(self.words)
        return TextLine(self.text, (first[0], last[1], last[2], first[3]), score, self.box.height)


def typical_height(boxes: Iterable[Box]) -> float:
    """The median height; 1 without any."""
    return median([box.height for box in boxes] or [1.0]) or 1.0


def rows_of(words: Sequence[Word]) -> list[list[Word]]:
    """Words that stand in one line across the whole page, from top to bottom, each row from left to right."""
    rows: list[tuple[Box, list[Word]]] = []
    for word in sorted(words, key=lambda word: word.box.top + word.box.bottom):
        for i in range(len(rows) - 1, max(-1, len(rows) - 4), -1):
            box, row = rows[i]
            # The row stays as high as its first word: a tall one would swallow its neighbours. What follows a word of
            # the row closely is of its line, even if that first word, far off, stands a little higher.
            if _level(box, word.box) or any(_level(one.box, word.box) and _close(one.box, word.box) for one in row):
                row.append(word)
                break
        else:
            rows.append((word.box, [word]))
    return [sorted(row, key=lambda word: word.box.left) for _, row in rows]


def _level(one: Box, other: Box) -> bool:
    shared = min(one.bottom, other.bottom) - max(one.top, other.top)
    return shared >= _SAME_LINE * min(one.height, other.height)


def _close(one: Box, other: Box) -> bool:
    apart = max(one.left, other.left) - min(one.right, other.right)
    return apart <= _GAP * min(one.height, other.height)


def segments_of(words: Sequence[Word]) -> list[Segment]:
    """All words as segments, from top to bottom and in each row from left to right."""
    return [segment for row in rows_of(words) for segment in split(row)]


def split(row: Sequence[Word]) -> list[Segment]:
    """One row of words, cut at its wide gaps."""
    parts: list[list[Word]] = []
    for word in row:
        if parts and _joined(parts[-1], word):
            parts[-1].append(word)
        else:
            parts.append([word])
    return [_segment(part) for part in parts]


def rejoined(segments: Sequence[Segment]) -> list[Segment]:
    """Segments in reading order, those that turned out to be one line of justified text put together.

    Between columns the order jumps up. What follows on the same line was not found to be another column.
    """
    lines: list[Segment] = []
    for segment in segments:
        if lines and _continues(lines[-1].box, segment.box):
            lines[-1] = _segment([*lines[-1].words, *segment.words])
        else:
            lines.append(segment)
    return lines


def _segment(words: Sequence[Word]) -> Segment:
    return Segment(tuple(words), around([word.box for word in words]))


def _continues(before: Box, after: Box) -> bool:
    height = min(before.height, after.height)
    shared = min(before.bottom, after.bottom) - max(before.top, after.top)
    return shared >= _SAME_LINE * height and 0 <= after.left - before.right <= _JUSTIFIED_GAP * height


def _joined(part: Sequence[Word], word: Word) -> bool:
    last = part[-1].box
    gap = word.box.left - last.right
    height = min(last.height, word.box.height)
    is_bullet = len(part) == 1 and len(part[0].text) <= _BULLET_CHARS and not part[0].text[-1].isalnum()
    return gap <= (_BULLET_GAP if is_bullet else _GAP) * height
