"""Dates in a document's text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_DAY_FIRST = re.compile(rf"\b{_DAY}(?:\s+of)?[\s-]+{_MONTH},?[\s-]+(\d{{4}})\b", re.I)
_MONTH_FIRST = re.compile(rf"\b{_MONTH}\s+{_DAY},?\s+(\d{{4}})\b", re.I)
_ISO = re.compile(r"\b(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?=T\d\d|\b)")
_NUMBERS = re.compile(r"\b(\d{1,2})([-/.])(\d{1,2})\2(\d{4})\b")

# What the words before a date make of it: the document's own, another than that, or nothing.
_Role = Literal["own", "other", "unsaid"]
_OWN = re.compile(r"\bdated?\b", re.I)
_OTHER = re.compile(
    r"\b(?:due|birth|born|dob|valid\w*|expir\w*|deliver\w*|ship(?:s|ped|ping|ment)?|start\w*|end(?:s|ed|ing)?|until"
    r"|before|later than|pay|payable)\b",
    re.I,
)
# So many words before a date say what it is; of the cell to the left, and of the line or cell above, fewer.
_BEFORE, _BESIDE = 4, 3
_CLAUSE_END = re.compile(r"[.;!?|]\s")
# Between two dates that are one span of time, and before a date about which this cell says nothing.
_JOINT = re.compile(r"\W*(?:to|through|and|on)?\W*", re.I)


@dataclass(frozen=True, slots=True)
class _Written:
    """A date in a text; None when its day and its month cannot be told apart."""

    start: int
    end: int
    value: date | None


def date_in(rows: Sequence[Sequence[str]]) -> str | None:
    """The document's date as YYYY-MM-DD: the first that words before it name, else the first of which they say nothing.

    3/4/2024 is the third of April to some and the fourth of March to others: it is none to us, unless the document's
    other dates tell the order.

    Args:
        rows: the document's lines, those that stand beside each other together.
    """
    day_first = _day_first(text for row in rows for text in row)
    found: dict[_Role, list[date | None]] = {"own": [], "other": [], "unsaid": []}
    above: list[_Role] = []
    for row in rows:
        here: list[_Role] = []
        left: _Role = "unsaid"
        for column, text in enumerate(row):
            written = _dates(text, day_first)
            over = above[column] if len(above) == len(row) else "unsaid"
            role = over if left == "unsaid" else left
            end = 0
            for one in written:
                between = text[end : one.start]
                role = role if _JOINT.fullmatch(between) else _role(between, _BEFORE)
                found[role].append(one.value)
                end = one.end
            left = _role(text[end:], _BESIDE)
            # A heading is that of all dates in its column.
            here.append(role if written and len(row) > 1 else left)
        above = here
    best = found["own"][0] if found["own"] else next(filter(None, found["unsaid"]), None)
    return best.isoformat() if best else None


def _role(before: str, words: int) -> _Role:
    """What the last words of a text say of the date that follows."""
    near = " ".join(_CLAUSE_END.split(before)[-1].split()[-words:])
    if _OTHER.search(near):
        return "other"
    return "own" if _OWN.search(near) else "unsaid"


def _day_first(texts: Iterable[str]) -> bool | None:
    """Whether dates in numbers begin with the day, where those that can be read in one way only agree about it."""
    orders = {
        int(match[1]) > int(match[3])
        for text in texts
        for match in _NUMBERS.finditer(text)
        if match[2] != "." and int(match[1]) <= 31 and int(match[3]) <= 31
        if min(int(match[1]), int(match[3])) <= 12 < max(int(match[1]), int(match[3]))
    }
    return orders.pop() if len(orders) == 1 else None


def _dates(text: str, day_first: bool | None) -> list[_Written]:
    """The dates of a text in their order."""
    found: list[_Written] = []

    def add(match: re.Match[str], year: str, month: int, day: int) -> None:
        try:
            found.append(_Written(match.start(), match.end(), date(int(year), month, day)))
        except ValueError:
            return

    for match in _DAY_FIRST.finditer(text):
        add(match, match[3], _month(match[2]), int(match[1]))
    for match in _MONTH_FIRST.finditer(text):
        add(match, match[3], _month(match[1]), int(match[2]))
    for match in _ISO.finditer(text):
        add(match, match[1], int(match[2]), int(match[3]))
    for match in _NUMBERS.finditer(text):
        first, second = int(match[1]), int(match[3])
        if match[2] == ".":  # written with points, the day is first everywhere
            add(match, match[4], second, first)
        elif first == second or max(first, second) > 12:
            add(match, match[4], min(first, second), max(first, second))
        elif day_first is None:
            found.append(_Written(match.start(), match.end(), None))
        else:
            add(match, match[4], *((second, first) if day_first else (first, second)))
    return sorted(found, key=lambda one: one.start)


def _month(name: str) -> int:
    return _MONTHS.index(name[:3].casefold()) + 1
