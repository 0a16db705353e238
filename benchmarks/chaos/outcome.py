"""What became of the requests that were sent while something broke, and whether it may: pure functions.

A failure must have one of the codes that its fault can cause. What no fault excuses is a hang (no answer within the
request's deadline and a little more), an internal error, and an acknowledgement of something that is not there later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

OK: Final = "ok"
HANG: Final = "hang"
# A client that finds nobody at the other end, or whose connection is cut, gets no answer that could carry a code.
NO_CONNECTION: Final = "no_connection"
CUT: Final = "connection_lost"
_TRANSPORT: Final = frozenset({NO_CONNECTION, CUT})
# Defects, whatever broke: an error nobody thought of, one without a code, and an answer that is not right.
NO_CODE: Final = "no_code"
WRONG: Final = "wrong_answer"
_DEFECTS: Final = frozenset({HANG, "internal", "model_failed", NO_CODE, WRONG})
# See `recovery_s`; the first is for a kind of which none was answered before.
_UNKNOWN_S, _SPARE_S = 1.0, 0.5
# A process that was killed has ended by then, and who was connected to it knows; generous, for a busy machine.
_NOTICED_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Sent:
    """One request; times are seconds since the traffic began.

    Attributes:
        caller: which kind of traffic it belongs to.
        neighbour: the fault has nothing to do with what it asks for.
        due_s: when it was to be sent.
        ended_s: when its answer came, or when it was given up.
        code: `OK`, the error's code, or one of this module's.
    """

    caller: str
    neighbour: bool
    due_s: float
    ended_s: float
    code: str


@dataclass(frozen=True, slots=True)
class Broke:
    """When something broke: between these, in seconds since the traffic began."""

    from_s: float
    to_s: float

    def was_under_way(self, one: Sent) -> bool:
        """Whether it was sent before the break was over, or a moment later, and ended after it had begun."""
        return one.due_s <= self.to_s + _NOTICED_S and one.ended_s >= self.from_s


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a fault may do to requests.

    Attributes:
        codes: of failures of what it hits.
        cuts: requests under way when it broke may end with their connection. Nobody can answer these: HTTP leaves it to
            the client whether to repeat a request that got no answer (RFC 9110, 9.2.2).
        refuses: it hits what clients' connections end at: they are refused, and cut, until that is there again.
        neighbours: it hits what every request passes, or all that was on a machine: nothing is beside it.
        recovery_s: longest until requests are answered again; generous, since a busy machine starts processes slowly.
    """

    codes: frozenset[str] = frozenset()
    cuts: bool = False
    refuses: bool = False
    neighbours: bool = False
    recovery_s: float = 90.0

    def permits(self, one: Sent, broke: Broke) -> bool:
        """Whether a request may end so."""
        if one.code == OK:
            return True
        if one.code in _DEFECTS or (one.neighbour and not self.neighbours):
            return False
        if one.code in _TRANSPORT and self.refuses:
            return True
        return one.code in self.codes or (one.code == CUT and self.cuts and broke.was_under_way(one))


def recovery_s(sent: Sequence[Sent], fault_s: float) -> float:
    """Seconds from the fault to the end of the last request since that failed or kept waiting; 0 when none did.

    It kept waiting when it took more than twice as long as any of its kind before the fault, and half a second more.
    """
    usual: dict[str, float] = {}
    for one in sent:
        if one.code == OK and one.ended_s < fault_s:
            usual[one.caller] = max(usual.get(one.caller, 0.0), one.ended_s - one.due_s)

    def is_hit(one: Sent) -> bool:
        waited_s = one.ended_s - one.due_s
        return one.code != OK or waited_s > 2 * usual.get(one.caller, _UNKNOWN_S) + _SPARE_S

    return max((one.ended_s - fault_s for one in sent if one.ended_s >= fault_s and is_hit(one)), default=0.0)


def stall_s(sent: Sequence[Sent]) -> float:
    """The longest that a request was without its answer, good or bad, in seconds from when it was due."""
    return max((one.ended_s - one.due_s for one in sent), default=0.0)


def failures(sent: Sequence[Sent]) -> dict[str, int]:
    """How many requests failed, by code, the most frequent first."""
    return dict(Counter(one.code for one in sent if one.code != OK).most_common())


def misses(
    sent: Sequence[Sent], allowed: Allowed, broke: Broke, recovered_s: float | None, lost: Sequence[str]
) -> list[str]:
    """Why it is not as it should be, one line each.

    Args:
        recovered_s: see `recovery_s`; None when requests were not answered again.
        lost: what was acknowledged and is not there.
    """
    found = []
    forbidden = Counter((one.caller, one.code) for one in sent if not allowed.permits(one, broke))
    for (caller, code), count in sorted(forbidden.items()):
        found.append(f"{count} of {caller}: {code}")
    for caller in sorted({one.caller for one in sent}):
        if all(one.code != OK for one in sent if one.caller == caller):
            found.append(f"{caller}: no request was answered, so that nothing is shown")
    if recovered_s is None:
        found.append("not answered again")
    elif recovered_s > allowed.recovery_s:
        found.append(f"answered again only after {recovered_s:.1f} s")
    return found + [f"lost: {one}" for one in lost]


def row(sent: Sequence[Sent], recovered_s: float | None, retried: int | None, again: int | None) -> dict[str, Any]:
    """The figures of one fault.

    Args:
        retried: attempts after a failed one that the routers report.
        again: calls that reached a model for a request that had reached one before.
    """
    by_code = failures(sent)
    return {
        "sent": len(sent),
        "failed": sum(by_code.values()),
        "codes": ", ".join(f"{code} {count}" for code, count in by_code.items()) or None,
        "retried": retried,
        "again": again,
        "stall_s": stall_s(sent),
        "recovery_s": recovered_s,
    }
