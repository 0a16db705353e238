"""Dates in a document's text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"((?:{'|'.join(_MONTHS)})[a-z]*)\.?"
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_DAY_FIRST = re.compile(rf"\b{_DAY}(?:\s+of)?[\s-]+{_MONTH},?[\s-]+(\d{{4}})\b", re.I)
_MONTH_FIRST = re.compile(rf"\b{_MONTH}\s+{_DAY},?\s+(\d{{4}})\b", re.I)
_ISO = re.compile(r"\b(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})\b")
_NUMBERS = re.compile(r"\b(\d{1,2})([-/.])(\d{1,2})\2(\d{4})\b")
# A line that says that a date follows is believed before others; one of these is another date than the document's.
_NAMED = re.compile(r"\bdate[d]?\b", re.I)
_OTHER = re.compile(r"\b(?:due|birth|valid|expir|deliver|ship|start|end)", re.I)


def date_in(lines: Sequence[str]) -> str | None:
    """The document's date as YYYY-MM-DD: the first in a line that names it (or the line after), else the first at all.

    3/4/2024 is the third of April to some and the fourth of March to others, so it is none to us.
    """
    before = ""
    named: list[date] = []
    others: list[date] = []
    for line in lines:
        near = line if _NAMED.search(line) else f"{before} {line}"
        for found in _dates(line):
            is_named = _NAMED.search(near) is not None and _OTHER.search(near) is None
            (named if is_named else others).append(found)
        before = line
    best = next(iter(named or others), None)
    return best.isoformat() if best else None


def _dates(line: str) -> Iterator[date]:
    found: list[tuple[int, date | None]] = []
    for match in _DAY_FIRST.finditer(line):
        found.append((match.start(), _date(int(match[3]), _month(match[2]), int(match[1]))))
    for match in _MONTH_FIRST.finditer(line):
        found.append((match.start(), _date(int(match[3]), _month(match[1]), int(match[2]))))
    for match in _ISO.finditer(line):
        found.append((match.start(), _date(int(match[1]), int(match[2]), int(match[3]))))
    for match in _NUMBERS.finditer(line):
        first, second, year = int(match[1]), int(match[3]), int(match[4])
        if match[2] == ".":  # written with points, the day is first everywhere
            found.append((match.start(), _date(year, second, first)))
        elif first == second or max(first, second) > 12:
            found.append((match.start(), _date(year, min(first, second), max(first, second))))
    yield from (found_date for _, found_date in sorted(found, key=lambda pair: pair[0]) if found_date is not None)


def _month(name: str) -> int:
    return _MONTHS.index(name[:3].casefold()) + 1


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None
