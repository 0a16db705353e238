"""Waiting for one's turn among a few viewers is no overload; waiting for many is."""

from __future__ import annotations

import pytest

from deployments.rendering.turns import Turns
from tests.support.batch_gate import Recorder

PASS_S = 0.1
ROUND = 4


def standing(viewers: int, passes: int = 20) -> list[float]:
    """What is told after each pass while so many viewers ask again as soon as they are answered."""
    turns, told = Turns(Recorder(), ROUND), []
    for number in range(passes):
        wait = PASS_S * min(number, viewers - 1)
        turns.batch_ran(items=1, cost=1.0, forward_s=PASS_S, waits_s=[wait])
        told.append(turns.standing_wait_s)
    return told


@pytest.mark.parametrize("viewers", [1, 2, ROUND, ROUND + 1])
def test_viewers_up_to_a_round_wait_for_each_other_only(viewers: int) -> None:
    assert max(standing(viewers)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("viewers", [ROUND + 2, 3 * ROUND])
def test_what_more_viewers_wait_beyond_a_round_stands(viewers: int) -> None:
    assert standing(viewers)[-1] == pytest.approx(PASS_S * (viewers - 1 - ROUND))


def test_it_is_over_when_the_queue_is() -> None:
    turns = Turns(Recorder(), 2)
    for wait in (0.0, 0.0, 5.0):
        turns.batch_ran(items=1, cost=1.0, forward_s=PASS_S, waits_s=[wait])
    assert turns.standing_wait_s > 4
    turns.batch_ran(items=1, cost=1.0, forward_s=PASS_S, waits_s=[0.0])
    assert turns.standing_wait_s == 0


def test_the_observer_behind_it_sees_everything() -> None:
    seen = Recorder()
    turns = Turns(seen, 2)
    turns.batch_ran(items=1, cost=7.0, forward_s=PASS_S, waits_s=[0.5])
    turns.dropped("deadline")
    turns.retried_alone(3)
    assert (seen.ran, seen.drops, seen.retried) == ([(1, 7.0, [0.5])], ["deadline"], [3])
