"""Which pages of a document are meant: `1-3,5`, `7-` and so on. Pure, and used on both sides of the wire."""

from __future__ import annotations

import re
from collections.abc import Sequence

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
    numbers = sorted({n for first, last in ranges or ((1, None),) for n in range(first, (last or total) + 1)})
    if wanted is not None:
        numbers = numbers[:wanted]
    if len(numbers) > most:
        raise InvalidRequest(
            f"{len(numbers)} pages of the document are asked for; at most {most} are read in one request. "
            "Name them in `pages`.",
            code="too_many_pages",
            param="pages",
        )
    return tuple(numbers)


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest(f"Field 'pages': {why}.", code="invalid_pages", param="pages")
