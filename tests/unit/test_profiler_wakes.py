"""What requests and wake-ups cost, fitted to runs of which both are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.capacity.profiler.busy import asking, loaded_figures, with_imbalance, with_works
from benchmarks.capacity.profiler.served import CLIENT, INGRESS, REPLICA, ROUTER
from benchmarks.capacity.profiler.wakes import WHOSE, Spent, Work, fitted, steady, works
from benchmarks.capacity.profiles import at_pace
from benchmarks.capacity.scenario import Flow, Scenario
from benchmarks.capacity.simulator import simulate
from serve.config.load import load_profile as load_cluster
from tests.support import made_up
from tests.unit.test_profiler import served
from tests.unit.test_profiles import hardware, one

TRUE = {
    ROUTER: Work(0.002, 0.001),
    REPLICA: Work(0.001, 0.0005),
    INGRESS: Work(0.0004, 0.0002),
    CLIENT: Work(0.001, 0.0),
}

# How often a request wakes each that has nothing else to do.
ALONE = {ROUTER: 2, REPLICA: 2, INGRESS: 1, CLIENT: 1}


def asked(costs: Mapping[str, Work], pace: float) -> Scenario:
    """One model on two cores; all of it takes `pace` times as long."""
    profile = made_up.model(made_up.passes((1, 0.004 * pace), (8, 0.012 * pace))).model_copy(
        update={"cores": 1.0, "cpu_s": costs[REPLICA].request_s * pace, "wake_s": costs[REPLICA].wake_s * pace}
    )
    router = made_up.router(costs[ROUTER].request_s * pace).model_copy(
        update={
            "wake_s": costs[ROUTER].wake_s * pace,
            "ingress_cpu_s": costs[INGRESS].request_s * pace,
            "ingress_wake_s": costs[INGRESS].wake_s * pace,
            "client_cpu_s": costs[CLIENT].request_s * pace,
            "client_wake_s": costs[CLIENT].wake_s * pace,
        }
    )
    return made_up.scenario(made_up.stage(profile=profile), router=router, cores=2.0)


def ran(rate: float, pace: float = 1.0) -> Spent:
    """A run of 30 s at that rate, and what it cost by `TRUE`, with draws of its own."""
    due = np.sort(np.random.default_rng(5).uniform(0, 30, round(30 * rate)))
    woken = simulate(asked(TRUE, pace), due, seed=7).woken
    costs = {whose: TRUE[whose].request_s + TRUE[whose].wake_s * woken[whose] / len(due) for whose in WHOSE}
    return Spent(replace(served([], [(at, at) for at in due.tolist()]), pace=pace), costs)


def idle() -> Spent:
    run = served([], [(float(at), float(at)) for at in range(20)])
    return Spent(run, {whose: TRUE[whose].request_s + ALONE[whose] * TRUE[whose].wake_s for whose in ALONE})


@pytest.mark.parametrize("pace", [1.0, 1.3])
def test_what_requests_and_wake_ups_cost_is_found(pace: float) -> None:
    found = works(asked, idle(), [ran(40, pace), ran(80, pace), ran(120, pace)])
    for whose, true in TRUE.items():
        assert found[whose].request_s == pytest.approx(true.request_s, rel=0.06), whose
        assert found[whose].wake_s == pytest.approx(true.wake_s, rel=0.06, abs=2e-5), whose


def test_what_requests_cost_after_long_pauses_does_not_count() -> None:
    """Two loaded runs say what an idle one would only blur."""
    alone = idle()
    cold = replace(alone, seconds={whose: 1.8 * seconds for whose, seconds in alone.seconds.items()})
    loaded = [ran(40), ran(120)]
    assert works(asked, cold, loaded) == works(asked, alone, loaded)
    assert works(asked, cold, loaded[1:])[ROUTER].wake_s > works(asked, alone, loaded[1:])[ROUTER].wake_s


def test_without_loaded_runs_a_request_costs_what_it_does_alone() -> None:
    assert works(asked, idle(), []) == steady(idle())
    assert steady(idle())[ROUTER] == Work(0.004)


def test_a_cost_that_rises_with_the_load_is_no_wake_up_that_pays() -> None:
    found = fitted([0.002, 0.003], [2.0, 1.2])
    assert found.wake_s == pytest.approx(0.0, abs=1e-9) and 0.002 < found.request_s < 0.003


def test_what_is_known_of_waking_is_not_fitted_anew() -> None:
    found = works(asked, idle(), [ran(120)], {ROUTER: 0.0005})
    assert found[ROUTER].wake_s == 0.0005
    assert found[ROUTER].request_s == pytest.approx(0.0028, rel=0.05), "the nearest to both runs"
    assert found[REPLICA].wake_s == pytest.approx(TRUE[REPLICA].wake_s, rel=0.1)


def test_a_request_has_a_cost_of_its_own_whatever_the_runs_look_like() -> None:
    """In proportion to the wake-ups, all of it could be theirs; then no load would ever be too much."""
    found = fitted([0.004, 0.002], [2.0, 1.0])
    assert found.request_s == pytest.approx(0.001, rel=1e-3) and found.wake_s > 0.001
    assert fitted([0.001], [2.0], 0.01) == Work(0.0005, 0.01)


def test_runs_that_were_not_answered_do_not_count() -> None:
    cluster = load_cluster("demo", calibrations=False)
    profile = hardware(clip=one()).model_copy(update={"cores": 2.0})
    refused = ran(120)
    columns = refused.run.requests
    failed = replace(columns, error=np.zeros(len(columns), np.int16), errors=("overloaded",))
    unsound = replace(refused, run=replace(refused.run, requests=failed))
    asked = asking(cluster, "clip", (Flow(name="asked", entry="clip"),))
    found = loaded_figures(asked, profile, idle(), [unsound], known=None)
    assert found == with_imbalance(with_works(profile, steady(idle())), 0.0)


def test_costs_are_put_where_the_simulator_looks_for_them() -> None:
    profile = with_works(hardware(clip=one()), TRUE)
    assert profile.router.cpu.mean == pytest.approx(0.002)
    slow = at_pace(profile.model_copy(update={"cores": 2.0}), 2.0)
    router, (model,) = slow.router, slow.models.values()
    assert (router.wake_s, router.ingress_wake_s, router.client_wake_s) == pytest.approx((0.002, 0.0004, 0.0))
    assert (router.ingress_cpu_s, router.client_cpu_s) == pytest.approx((0.0008, 0.002))
    assert (model.cpu_s, model.wake_s) == pytest.approx((0.002, 0.001))
