"""What a live view draws next, as a pure decision."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from serve.scenes.viewer_state import FULL, RISING, Draw, End, Rules, Wait, Watching, next_step, outdated

RULES = Rules(gap_s=0.1, window=2, idle_s=10.0, messages_per_s=5)
EVENTS = ("wish", "draw", "late", "see", "fail", "tick")


def view(**said: object) -> Watching[str]:
    return Watching(0.0, **said)  # type: ignore[arg-type]


def test_nothing_is_drawn_before_the_first_camera() -> None:
    assert next_step(view(), RULES, 1.0) == Wait(10.0)


def test_the_latest_camera_wins() -> None:
    state = view().wished("a", FULL)
    assert next_step(state, RULES, 1.0) == Draw("a", 1.0)
    state = state.began(1.0, RULES).wished("b", FULL).wished("c", FULL)
    assert next_step(state, RULES, 1.05) == Wait(10.0)  # nobody knows how long that one takes
    state = state.showed(1, 0.04)
    assert next_step(state, RULES, 1.05) == Wait(1.1)  # not too soon
    assert next_step(state, RULES, 1.1) == Draw("c", 1.0)
    state = state.began(1.1, RULES).showed(2, 0.04)
    assert next_step(state, RULES, 5.0) == Wait(10.0)
    assert state.sent == 2


def test_the_next_picture_is_begun_when_the_one_in_work_is_presumably_drawn() -> None:
    state = view().wished("a", FULL).began(0.0, RULES).showed(1, 0.5)
    state = state.wished("b", FULL).began(1.0, RULES).wished("c", FULL)
    assert next_step(state, RULES, 1.4) == Wait(1.45)
    state = state.wished("d", FULL)
    assert next_step(state, RULES, 1.45) == Draw("d", 1.0)
    state = state.began(1.45, RULES).wished("e", FULL)
    assert next_step(state, RULES, 3.0) == Wait(10.0)  # two, however late the first is
    assert next_step(state.showed(2, 2.0), RULES, 3.0) == Wait(3.25)


def test_a_picture_that_a_newer_one_has_overtaken_is_not_sent() -> None:
    state = view().wished("a", FULL).began(0.0, RULES).wished("b", FULL).began(0.5, RULES)
    state = state.showed(2, 0.1)
    assert state.overtaken(1) and not state.overtaken(3)
    assert state.dropped(1).work == () and state.dropped(1).sent == 1


def test_how_long_a_picture_takes_is_known_of_its_own_effort_only() -> None:
    state = view().wished("a", RISING).began(0.0, RULES).showed(1, 0.2).began(1.0, RULES)
    assert state.work[0].effort == RISING[1]
    assert next_step(state, RULES, 5.0) == Wait(10.0)
    moved = view().wished("a", RISING).began(0.0, RULES).showed(1, 0.2).wished("b", RISING).began(1.0, RULES)
    assert next_step(moved.wished("c", RISING), RULES, 1.18) == Draw("c", RISING[0])


def test_a_radiance_field_becomes_better_while_the_camera_rests() -> None:
    state = view().wished("a", RISING)
    efforts = []
    now = 0.0
    while isinstance(step := next_step(state, RULES, now), Draw):
        efforts.append(step.effort)
        state = state.began(now, RULES)
        state = state.showed(state.begun, 1.0)
        now += RULES.gap_s
    assert efforts == list(RISING)


def test_only_a_better_picture_of_what_has_passed_is_given_up() -> None:
    first = view().wished("a", RISING).began(0.0, RULES)
    assert not outdated(first.wished("b", RISING))
    second = first.showed(1, 0.1).began(1.0, RULES)
    assert outdated(second.wished("b", RISING)) == {2}
    assert not outdated(second.acknowledged(1))
    given_up = second.wished("b", RISING).dropped(2)
    assert next_step(given_up, RULES, 2.0) == Draw("b", RISING[0])


def test_a_viewer_who_says_what_it_sees_is_sent_no_more_than_it_can_take() -> None:
    state = view().acknowledged(0)
    for now in (0.0, 1.0):
        state = state.wished("a", FULL)
        assert isinstance(next_step(state, RULES, now), Draw)
        state = state.began(now, RULES).showed(1 + int(now), 0.1)
    state = state.wished("b", FULL)
    assert next_step(state, RULES, 3.0) == Wait(10.0)
    assert next_step(state.acknowledged(1), RULES, 3.0) == Draw("b", 1.0)
    assert state.acknowledged(99).seen == 2  # what was never sent cannot be seen
    working = state.acknowledged(1).began(3.0, RULES).wished("c", FULL)
    assert next_step(working, RULES, 4.0) == Wait(10.0)  # the one in work will be the second


def test_what_could_not_be_drawn_is_tried_again() -> None:
    state = view().wished("a", FULL).began(0.0, RULES).postponed(1, 3.0)
    assert next_step(state, RULES, 1.0) == Wait(3.0)
    assert next_step(state, RULES, 3.0) == Draw("a", 1.0)
    both = view().wished("a", FULL).began(0.0, RULES).wished("b", FULL).began(0.5, RULES)
    assert next_step(both.postponed(1, 5.0).postponed(2, 3.0), RULES, 3.0) == Wait(5.0)  # the later of both


def test_a_view_ends_when_nothing_is_heard_or_too_much() -> None:
    state = view().wished("a", FULL)
    assert next_step(state, RULES, 10.0) == End("idle")
    assert next_step(state.told(9.0), RULES, 10.0) == Draw("a", 1.0)
    for _ in range(6):
        state = state.told(0.5)
    assert next_step(state, RULES, 0.6) == End("too_many_messages")
    assert next_step(state.told(1.6), RULES, 1.6) == Draw("a", 1.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.floats(0, 0.5)), max_size=60))
def test_whatever_happens_the_bounds_hold(events: Sequence[tuple[str, float]]) -> None:
    began: list[float] = []
    state, now, wishes, seen = view().acknowledged(0), 0.0, 0, 0
    rules = Rules(gap_s=0.1, window=2, idle_s=1e9, messages_per_s=10**9)
    for event, later in events:
        now += later
        if event == "wish":
            wishes += 1
            state = state.wished(str(wishes), RISING)
        elif event == "see":
            seen = state.sent
            state = state.acknowledged(seen)
        elif event in ("draw", "late", "fail") and state.work:
            number = state.work[-1 if event == "late" else 0].number
            if event == "fail":
                state = state.postponed(number, now + 0.2)
            else:
                state = state.dropped(number) if state.overtaken(number) else state.showed(number, 0.1)
        step = next_step(state, rules, now)
        if isinstance(step, Draw):
            assert step.wish == str(wishes)
            assert len(state.work) < 2 and state.sent + len(state.work) - seen < rules.window
            assert not began or now - began[-1] >= rules.gap_s - 1e-9
            began.append(now)
            state = state.began(now, rules)
        assert state.sent - seen <= rules.window
