"""What the policy for cascades decides, and what it never does."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.autoscaling import evidence, queue_rule
from serve.autoscaling.decide import Replicas, State, decide
from serve.autoscaling.evidence import Told
from serve.autoscaling.plan import Plan, Scaled
from serve.autoscaling.queue_rule import Waiting
from tests.unit.autoscaled import RULE, Autoscaled, plan


def _ramp(begin: float, slope: float, start: float = 5.0, most: float = 1e9) -> object:
    return lambda now: min(most, start + max(0.0, now - begin) * slope)


def test_replicas_are_wished_before_the_load_needs_them() -> None:
    """Two calls a second a replica; a fifth of the requests escalates, and they rise by half a request a second."""
    site = Autoscaled(_ramp(100, 0.5)).run(400)  # type: ignore[arg-type]
    for replicas in (5, 7, 9, 11):
        too_few = 100 + (2.0 * replicas / 0.2 - 5) / 0.5
        assert site.first_above(replicas) + 25 <= too_few, "with most of the time in mind that one takes to start"


def test_even_load_gets_what_it_needs_and_keeps_it() -> None:
    site = Autoscaled(lambda now: 25.0).run(600)
    assert set(site.targets[60:]) == {3}, "5 calls a second at 2 each"


def test_what_is_expected_is_the_first_steps_arrivals_times_the_share() -> None:
    site = Autoscaled(lambda now: 30.0, escalated=0.1).run(120)
    assert site.decisions[-1].calls_per_s == pytest.approx(3.0, rel=0.02)
    assert site.decisions[-1].by == "forecast"


def test_before_a_request_was_escalated_the_calibration_says_how_many_will_be() -> None:
    told = Autoscaled(lambda now: 50.0, share=0.2, escalated=0.0).run(16)
    unknown = Autoscaled(lambda now: 50.0, share=None, escalated=0.0).run(16)
    assert told.decisions[-1].calls_per_s == pytest.approx(50 * 0.2 * 50 / (50 + 16 * 50), rel=0.3)
    assert unknown.decisions[-1].calls_per_s == 0.0


def test_calls_that_no_cascade_made_count_as_well() -> None:
    site = Autoscaled(lambda now: 10.0, direct=lambda now: 5.0).run(120)
    assert site.decisions[-1].calls_per_s == pytest.approx(2.0 + 5.0, rel=0.02)


def test_what_is_shed_is_demand() -> None:
    kept, shed = Autoscaled(lambda now: 25.0).run(200), Autoscaled(lambda now: 25.0, shed=0.75).run(200)
    assert shed.target == kept.target == 3


def test_a_gear_does_not_hide_the_load() -> None:
    """In a gear less is escalated, for want of replicas: the share is that of the normal gear."""
    totals = {evidence.plain("moderation", "screen"): 1000.0, evidence.plain("moderation", "analyse"): 200.0}
    state, told = State(), dict[str, Told]()
    for second in range(1800):
        geared = second >= 20
        for name, count in (("screen", 10.0), ("analyse", 0.5 if geared else 2.0)):
            key = evidence.step("moderation", name)
            totals[key] = totals.get(key, 0.0) + count
            if not geared:
                totals[evidence.plain("moderation", name)] += count
        if second % 2 == 0:
            told = {"r": Told(float(second), dict(totals))}
        wanted, state = decide(plan(), state, told, {"llava": Replicas(0, 1, 1)}, float(second))
    assert wanted["llava"].calls_per_s == pytest.approx(2.0, rel=0.02)


def test_what_the_cache_answers_needs_no_replica() -> None:
    state, totals, told = State(), dict[str, float](), dict[str, Told]()
    for second in range(120):
        more = {
            evidence.step("moderation", "screen"): 50.0,
            evidence.plain("moderation", "screen"): 50.0,
            evidence.step("moderation", "analyse"): 10.0,
            evidence.plain("moderation", "analyse"): 10.0,
            evidence.asked("llava"): 10.0,
            evidence.missed("llava"): 4.0,
            evidence.came("llava"): 4.0,
        }
        totals = {name: totals.get(name, 0.0) + count for name, count in more.items()}
        if second % 2 == 0:
            told = {"r": Told(float(second), dict(totals))}
        wanted, state = decide(plan(), state, told, {"llava": Replicas(0, 2, 2)}, float(second))
    assert wanted["llava"].calls_per_s == pytest.approx(4.0, rel=0.1)


def test_the_curve_is_learnt_and_obeyed() -> None:
    """0.4 s alone and 0.1 s more for each other: 2 in progress take half as long again."""
    site = Autoscaled(
        lambda now: 100.0 if now > 200 else 10.0,
        rule=replace(RULE, calls_per_s=None),
        call_s=lambda ongoing: 0.4 + 0.1 * ongoing,
    ).run(600)
    assert site.decisions[-1].capacity_per_s == pytest.approx(2 / 0.6, rel=0.1)
    assert site.target in (6, 7), "20 calls a second at 3.3 each"


def test_calls_that_take_too_long_get_one_more_replica_at_a_time() -> None:
    """The file says 100 calls a second, and it is wrong."""
    site = Autoscaled(
        lambda now: 40.0,
        rule=replace(RULE, calls_per_s=100.0, max_wait_s=0.04),
        call_s=lambda ongoing: 0.3 + 0.2 * ongoing,
        escalated=0.05,
    ).run(300)
    more = [at for at, (before, after) in enumerate(pairwise(site.targets)) if after > before]
    assert more, "something was done about it"
    assert {site.targets[at + 1] - site.targets[at] for at in more} == {1}
    assert all(later - earlier > 40 for earlier, later in pairwise(more)), "and its effect awaited"
    assert site.decisions[more[0] + 1].by == "waits"


def test_a_start_that_takes_longer_is_looked_ahead_further() -> None:
    rule = replace(RULE, downscale_delay_s=200)
    quick = Autoscaled(_ramp(300, 0.5), rule=rule, start_s=10.0)  # type: ignore[arg-type]
    slow = Autoscaled(_ramp(300, 0.5), rule=rule, start_s=150.0)  # type: ignore[arg-type]
    for site in (quick, slow):  # one replica more was wished before, so that its start was seen
        site._rate = lambda now: 30.0 if now < 60 else 12.0 + max(0.0, now - 400) * 0.5  # type: ignore[assignment]
        site.run(700)
    assert slow.state.models["llava"].start_s == pytest.approx(95.0, abs=30.0), "halfway from 40 to 150"
    ahead = [next(at for at in range(405, 700) if site.targets[at] > site.targets[404]) for site in (quick, slow)]
    assert ahead[1] < ahead[0]


def test_a_rare_model_sleeps_until_a_call_is_likely_while_it_would_be_there() -> None:
    rule = replace(RULE, min_replicas=0)
    never = Autoscaled(lambda now: 5.0, rule=rule, escalated=0.0).run(200)
    assert set(never.targets) == {0}
    soon = Autoscaled(lambda now: 5.0, rule=rule, escalated=0.01).run(60)
    assert soon.target == 1, "five a hundred seconds, before Ray has counted any"
    seldom = Autoscaled(lambda now: 5.0, rule=rule, escalated=0.001).run(200)
    assert seldom.target == 0, "one in 200 s, and it would be there for 100"


def test_it_goes_to_sleep_when_nothing_came_for_the_delay() -> None:
    site = Autoscaled(lambda now: 5.0 if now < 100 else 0.0, rule=replace(RULE, min_replicas=0)).run(300)
    gone = site.targets.index(0, 60)
    assert 100 + RULE.downscale_delay_s <= gone <= 100 + RULE.downscale_delay_s + 20
    assert set(site.targets[gone:]) == {0}


def test_down_goes_to_the_most_of_the_delay_and_never_to_none_at_once() -> None:
    def rate(now: float) -> float:
        return 60.0 if now < 100 else 25.0 if 130 <= now < 140 else 0.0

    site = Autoscaled(rate, rule=replace(RULE, min_replicas=0)).run(400)
    peak = max(site.targets)
    assert peak >= 6
    steps = [target for target, after in pairwise(site.targets) if after < target]
    falls = [after for before, after in pairwise(site.targets) if after < before]
    assert falls[0] >= 3, "what was needed within the delay is kept"
    assert 0 not in falls[:-1]
    assert falls[-1] == 0
    assert steps[-1] == 1, "from one to none"


def test_when_the_routers_fall_silent_rays_rule_decides_as_if_it_had_all_along() -> None:
    site = Autoscaled(lambda now: 60.0).run(100)
    assert site.target > 3
    site.silent = True
    site.run(130)
    assert site.decisions[-1].by == "queue"
    assert site.decisions[-1].calls_per_s is None
    site.silent = False
    site.run(160)
    assert site.decisions[-1].calls_per_s == pytest.approx(12.0, rel=0.1), "and what came meanwhile is no jump"


_LOADS = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 30)), min_size=1, max_size=12)


def _steps(loads: list[tuple[int, int]]) -> tuple[list[float], int]:
    flat = [float(rate) for rate, seconds in loads for _ in range(seconds)]
    return flat, len(flat)


@settings(max_examples=60, deadline=None)
@given(loads=_LOADS, least=st.integers(0, 3), most=st.integers(3, 9), ongoing=st.integers(0, 90))
def test_the_bounds_are_kept(loads: list[tuple[int, int]], least: int, most: int, ongoing: int) -> None:
    rates, seconds = _steps(loads)
    site = Autoscaled(
        lambda now: rates[int(now)],
        rule=replace(RULE, min_replicas=least, max_replicas=most, calls_per_s=None),
        call_s=lambda n: 0.2 + 0.05 * n,
        ongoing=lambda now, running: ongoing,
    ).run(seconds)
    assert all(least <= target <= most for target in site.targets)


@settings(max_examples=60, deadline=None)
@given(loads=_LOADS, times=st.sampled_from([1.0, 1.5, 4.0]), ongoing=st.integers(0, 40))
def test_more_load_never_gets_fewer_replicas(loads: list[tuple[int, int]], times: float, ongoing: int) -> None:
    rates, seconds = _steps(loads)
    # No end of a delay within the run: which it is depends on when the load was last high.
    rule = replace(RULE, max_replicas=1000, downscale_delay_s=10_000)
    less = Autoscaled(lambda now: rates[int(now)], rule=rule, ongoing=lambda now, running: ongoing).run(seconds)
    more = Autoscaled(lambda now: times * rates[int(now)], rule=rule, ongoing=lambda now, running: times * ongoing).run(
        seconds
    )
    assert all(many >= few for few, many in zip(less.targets, more.targets, strict=True))


@settings(max_examples=60, deadline=None)
@given(loads=_LOADS, delay=st.sampled_from([20.0, 60.0]))
def test_it_never_flaps(loads: list[tuple[int, int]], delay: float) -> None:
    """What was wished is kept for the whole of the delay, and what comes down was never needed in that time."""
    rates, seconds = _steps(loads)
    rates += [0.0] * 200
    site = Autoscaled(lambda now: rates[int(now)], rule=replace(RULE, downscale_delay_s=delay)).run(seconds + 200)
    changes = [(at, after - before) for at, (before, after) in enumerate(pairwise(site.targets)) if after != before]
    for (up_at, up), (down_at, down) in pairwise(changes):
        if up > 0 > down:
            assert down_at - up_at >= delay


class _Rays:
    """Ray's rule by itself."""

    def __init__(self, rule: Scaled) -> None:
        self.rule, self.waiting = rule, Waiting()

    def decide(self, there: Replicas, now: float) -> int:
        decided, self.waiting = queue_rule.decide(
            self.rule, self.waiting, there.ongoing, there.running, there.target, now
        )
        return decided


@settings(max_examples=100, deadline=None)
@given(
    ongoing=st.lists(st.integers(0, 60), min_size=5, max_size=60),
    least=st.integers(0, 2),
    told=st.sampled_from(["nothing", "once", "long ago"]),
)
def test_without_evidence_it_is_rays_rule(ongoing: list[int], least: int, told: str) -> None:
    rule = replace(RULE, min_replicas=least, max_replicas=8, downscale_delay_s=20)
    rays, state, target, theirs = _Rays(rule), State(), max(1, least), max(1, least)
    word = {"nothing": {}, "once": {"r": Told(0.0, {})}, "long ago": {"r": Told(-100.0, {})}}[told]
    for second, count in enumerate(ongoing):
        now = 2.5 * second
        theirs = rays.decide(Replicas(count, theirs, theirs), now)
        wanted, state = decide(Plan({"llava": rule}, ()), state, word, {"llava": Replicas(count, target, target)}, now)
        target = wanted["llava"].replicas
        assert target == theirs
        assert wanted["llava"].by == "queue"


@settings(max_examples=60, deadline=None)
@given(loads=_LOADS, ongoing=st.integers(0, 60))
def test_it_never_wants_fewer_than_rays_rule(loads: list[tuple[int, int]], ongoing: int) -> None:
    rates, seconds = _steps(loads)
    rule = replace(RULE, downscale_delay_s=30)
    site = Autoscaled(lambda now: rates[int(now)], rule=rule, ongoing=lambda now, running: ongoing).run(seconds)
    rays, target = _Rays(rule), 1
    for second, ours in enumerate(site.targets):
        target = rays.decide(Replicas(ongoing, target, target), float(second))
        assert ours >= target


def test_counts_that_begin_anew_are_no_step_back() -> None:
    """A router replica that was replaced begins at 0, under a name of its own; one that forgot, under the same."""
    state, wanted = State(), {}
    for second in range(0, 240, 2):
        since = second if second < 120 else second - 120
        totals = {evidence.came("llava"): 5.0 * since}
        wanted, state = decide(
            plan(), state, {"r": Told(float(second), totals)}, {"llava": Replicas(0, 3, 3)}, float(second)
        )
        if second > 30:
            assert wanted["llava"].calls_per_s == pytest.approx(5.0, rel=0.25)


def test_several_routers_are_counted_together() -> None:
    state, wanted = State(), {}
    for second in range(120):
        told = {
            f"r{router}": Told(
                float(second - (second + router) % 3), {evidence.came("llava"): 3.0 * (second - (second + router) % 3)}
            )
            for router in range(3)
        }
        wanted, state = decide(plan(), state, told, {"llava": Replicas(0, 5, 5)}, float(second))
    assert wanted["llava"].calls_per_s == pytest.approx(9.0, rel=0.05)
