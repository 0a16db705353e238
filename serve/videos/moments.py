"""Times as people write them: stamps (`MM:SS.mmm`, `H:MM:SS`) and moments within a question."""

from __future__ import annotations

import re

_STAMP = r"(?:(?P<hours>\d{1,3}):(?=\d\d:))?(?P<minutes>\d{1,4}):(?P<seconds>[0-5]\d(?:\.\d+)?)"
_LONE_STAMP = re.compile(rf"\s*{_STAMP}\s*")
_IN_WORDS = (
    r"(?:(?P<word_minutes>\d+(?:\.\d+)?)\s*(?:m|mins?|minutes?)\b\s*(?:and\s+)?)?"
    r"(?:(?P<word_seconds>\d+(?:\.\d+)?)\s*(?:s|secs?|seconds?)\b)?"
)
# What is far from a preposition may be a score, a ratio or a length.
_MOMENT = re.compile(
    rf"\b(?:at|around|near|after)\s+(?:about\s+|around\s+)?(?:{_STAMP}(?![:\d])|second\s+(?P<second>\d+)|{_IN_WORDS})",
    re.IGNORECASE,
)


def seconds_of(stamp: str) -> float | None:
    """The time that a stamp says, in seconds; None of a text that is none."""
    found = _LONE_STAMP.fullmatch(stamp)
    return None if found is None else _of_stamp(found)


def moment_in(question: str) -> float | None:
    """The time in seconds at which, or after which, a question asks; None where it names no time, or several.

    "What happens at 0:42?", "around 1:02:03", "after 75 seconds", "at 2 min 5 s".
    """
    found = [moment for match in _MOMENT.finditer(question) if (moment := _of_moment(match)) is not None]
    return found[0] if len(found) == 1 else None


def _of_moment(found: re.Match[str]) -> float | None:
    if found["seconds"] is not None:
        return _of_stamp(found)
    if found["second"] is not None:
        return float(found["second"])
    if found["word_minutes"] is None and found["word_seconds"] is None:
        return None
    return 60.0 * float(found["word_minutes"] or 0) + float(found["word_seconds"] or 0)


def _of_stamp(found: re.Match[str]) -> float:
    return 3600.0 * int(found["hours"] or 0) + 60.0 * int(found["minutes"]) + float(found["seconds"])
