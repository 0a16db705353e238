"""Cascades, gears and providers in the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pytest

from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.scenario import Flow, Scenario, Stage
from benchmarks.capacity.simulator import simulate
from benchmarks.capacity.simulator.routes import routes
from benchmarks.simulator import poisson
from serve.calibration.file import Calibration, CurvePoint, StepCalibration
from serve.config.cascades import Accept, Cascade, CascadeStep, Fallback, Gear, Shadow
from serve.config.resilience import Hedge, Resilience, Retries, Target
from serve.errors import ConfigError
from serve.resilience.settings import settings_of
from tests.support import made_up

_CURVE = tuple(
    CurvePoint(threshold=threshold, accepted=accepted, agreement=0.99, lower=0.98)
    for threshold, accepted in ((0.95, 0.6), (0.9, 0.8), (0.7, 0.95))
)


def _calibration(threshold: float) -> Calibration:
    step = StepCalibration(
        checkpoint="made-up",
        temperature=1,
        threshold=threshold,
        target=0.98,
        confidence=0.95,
        samples=1000,
        labels_used=1000,
        ece_before=0,
        ece_after=0,
        curve=_CURVE,
    )
    return Calibration(cascade="moderation", made=date(2026, 1, 1), steps={"screen": step})


def _cascade(threshold: float | None = 0.9, **changes: Any) -> Cascade:
    first = CascadeStep(name="screen", use="clip", task="classify", accept=Accept(rule="confidence", at_least=0.5))
    second = changes.pop("second", CascadeStep(name="analyse", use="llava", task="choose", max_tokens=8))
    calibration = None if threshold is None else _calibration(threshold)
    return Cascade(answer="label", labels=("a", "b"), steps=(first, second), calibration=calibration, **changes)


def _scenario(cascade: Cascade, *more: Stage, flow: dict[str, Any] | None = None, **changes: Any) -> Scenario:
    stages = (made_up.stage("clip"), made_up.stage("llava", seconds=0.05), *more)
    flows = (Flow(name="all", entry="moderation", **(flow or {})),)
    return made_up.scenario(*stages, flows=flows, cascades={"moderation": cascade}, **changes)


def _share(done: Outcome, path: str) -> float:
    return done.summary().path_share[path]


@pytest.mark.parametrize(("threshold", "accepted"), [(0.95, 0.6), (0.9, 0.8), (0.7, 0.95), (0.8, 0.95), (1.5, 0.0)])
def test_what_a_step_accepts_is_what_its_calibration_says(threshold: float, accepted: float) -> None:
    done = simulate(_scenario(_cascade(threshold)), poisson(20, 20_000, 1), seed=1)
    assert _share(done, "screen") == pytest.approx(accepted, abs=0.01)
    assert _share(done, "analyse") == pytest.approx(1 - accepted, abs=0.01)


def test_a_flow_that_states_a_share_overrules_the_calibration() -> None:
    done = simulate(_scenario(_cascade(0.9), flow={"escalated": {"screen": 0.35}}), poisson(20, 20_000, 2), seed=2)
    assert _share(done, "analyse") == pytest.approx(0.35, abs=0.01)


def test_an_escalated_request_takes_both_steps() -> None:
    done = simulate(_scenario(_cascade(0.9)), np.arange(0, 200, 1.0), seed=3)
    handed_on = done.path == done.paths.index("analyse")
    assert done.latency_s[~handed_on] == pytest.approx(0.01)
    assert done.latency_s[handed_on] == pytest.approx(0.06)


def test_nothing_says_what_an_uncalibrated_step_hands_on() -> None:
    with pytest.raises(ConfigError, match=r"screen.*hands on"):
        simulate(_scenario(_cascade(None)), np.array([1.0]), seed=1)


def test_a_gear_shifts_as_its_gear_box_says_and_changes_what_is_accepted() -> None:
    gear = Gear(name="busy", above_requests_per_s=50, thresholds={"screen": 0.7})
    made = _scenario(_cascade(0.95, gears=(gear,), gear_hold_s=2.0))
    calm, rush = np.arange(0, 60, 1 / 20), np.arange(60, 90, 1 / 200)
    after = np.arange(90, 180, 1 / 20)
    done = simulate(made, np.concatenate([calm, rush, after]), seed=4)
    screened = done.path == done.paths.index("screen")

    def accepted(start: float, end: float) -> float:
        return float(screened[(done.arrived_s >= start) & (done.arrived_s < end)].mean())

    assert accepted(0, 60) == pytest.approx(0.6, abs=0.05)
    assert accepted(61, 90) == pytest.approx(0.95, abs=0.02)
    # The load remembers ten seconds, and the gear is held for two more.
    assert accepted(120, 180) == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize(("routers", "accepted"), [(1, 0.95), (2, 0.6)])
def test_routers_shift_by_the_share_of_the_load_that_each_of_them_sees(routers: int, accepted: float) -> None:
    gear = Gear(name="busy", above_requests_per_s=50, thresholds={"screen": 0.7})
    made = _scenario(_cascade(0.95, gears=(gear,), gear_hold_s=2.0), router_replicas=routers)
    done = simulate(made, np.arange(0, 60, 1 / 80), seed=4)
    late = done.arrived_s > 20
    assert (done.path == done.paths.index("screen"))[late].mean() == pytest.approx(accepted, abs=0.02)


def test_no_gear_outlives_a_quiet_time() -> None:
    gear = Gear(name="busy", above_requests_per_s=50, thresholds={"screen": 0.7})
    made = _scenario(_cascade(0.95, gears=(gear,), gear_hold_s=2.0))
    rush = np.arange(0, 30, 1 / 200)
    # Within one tick, so that no request of it shifts the gear of those beside it; the load forgets in the meantime.
    again = 120 + np.linspace(0.01, 0.09, 40)
    done = simulate(made, np.concatenate([rush, again]), seed=4)
    screened = done.path == done.paths.index("screen")
    assert screened[done.arrived_s > 100].mean() == pytest.approx(0.6, abs=0.2)
    assert screened[(done.arrived_s > 5) & (done.arrived_s < 30)].mean() == pytest.approx(0.95, abs=0.02)


def test_a_gear_scales_a_stated_share_by_the_curve() -> None:
    gear = Gear(name="busy", above_requests_per_s=1, thresholds={"screen": 0.7})
    made = _scenario(_cascade(0.9, gears=(gear,)), flow={"escalated": {"screen": 0.1}})
    (first, *_) = routes(made).nodes
    assert first.accept == pytest.approx([0.9, 1 - 0.1 * 0.05 / 0.2])


def test_a_gear_shortens_answers() -> None:
    gear = Gear(name="busy", above_requests_per_s=1, max_tokens=2)
    made = _scenario(_cascade(0.9, gears=(gear,)))
    assert [node.most_tokens for node in routes(made).nodes if node.target == "llava"] == [[8, 2]]


def test_shadow_checks_load_the_next_step_and_delay_nobody() -> None:
    quiet = simulate(_scenario(_cascade(0.7)), poisson(5, 5000, 5), seed=5)
    checked = simulate(_scenario(_cascade(0.7, shadow=Shadow(share=0.5))), poisson(5, 5000, 5), seed=5)
    assert (checked.path == quiet.path).all()
    used = {name: checked.stages[name].busy_share / quiet.stages[name].busy_share for name in ("clip", "llava")}
    assert used["clip"] == pytest.approx(1.0, abs=0.01)
    assert used["llava"] == pytest.approx((0.05 + 0.95 * 0.5) / 0.05, rel=0.15)
    assert checked.ok.all()


def _hosted(fallback: Sequence[Fallback] = (), use: str = "hosted") -> CascadeStep:
    return CascadeStep(name="analyse", use=use, task="choose", fallback=tuple(fallback))


def _settings(**target: Any) -> Any:
    plain = {"hedge": Hedge(enabled=False), **target}
    return settings_of(Resilience(targets={"hosted": Target(**plain)}), "hosted", ours=False)


def test_a_provider_is_paid_for_what_it_answers() -> None:
    made = _scenario(_cascade(0.9, second=_hosted()), providers={"hosted": made_up.provider(0.5, usd=0.01)})
    done = simulate(made, poisson(20, 20_000, 6), seed=6)
    asked = done.path == done.paths.index("analyse")
    assert done.usd[asked] == pytest.approx(0.01)
    assert not done.usd[~asked].any()
    assert done.latency_s[asked].min() >= 0.5


def test_a_rate_limit_is_kept_and_waited_for_where_there_is_no_other_way() -> None:
    flows = (Flow(name="all", entry="hosted", deadline_s=3000),)
    limited = made_up.provider(0.1, requests_per_minute=60)
    made = made_up.scenario(made_up.stage(), flows=flows, providers={"hosted": limited})
    done = simulate(made, poisson(2, 600, 7), seed=7)
    ends = np.sort((done.arrived_s + done.latency_s)[done.ok])
    counted = np.searchsorted(ends, ends + 60) - np.arange(len(ends))
    assert counted.max() <= 60 + 60, "a minute's amount at once, and one a second after it"
    assert counted[len(counted) // 2] == pytest.approx(60, abs=2)
    assert done.latency_s.max() > 60


@pytest.mark.parametrize("stated", ["profile", "file"])
def test_a_limit_on_tokens_is_kept_beside_that_on_calls(stated: str) -> None:
    """Of 300 tokens a call, 9,000 tokens a minute are 30 calls."""
    step = _hosted([Fallback(on=("rate_limited",), use="llava")])
    calls = {} if stated == "profile" else {"hosted": _settings(tokens_per_minute=9_000)}
    own = 9_000 if stated == "profile" else None
    limited = made_up.provider(0.1, requests_per_minute=600, tokens_per_minute=own, tokens_per_call=300)
    made = _scenario(
        _cascade(0.9, second=step), flow={"escalated": {"screen": 1.0}}, providers={"hosted": limited}, calls=calls
    )
    done = simulate(made, np.arange(0, 600, 0.25), seed=8)
    assert done.ok.all()
    assert (done.usd > 0).sum() == pytest.approx(30 + 30 * 10, abs=3)


def test_a_limit_on_tokens_needs_to_know_what_a_call_takes() -> None:
    limited = made_up.provider(0.1, tokens_per_minute=100)
    made = _scenario(_cascade(0.9, second=_hosted()), providers={"hosted": limited})
    with pytest.raises(ConfigError, match="add tokens_per_call"):
        simulate(made, np.array([1.0]), seed=1)


def test_a_days_money_is_not_overspent_and_there_again_on_the_next() -> None:
    step = _hosted([Fallback(on=("over_budget",), use="llava")])
    made = replace(
        _scenario(
            _cascade(0.9, second=step),
            flow={"escalated": {"screen": 1.0}},
            providers={"hosted": made_up.provider(0.1, usd=0.01)},
        ),
        usd_per_day=1.0,
    )
    done = simulate(made, np.arange(0, 2 * 86_400, 60.0), seed=8)
    paid, first = done.usd > 0, done.arrived_s < 86_400
    assert (paid[first].sum(), paid[~first].sum()) == (100, 100)
    assert paid[:100].all() and done.ok.all(), "what has no money goes to the fallback"


def test_without_another_way_what_has_no_money_is_refused() -> None:
    made = replace(
        made_up.scenario(
            made_up.stage(),
            flows=(Flow(name="all", entry="hosted"),),
            providers={"hosted": made_up.provider(0.1, usd=0.01)},
        ),
        usd_per_day=0.1,
    )
    assert simulate(made, np.arange(0, 60, 1.0), seed=8).ok.sum() == 10


def test_a_used_up_rate_leads_to_the_fallback_at_once() -> None:
    step = _hosted([Fallback(on=("rate_limited",), use="llava")])
    limited = made_up.provider(0.1, requests_per_minute=30)
    flow = {"escalated": {"screen": 1.0}}
    made = _scenario(_cascade(0.9, second=step), flow=flow, providers={"hosted": limited})
    done = simulate(made, np.arange(0, 600, 0.25), seed=8)
    assert done.ok.all()
    paid = done.usd > 0
    assert paid.sum() == pytest.approx(30 + 30 * 10, abs=3)
    assert done.latency_s[~paid].max() < 0.1, "nobody waits for the rate who has another way to go"


def test_a_failing_provider_is_asked_again_unless_there_is_another_way() -> None:
    broken = made_up.provider(0.1, failure_share=0.3)
    flows = (Flow(name="all", entry="hosted"),)
    calls = {"hosted": _settings(retries=Retries(attempts=3))}
    made = made_up.scenario(made_up.stage(), flows=flows, providers={"hosted": broken}, calls=calls)
    done = simulate(made, poisson(5, 20_000, 9), seed=9)
    assert done.summary().failed_share == pytest.approx(0.3**3, abs=0.005)
    step = _hosted([Fallback(on=("unavailable",), use="llava")])
    made = _scenario(_cascade(0.9, second=step), flow={"escalated": {"screen": 1.0}}, providers={"hosted": broken})
    done = simulate(made, poisson(2, 10_000, 10), seed=10)
    assert done.ok.all()
    assert (done.usd == 0).mean() == pytest.approx(0.3, abs=0.02)


def test_a_hedge_cuts_the_tail_and_costs_a_second_call() -> None:
    latency = made_up.constant(0.1).model_copy(update={"seconds": (0.1,) * 8 + (0.1, 2.0, 4.0), "mean": 0.22})
    slow = made_up.provider(latency=latency)
    flows = (Flow(name="all", entry="hosted"),)
    plain, hedged = (
        simulate(
            made_up.scenario(
                made_up.stage(),
                flows=flows,
                providers={"hosted": slow},
                calls={"hosted": _settings(hedge=Hedge(enabled=enabled))},
            ),
            poisson(2, 10_000, 11),
            seed=11,
        ).summary()
        for enabled in (False, True)
    )
    assert hedged.p99_s < 0.3 * plain.p99_s
    assert hedged.usd_per_1000 == pytest.approx(1.05 * plain.usd_per_1000, rel=0.02)


def test_a_step_that_is_late_leaves_the_answer_in_hand() -> None:
    made = _scenario(
        _cascade(0.9, second=_hosted()), flow={"deadline_s": 1.0}, providers={"hosted": made_up.provider(9)}
    )
    done = simulate(made, np.arange(0, 100, 1.0), seed=12)
    assert done.ok.all()
    assert (done.path == done.paths.index("screen")).all()
    late = done.latency_s > 0.5
    assert late.mean() == pytest.approx(0.2, abs=0.1)
    # 5 % of the time is kept for giving it.
    assert done.latency_s[late] == pytest.approx(0.01 + 0.95 * 0.99)
    strict = replace(made, cascades={"moderation": _cascade(0.9, second=_hosted(), on_failure="error")})
    assert simulate(strict, np.arange(0, 100, 1.0), seed=12).ok.mean() == pytest.approx(0.8, abs=0.1)


def test_in_overflow_the_provider_is_asked_first() -> None:
    step = _hosted([Fallback(on=("unavailable",), use="hosted")], use="llava")
    gear = Gear(name="overflow", above_requests_per_s=5, api_overflow=True)
    made = _scenario(
        _cascade(0.9, second=step, gears=(gear,)),
        flow={"escalated": {"screen": 1.0}},
        providers={"hosted": made_up.provider(0.2)},
    )
    done = simulate(made, np.concatenate([np.arange(0, 30, 1.0), np.arange(30, 60, 0.1)]), seed=13)
    paid = done.usd > 0
    assert not paid[done.arrived_s < 30].any()
    assert paid[done.arrived_s > 32].all()


def test_a_router_refuses_what_it_has_no_place_for() -> None:
    made = made_up.scenario(made_up.stage(seconds=1.0), router_places=10)
    done = simulate(made, np.full(50, 1.0), seed=14)
    assert done.ok.sum() == 10
    assert not done.latency_s[~done.ok].any()


def test_an_engine_shares_its_steps() -> None:
    stage = made_up.stage("llava", profile=made_up.engine())
    flows = (Flow(name="all", entry="llava", output_tokens=10),)
    alone = simulate(made_up.scenario(stage, flows=flows), np.array([1.0]), seed=17)
    assert alone.latency_s[0] == pytest.approx(0.1)
    eight = simulate(made_up.scenario(stage, flows=flows), np.full(8, 1.0), seed=17)
    # The first comes alone; the seven others wait for its step to end.
    assert eight.latency_s.max() == pytest.approx(0.11)
    nine = simulate(made_up.scenario(stage, flows=flows), np.full(9, 1.0), seed=17)
    assert nine.latency_s.max() == pytest.approx(0.2), "eight places: the ninth waits for the first to end"


def test_each_token_wakes_the_replica_and_where_it_is_streamed_the_whole_way() -> None:
    def woken(*, streamed: bool, together: int, wake_s: float = 1e-4) -> dict[str, float]:
        profile = made_up.engine().model_copy(update={"cores": 1.0, "cpu_s": 1e-4, "wake_s": wake_s})
        names = ("wake_s", "ingress_wake_s", "client_wake_s")
        router = made_up.router(1e-4).model_copy(
            update={**dict.fromkeys(names, wake_s), "ingress_cpu_s": 1e-5, "client_cpu_s": 1e-5}
        )
        flow = Flow(name="all", entry="llava", prompt_tokens=4, output_tokens=5, streamed=streamed)
        made = made_up.scenario(made_up.stage("llava", profile=profile), flows=(flow,), router=router, cores=4.0)
        came = np.repeat(np.arange(1.0, 5.0), together)
        found = simulate(made, came, seed=1).woken
        return {whose: count / len(came) for whose, count in found.items()}

    assert woken(streamed=False, together=1) == {"router": 2, "replica": 6, "ingress": 1, "client": 1}
    assert woken(streamed=True, together=1) == {"router": 6, "replica": 6, "ingress": 5, "client": 1}
    free = woken(streamed=True, together=1, wake_s=0.0)
    assert free == {"router": 6, "replica": 6, "ingress": 5, "client": 1}, "the count does not hang on the cost"
    crowd = woken(streamed=True, together=4)
    assert all(1 < crowd[whose] < 3 for whose in ("router", "replica", "ingress")), "they share their steps"


def test_what_tokens_cost_others_goes_on_beside_the_engine() -> None:
    def latency_s(tokens: int, cores: float, cpu_s: float, wake_s: float) -> float:
        profile = made_up.engine().model_copy(update={"cores": 1.0, "cpu_s": cpu_s, "wake_s": wake_s})
        names = ("wake_s", "ingress_wake_s", "client_wake_s")
        router = made_up.router(1e-4).model_copy(update=dict.fromkeys(names, wake_s))
        flow = Flow(name="all", entry="llava", output_tokens=tokens, streamed=True)
        made = made_up.scenario(made_up.stage("llava", profile=profile), flows=(flow,), router=router, cores=cores)
        return float(simulate(made, np.array([1.0]), seed=1).latency_s[0])

    # A message is at one process after the other: with the engine, two cores are busy and no third is missing.
    more = latency_s(15, 2.0, 0.0, 0.002) - latency_s(5, 2.0, 0.0, 0.002)
    assert more == pytest.approx(10 * 0.010)
    # Of the replica's six messages, the request and the last token are waited for.
    assert latency_s(5, 8.0, 0.006, 0.0) - latency_s(5, 8.0, 0.0, 0.0) == pytest.approx(2 * 0.001)


def test_a_long_prompt_is_read_in_chunks_beside_those_who_write() -> None:
    stage = made_up.stage("llava", profile=made_up.engine(prompt_tokens_a_step=100, prompt_token_s=1e-4))
    flows = (Flow(name="all", entry="llava", prompt_tokens=1000, output_tokens=1),)
    done = simulate(made_up.scenario(stage, flows=flows), np.array([1.0]), seed=18)
    assert done.latency_s[0] == pytest.approx(10 * 0.01 + 1000 * 1e-4)
    prompts, outputs = np.array([1, 1000], np.int32), np.array([50, 1], np.int32)  # a 0 would leave it to the flow
    both = simulate(made_up.scenario(stage, flows=flows), np.array([1.0, 1.005]), seed=18, tokens=(prompts, outputs))
    assert both.ok.all()
    assert both.latency_s[0] == pytest.approx(50 * 0.01 + 1001 * 1e-4 + 1e-4, rel=0.02)


def test_what_a_recording_does_not_say_of_tokens_the_flow_says() -> None:
    stage = made_up.stage("llava", profile=made_up.engine(prompt_token_s=1e-4))
    made = made_up.scenario(stage, flows=(Flow(name="all", entry="llava", prompt_tokens=50, output_tokens=20),))
    times = np.array([1.0, 11.0, 21.0, 31.0])
    by_flow = simulate(made, times, seed=18).latency_s
    tokens = np.array([0, 50, 0, 10], np.int32), np.array([20, 0, 0, 5], np.int32)
    told = simulate(made, times, seed=18, tokens=tokens).latency_s
    assert told[:3] == pytest.approx(by_flow[:3])
    assert told[3] < by_flow[3]


def test_more_sequences_than_a_step_has_tokens_take_turns_in_their_order() -> None:
    """Eight that write ten tokens each, two tokens a step: forty steps, whoever came first is done first."""
    stage = made_up.stage("llava", profile=made_up.engine(prompt_tokens_a_step=2, kv_tokens=200))
    flows = (Flow(name="all", entry="llava", prompt_tokens=1, output_tokens=10),)
    done = simulate(made_up.scenario(stage, flows=flows), 1.0 + 1e-5 * np.arange(8), seed=18)
    assert done.ok.all()
    ended = np.round((done.arrived_s + done.latency_s - 1.0) / 0.01).astype(int)
    # The first has its first step alone, the others follow two by two; the last has a step of its own as well.
    assert ended.tolist() == [10, 11, 20, 21, 30, 31, 40, 41]
    # Each of the eight is in ten of the forty-one steps: nobody is admitted for whom no token is left.
    assert done.stages["llava"].mean_batch == pytest.approx(80 / 41)


def test_prompts_longer_than_a_step_wait_for_what_those_before_them_leave() -> None:
    """Two prompts of 30 tokens, 10 a step: the second is read after the first, which then writes beside it."""
    stage = made_up.stage("llava", profile=made_up.engine(prompt_tokens_a_step=10, kv_tokens=200))
    flows = (Flow(name="all", entry="llava", prompt_tokens=30, output_tokens=5),)
    done = simulate(made_up.scenario(stage, flows=flows), np.array([1.0, 1.0]), seed=18)
    assert done.ok.all()
    # Steps 1 to 3 read the first; steps 4 to 7 write a token of its answer each, and read 9, 9, 9 and 3 of the second.
    assert np.sort(done.latency_s) == pytest.approx([0.07, 0.11])


def test_a_full_cache_puts_the_last_comer_off_and_loses_nobody() -> None:
    stage = made_up.stage("llava", profile=made_up.engine(kv_tokens=120))
    flows = (Flow(name="all", entry="llava", prompt_tokens=20, output_tokens=60),)
    done = simulate(made_up.scenario(stage, flows=flows), np.full(6, 1.0), seed=19)
    assert done.ok.all()
    assert done.latency_s.max() > 3 * done.latency_s.min()


def test_what_no_cache_could_hold_is_refused() -> None:
    stage = made_up.stage("llava", profile=made_up.engine(kv_tokens=120))
    flows = (Flow(name="all", entry="llava", prompt_tokens=100, output_tokens=60),)
    assert not simulate(made_up.scenario(stage, flows=flows), np.array([1.0]), seed=20).ok.any()
