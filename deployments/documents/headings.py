"""Whether a table's first row holds its headings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

# What stands in a table's body rather than in its headings: amounts, dates, shares, counts.
_FIGURE = re.compile(r"[^\w]*[\d][\d\s.,:/%'€$£-]*[^\w]*")
# Figures that head columns too: 2024, 08:30, 31-60 and 61+.
_YEAR = re.compile(r"(?:19|20)\d\d|2100")
_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_RANGE = re.compile(r"(\d+(?:[.,:]\d+)?)\s*(?:[-–]\s*\d+(?:[.,:]\d+)?|\+)")

_Form = Literal["year", "time", "range"]


def is_figure(text: str) -> bool:
    """Whether a cell holds an amount, a date in figures, a share or a count."""
    return _FIGURE.fullmatch(text) is not None


def has_headings(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns: it is all words, or its figures are a scale above other figures.

    A scale is two or more years, times or ranges in their order, each above something that is none of its kind.

    Args:
        rows: the texts of the table's cells.
    """
    first, *below = rows
    columns = [column for column, text in enumerate(first) if is_figure(text)]
    return bool(below) and (not columns or _is_scale([[row[column] for row in rows] for column in columns]))


def _is_scale(columns: Sequence[Sequence[str]]) -> bool:
    steps = [_step(top) for top, *_ in columns]
    kinds = {step[0] for step in steps if step}
    values = [step[1] for step in steps if step]
    if len(values) < max(2, len(columns)) or len(kinds) > 1:
        return False
    if not all(one < other for one, other in pairwise(values)):
        return False
    return all(any(text and not _is_of(kinds, text) for text in below) for _, *below in columns)


def _is_of(kinds: set[_Form], text: str) -> bool:
    step = _step(text)
    return step is not None and step[0] in kinds


def _step(text: str) -> tuple[_Form, float] | None:
    """What kind of scale a figure can be a step of, and where on it."""
    if _YEAR.fullmatch(text):
        return "year", float(text)
    if match := _TIME.fullmatch(text):
        return "time", 60 * float(match[1]) + float(match[2])
    if match := _RANGE.fullmatch(text):
        return "range", float(re.sub("[,:]", ".", match[1]))
    return None
