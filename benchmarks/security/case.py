"""One attempt: what is tried, what must come of it, and what did."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import httpx

REFUSED: Final = range(400, 500)


@dataclass(frozen=True, slots=True)
class Got:
    """What came of an attempt.

    Attributes:
        text: in a few words.
        ok: it is what must come of it.
    """

    text: str
    ok: bool


@dataclass(frozen=True, slots=True)
class Case:
    """One attempt.

    Attributes:
        group: the module that it is from.
        expected: in words.
        run: makes the attempt.
    """

    group: str
    attempt: str
    expected: str
    run: Callable[[], Got]


def try_it(case: Case) -> Got:
    """Runs a case; whatever it raises is a failed one."""
    try:
        return case.run()
    except Exception as error:
        return Got(f"{type(error).__name__}: {str(error)[:160]}", False)


def answered(
    answer: httpx.Response, statuses: Collection[int] = REFUSED, codes: Collection[str] = (), without: str = ""
) -> Got:
    """Judges an HTTP answer.

    Args:
        statuses: those that are right.
        codes: error codes that are right; none for any.
        without: must not stand in the body.
    """
    code = code_of(answer)
    ok = answer.status_code in statuses and (not codes or code in codes) and (not without or without not in answer.text)
    return Got(f"{answer.status_code} {code}".strip(), ok)


def code_of(answer: httpx.Response) -> str:
    """The error's code, empty without one."""
    try:
        body = answer.json()
    except ValueError:
        return ""
    if not isinstance(body, dict):
        return ""
    error = body.get("error")
    return str((error if isinstance(error, dict) else body).get("code") or "")
