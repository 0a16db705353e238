"""Lines put together to paragraphs, so that a heading does not run into what stands below it."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from itertools import pairwise
from statistics import median

from deployments.documents.messages import Box, TextLine

# `Key: value`, the key of at most four words and not in small letters; and the mark before an item of a list.
_NAMED = re.compile(r"\s*[^\W\d_a-z][^\s:]*(?: [^\s:]+){0,3}\s*:\s+\S.*")
_ITEM = re.compile(r"\s*(?:[•·▪◦‣*–—-]|\(?(?:\d{1,2}|[a-z])[.)])\s")
_ENDS_SENTENCE = re.compile(r"[.!?][\"')\]]*\s*$")
# The first part of a word that is divided at the end of a line, and what the next line begins with.
_DIVIDED = re.compile(r"(?:^|[\s(\"'])([^\W\d_]+(?:-[^\W\d_]+)*)-$")
_REST = re.compile(r"[^\W\d_A-Z]+")
# Words within a line, compounds as one.
_WHOLE = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*(?![\w-])")
# Parts of words that are written with a hyphen wherever they stand.
_FIRST = frozenset((
    "well", "self", "half", "long", "short", "high", "low", "non", "all", "ex", "old", "new", "full", "part",
    "two", "three", "first", "second", "year", "day", "so", "cost", "world",
))  # fmt: skip
_SECOND = frozenset((
    "based", "free", "like", "wide", "known", "term", "time", "up", "off", "in", "to", "of", "and", "speaking",
    "effective", "specific", "related", "level", "old", "made",
))  # fmt: skip
# Lines of a paragraph are as high as each other up to this factor, and so much white is between them at most: in
# heights of a line, and in multiples of the page's usual white.
_HIGHER, _WHITE, _WIDER = 1.2, 0.7, 1.6
_OVERLAP = 0.5
# A line without a place is short when it has no more than this share of the next one's characters.
_SHORT = 0.6


def paragraphs(lines: Sequence[TextLine]) -> list[str]:
    """The text of each paragraph, heading, item of a list or `Key: value` line, in their order.

    A paragraph ends where the next line's first word would have fitted behind it, as none breaks its lines earlier than
    it must.

    Args:
        lines: in reading order.
    """
    found: list[str] = []
    known = {word.casefold() for line in lines for word in _WHOLE.findall(line.text)}
    before: Sequence[TextLine] = ()
    for run in _runs(lines):
        edge = max(_place(line).right for line in run)
        for above, line in zip([None, *run[:-1]], run, strict=True):
            goes_on = _goes_on(before, line) if above is None else not _ends(above, line, edge)
            if goes_on:
                found[-1] = _continued(found[-1], line.text, known)
            else:
                found.append(line.text)
        before = run
    return found


def _continued(text: str, line: str, known: Container[str]) -> str:
    """A text and the line that goes on with it; a word that was divided between them is put together.

    Without a dictionary, a hyphen is taken for that of a division unless the document or the word itself says else.
    """
    divided = _DIVIDED.search(text)
    rest = _REST.match(line)
    if divided is None or rest is None:
        return f"{text} {line}"
    first, second = divided[1], rest[0]
    is_compound = (
        "-" in first
        or not first.islower()
        or first in _FIRST
        or second in _SECOND
        or f"{first}-{second}" in known
        or (first in known and f"{first}{second}" not in known)
    )
    return text + line if is_compound else text[:-1] + line


def _runs(lines: Sequence[TextLine]) -> list[list[TextLine]]:
    """Lines of one size that stand below each other."""
    whites = [_white(above, line) for above, line in pairwise(lines)]
    usual = median([white for white in whites if white >= 0] or [0.0])
    runs: list[list[TextLine]] = []
    for line, white in zip(lines, [0.0, *whites], strict=False):
        if runs and _is_set_below(runs[-1][-1], line, white, usual):
            runs[-1].append(line)
        else:
            runs.append([line])
    return runs


def _is_set_below(above: TextLine, line: TextLine, white: float, usual: float) -> bool:
    if above.quad is None or line.quad is None:
        return True
    low, high = sorted((above.height, line.height))
    upper, lower = _place(above), _place(line)
    return (
        high <= _HIGHER * low
        and -_OVERLAP * low <= white <= max(_WHITE * low, _WIDER * usual)
        and lower.left < upper.right
        and upper.left < lower.right
    )


def _goes_on(run: Sequence[TextLine], line: TextLine) -> bool:
    """Whether a line in another column or on another page continues the sentence at the end of a paragraph."""
    return len(run) > 1 and not _ENDS_SENTENCE.search(run[-1].text) and line.text.lstrip()[:1].islower()


def _ends(above: TextLine, line: TextLine, edge: float) -> bool:
    """Whether a line ends what it is of, though another one stands right below it."""
    if _NAMED.fullmatch(line.text) or _ITEM.match(line.text) or above.text.isupper() != line.text.isupper():
        return True
    if _NAMED.fullmatch(above.text) and not line.text.lstrip()[:1].islower():
        return True
    if _DIVIDED.search(above.text) and _REST.match(line.text):
        return False
    if above.quad is None or line.quad is None:
        return len(above.text) <= _SHORT * len(line.text)
    word = len(line.text.split(maxsplit=1)[0]) + 1
    return _place(above).right + word * _place(line).width / len(line.text) <= edge


def _white(above: TextLine, line: TextLine) -> float:
    return _place(line).top - _place(above).bottom


def _place(line: TextLine) -> Box:
    """Where a line stands on a page turned by quarters so that its text runs to the right; nowhere without a place."""
    if line.quad is None:
        return Box(0.0, 0.0, 0.0, 0.0)
    a, b, c, d = (complex(x, y) for x, y in line.quad)
    turn = max((1, 1j, -1, -1j), key=lambda one: ((b - a) / one).real)
    a, b, c, d = a / turn, b / turn, c / turn, d / turn
    return Box(min(a.real, d.real), (a.imag + b.imag) / 2, max(b.real, c.real), (c.imag + d.imag) / 2)
