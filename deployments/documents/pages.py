"""Which pages of a document are meant: `1-3,5`, `7-` and so on. Pure, and used on both sides of the wire."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, islice

from deployments.documents.messages import PageRange
from serve.errors import InvalidRequest

_RANGE = re.compile(r"\s*(\d{1,6})\s*(?:(-)\s*(\d{1,6})?\s*)?")
_MOST_RANGES = 1000


def parse_pages(text: str) -> tuple[PageRange, ...]:
    """Ranges such as `3`, `1-3` and `7-` (to the end), with commas between them.

    Raises:
        InvalidRequest: `invalid_pages`.
    """
    ranges: list[PageRange] = []
    parts = text.split(",")
    if len(parts) > _MOST_RANGES:
        raise _invalid(f"there are {len(parts)} ranges; at most {_MOST_RANGES} are accepted")
    for part in parts:
        match = _RANGE.fullmatch(part)
        if match is None:
            raise _invalid(f"{part.strip()[:40]!r} is no page or range; write them like 1-3,5 or 7-")
        first = int(match[1])
        last = (int(match[3]) if match[3] else None) if match[2] else first
        if first < 1:
            raise _invalid("pages are counted from 1")
        if last is not None and last < first:
            raise _invalid(f"{part.strip()!r} ends before it begins")
        ranges.append((first, last))
    return tuple(ranges)


def chosen(ranges: Sequence[PageRange], total: int, wanted: int | None, most: int) -> tuple[int, ...]:
    """The pages that ranges mean in a document, each once, in the document's order.

    Args:
        ranges: none mean all pages.
        total: pages of the document.
        wanted: most of them that the client wants; the rest is left out.
        most: that are read in one request.

    Raises:
        InvalidRequest: `invalid_pages`: one lies beyond the end; `too_many_pages`.
    """
    for first, last in ranges:
        if (beyond := max(first, last or first)) > total:
            raise _invalid(f"page {beyond} does not exist; the document has {total}")
    # A file may claim any number of pages, and ranges overlap: they are joined and counted before any is written out.
    spans = _joined([(first, last or total) for first, last in ranges or ((1, None),)])
    count = sum(last - first + 1 for first, last in spans)
    if (left := count if wanted is None else min(count, wanted)) > most:
        raise InvalidRequest(
            f"{left} pages of the document are asked for; at most {most} are read in one request. "
            "Name them in `pages`.",
            code="too_many_pages",
            param="pages",
        )
    return tuple(islice(chain.from_iterable(range(first, last + 1) for first, last in spans), left))


def _joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same pages in spans that do not meet, in their order."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest(f"Field 'pages': {why}.", code="invalid_pages", param="pages")
