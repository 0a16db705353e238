"""The judge of the chaos suite: it must see a hang, a lost item, an error nobody planned, and a neighbour's hurt."""

from __future__ import annotations

import pytest

from benchmarks.chaos.outcome import (
    CUT,
    HANG,
    NO_CONNECTION,
    OK,
    Allowed,
    Broke,
    Sent,
    failures,
    misses,
    recovery_s,
    row,
    stall_s,
)

AWAY = Allowed(frozenset({"unavailable"}), recovery_s=30.0)
NOW = Broke(0.5, 0.6)


def sent(*codes: str, caller: str = "classify", neighbour: bool = False) -> list[Sent]:
    """A request a second, each answered after a tenth of one."""
    return [Sent(caller, neighbour, float(i), i + 0.1, code) for i, code in enumerate(codes)]


def test_what_its_fault_explains_is_no_miss() -> None:
    assert misses(sent(OK, "unavailable", OK), AWAY, NOW, 1.0, []) == []


@pytest.mark.parametrize("code", [HANG, "internal", "model_failed", "no_code", "wrong_answer"])
def test_no_fault_explains_a_defect(code: str) -> None:
    allowed = Allowed(frozenset({code}), cuts=True, refuses=True, neighbours=True)
    assert misses(sent(OK, code, code), allowed, NOW, 1.0, []) == [f"2 of classify: {code}"]


def test_a_code_that_another_fault_would_explain() -> None:
    assert misses(sent(OK, "deadline_exceeded"), AWAY, NOW, 1.0, []) == ["1 of classify: deadline_exceeded"]


def test_a_connection_is_cut_when_it_breaks_and_no_later() -> None:
    cut = sent(OK, CUT)
    assert misses(cut, AWAY, NOW, 1.0, []) == [f"1 of classify: {CUT}"]
    assert misses(cut, Allowed(cuts=True), NOW, 1.0, []) == []
    late = [*sent(OK), Sent("classify", False, 30.0, 30.1, CUT)]
    assert misses(late, Allowed(cuts=True), NOW, 1.0, []) == [f"1 of classify: {CUT}"]
    early = Sent("classify", False, 0.0, 0.1, CUT)
    assert misses([*sent(OK), early], Allowed(cuts=True), NOW, 1.0, []) == [f"1 of classify: {CUT}"]
    assert misses(sent(OK, NO_CONNECTION), Allowed(cuts=True), NOW, 1.0, []) == [f"1 of classify: {NO_CONNECTION}"]


def test_connections_are_refused_where_they_end_only() -> None:
    refused = [*sent(OK, NO_CONNECTION), Sent("classify", False, 30.0, 30.1, CUT)]
    assert misses(refused, Allowed(refuses=True), NOW, 1.0, []) == []
    assert len(misses(refused, AWAY, NOW, 1.0, [])) == 2


def test_a_neighbour_is_unhurt() -> None:
    hurt = sent(OK, "unavailable", caller="neighbour", neighbour=True)
    assert misses([*sent(OK), *hurt], AWAY, NOW, 1.0, []) == ["1 of neighbour: unavailable"]
    assert misses(hurt, Allowed(AWAY.codes, neighbours=True), NOW, 1.0, []) == []


def test_what_is_lost_is_said() -> None:
    assert misses(sent(OK), AWAY, NOW, 0.0, ["item 7"]) == ["lost: item 7"]


def test_it_must_come_back_in_time() -> None:
    assert misses(sent(OK), AWAY, NOW, None, []) == ["not answered again"]
    assert misses(sent(OK), AWAY, NOW, 31.0, []) == ["answered again only after 31.0 s"]


def test_traffic_that_never_worked_shows_nothing() -> None:
    never = sent("unavailable", "unavailable", caller="jobs")
    (miss,) = misses([*sent(OK), *never], AWAY, NOW, 1.0, [])
    assert miss.startswith("jobs: no request was answered")


def test_recovery_is_the_end_of_the_last_failure_after_the_fault() -> None:
    some = sent("unavailable", OK, "unavailable", OK)
    assert recovery_s(some, fault_s=1.5) == pytest.approx(0.6)
    assert recovery_s(some, fault_s=2.5) == 0.0


def test_who_is_answered_late_has_not_recovered() -> None:
    late = Sent("classify", False, 2.0, 5.0, OK)
    not_so_late = Sent("classify", False, 6.0, 6.7, OK)  # twice the usual tenth of a second, and half of one
    assert recovery_s([*sent(OK, OK), late, not_so_late], fault_s=2.0) == pytest.approx(3.0)
    unknown = Sent("chat", False, 2.0, 4.4, OK)
    assert recovery_s([*sent(OK, OK), unknown], fault_s=2.0) == 0.0


def test_the_figures_of_a_row() -> None:
    some = [*sent(OK, "unavailable", "overloaded", "unavailable"), Sent("adds", False, 1.0, 5.5, OK)]
    assert failures(some) == {"unavailable": 2, "overloaded": 1}
    assert stall_s(some) == 4.5
    assert row(some, 2.0, retried=3, again=0) == {
        "sent": 5,
        "failed": 3,
        "codes": "unavailable 2, overloaded 1",
        "retried": 3,
        "again": 0,
        "stall_s": 4.5,
        "recovery_s": 2.0,
    }
    assert row(sent(OK), 0.0, None, None)["codes"] is None
