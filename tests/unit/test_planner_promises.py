"""What a plan promises beyond its runs: a node lost, nodes to be had, prices and rates. The simulator is arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from benchmarks import planner as benchmark
from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.planner.candidate import Candidate, assemble, cluster_of, losses, scenario_of
from benchmarks.capacity.planner.catalogue import Catalogue
from benchmarks.capacity.planner.demand import Work, works
from benchmarks.capacity.planner.idle import Idle, Lone
from benchmarks.capacity.planner.judge import Judge
from benchmarks.capacity.planner.layout import Pool
from benchmarks.capacity.planner.objectives import Objective, parse_objective
from benchmarks.capacity.planner.options import Called, floor_s, hosted
from benchmarks.capacity.planner.problem import Problem, Wishes
from benchmarks.capacity.planner.question import Traffic, of_cluster
from benchmarks.capacity.planner.question import problem as asked_of
from benchmarks.capacity.planner.report import markdown
from benchmarks.capacity.planner.search import Found, search
from benchmarks.capacity.planner.solve import solve
from benchmarks.capacity.profiles import PROBABILITIES, Distribution
from benchmarks.capacity.scenario import Flow
from benchmarks.traffic.arrivals import Poisson, parse_arrivals
from benchmarks.traffic.replay import Replay
from serve.errors import ConfigError
from tests.unit.planner_cases import PROFILES, SCREENED, catalogue, cluster, problem
from tests.unit.planner_stub import Stub


def found(asked: Problem, stub: Stub) -> Candidate:
    result = search(asked, Judge(asked, simulate=stub))
    assert result.candidate is not None, [*result.refusals]
    return result.candidate


def question(traffic: Traffic, *slo: str, **given: Any) -> Problem:
    return asked_of(
        traffic,
        rate_per_s=given.get("rate"),
        arrivals=given.get("arrivals"),
        slo=[parse_objective(one) for one in slo],
        catalogue=catalogue(),
        profiles=PROFILES,
        wishes=Wishes(seconds=60, seeds=3),
    )


CALLED = Flow(name="called", entry="mini")


def test_a_cluster_that_may_lose_a_node_has_more_than_one_even_if_it_hosts_no_model() -> None:
    asked = problem(10, "p99=3s", flows=(CALLED,), survive_node_loss=True)
    candidate = found(asked, stub := Stub())
    assert sum(candidate.nodes.values()) == 2
    assert found(replace(asked, wishes=replace(asked.wishes, survive_node_loss=False)), Stub()).nodes == {"t4": 1}
    (lost,) = losses(candidate)
    assert lost.content == {}
    without = scenario_of(asked, candidate, lost=lost)
    assert without is not None and without.router_replicas == max(1, candidate.routers - 1)
    assert len(stub.seen) > 3


def test_routers_and_stores_must_have_room_on_the_nodes_that_are_left() -> None:
    asked = problem(10, "p99=3s", flows=(CALLED,))
    pool = Pool("t4", 2, (), ({}, {}), (8.0, 1.0))
    candidate = assemble(asked, (pool,), (), {})
    assert candidate is not None
    small, large = (scenario_of(asked, candidate, lost=lost) for lost in list(losses(candidate))[::-1])
    assert small is not None, "the large node is left"
    assert large is None, "one core has no room for a router's and a store's half"


def test_there_are_routers_for_the_busiest_second_of_a_burst() -> None:
    """Models that could take a burst are of no use when nobody lets it in."""
    pool = Pool("t4", 2, (), ({}, {}), (30.0, 30.0))

    def routers(arrivals: str) -> int:
        candidate = assemble(problem(flows=(CALLED,), arrivals=parse_arrivals(arrivals)), (pool,), (), {})
        assert candidate is not None
        return candidate.routers

    # One takes half a millisecond of its core for a request.
    assert routers("poisson:1000") == 1
    assert routers("mmpp:low=500,high=5500,low_s=18,high_s=2") == 4
    assert routers("poisson:4000") == 4


def test_what_is_spread_over_nodes_is_no_room() -> None:
    """A router asks for one core, and each of four nodes has three quarters of one."""
    asked = problem(10, "p99=3s", flows=(CALLED,))
    assert assemble(asked, (Pool("t4", 4, (), ({},) * 4, (0.75,) * 4),), (), {}) is None
    spread = assemble(asked, (Pool("t4", 2, (), ({},) * 2, (1.0, 0.5)),), (), {})
    assert spread is not None
    assert cluster_of(asked, spread).models["jobs"].placement.pool == "t4"


def test_spare_nodes_must_be_had_and_are_deployed() -> None:
    # Each T4 does 40 a second: 100 ask for three, and the availability for spare ones.
    stub = Stub(calls_per_s={"clip": 40})
    asked = problem(100, "p99=1s", nodes=catalogue(a100_usd=100), availability=0.9999)
    solution = solve(asked, what_ifs=False, simulate=stub, growth=10.0)
    (node,) = solution.plan.nodes
    assert node.rented > node.working == 3
    assert solution.cluster is not None
    pool = solution.cluster.node_pools["t4"]
    assert (pool.min_nodes, pool.max_nodes) == (node.rented, 12)
    few = replace(asked, catalogue=catalogue(a100_usd=100, max_nodes=node.rented - 1))
    plan = solve(few, what_ifs=False, simulate=stub).plan
    assert [one.name for one in plan.nodes] != ["t4"]


def test_calls_cost_what_they_cost_at_the_planned_rate_not_at_the_drawn_one() -> None:
    asked = problem(7, "p99=3s", flows=(CALLED,), seconds=30.0)
    verdict = Judge(asked, simulate=Stub(usd=0.002)).judge(found(asked, Stub()))
    assert verdict.calls_usd == pytest.approx(3600 * 7 * 0.002)


def test_a_mean_alone_does_not_let_requests_be_refused() -> None:
    traffic = of_cluster(cluster(), ["clip"], None)
    asked = question(traffic, "mean=100ms", rate=100)
    assert [one.label for one in asked.objectives] == ["mean <= 100 ms", "failed <= 0.1 %"]
    candidate = found(asked, Stub())
    stub = Stub(calls_per_s={"clip": 77 / candidate.placed["clip"][1].replicas})
    assert not Judge(asked, simulate=stub).judge(candidate).held


def test_the_goals_bound_on_failures_stays_where_nothing_else_counts_them() -> None:
    flows = (Flow(name="a", entry="clip", share=0.5), Flow(name="b", entry="clip", share=0.5))
    traffic = Traffic(cluster(), flows, 10.0, Poisson(rate_per_s=1), (Objective(quantile=0.98),), None)
    assert [one.label for one in question(traffic, "mean=1s").objectives] == ["mean <= 1000 ms", "failed <= 2 %"]
    assert [one.label for one in question(traffic, "a.p99=1s").objectives] == [
        "p99 <= 1000 ms of a",
        "failed <= 2 % of b",
    ]
    assert [one.label for one in question(traffic, "p99=1s").objectives] == ["p99 <= 1000 ms"]


def test_a_recording_takes_the_goals_rate_unless_it_has_its_own(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text("".join(json.dumps({"time_s": 0.5 * second}) + "\n" for second in range(400)))
    traffic = replace(of_cluster(cluster(), ["clip"], None), rate_per_s=20.0)

    def rate(text: str) -> float | None:
        process = question(traffic, arrivals=parse_arrivals(text)).arrivals
        assert isinstance(process, Replay)
        return process.rate_per_s

    assert rate(f"trace:{file}") == 20
    assert rate(f"trace:{file},rate=7") == 7
    assert question(traffic, arrivals=Poisson(rate_per_s=3)).arrivals == Poisson(rate_per_s=3)


def test_a_model_that_writes_must_be_told_how_much() -> None:
    for text in ("llava", "entry=llava,images=0", "entry=screen,escalated.first=0.1"):
        with pytest.raises(ConfigError, match="output_tokens"):
            question(of_cluster(cluster(), [text], None), rate=5)
    question(of_cluster(cluster(), ["entry=llava,output_tokens=5"], None), rate=5)


def test_a_heavy_tail_may_be_in_time() -> None:
    """A provider with a median of 0.81 s and a mean far above it holds p50 <= 900 ms."""
    seconds = (0.6, 0.61, 0.65, 0.7, 0.75, 0.81, 1.2, 2.0, 4.0, 9.0, 20.0)
    assert len(seconds) == len(PROBABILITIES)
    slow = Distribution(seconds=seconds, mean=1.4)

    def profiles(latency: Distribution) -> Any:
        return {
            name: one.model_copy(
                update={"providers": {n: p.model_copy(update={"latency": latency}) for n, p in one.providers.items()}}
            )
            for name, one in PROFILES.items()
        }

    asked = replace(problem(10, "p50=900ms", flows=(CALLED,)), profiles=profiles(slow))
    assert not list(Idle(asked).impossible({}))
    hopeless = replace(asked, objectives=(parse_objective("p50=500ms"),))
    ((who, why),) = Idle(hopeless).impossible({})
    assert who == "mini" and "at least 60" in why


def test_the_floor_of_a_stage_is_the_least_of_its_smallest_call() -> None:
    flows = (Flow(name="one", entry="clip", share=0.5), Flow(name="many", entry="clip", share=0.5, items=32))
    asked = problem(10, flows=flows)
    work = works(asked.cluster, flows)["clip"]
    profile = PROFILES["t4"].models["encoder"]
    least = profile.forward[0].seconds.seconds[0]
    assert floor_s(work, profile) == pytest.approx(0.002 + 0.001 + least)
    (option, *_) = hosted(asked, work, "t4", asked.catalogue.nodes["t4"])
    assert option.floor_s <= option.idle_s
    assert not list(Idle(problem(10, "p99=18ms")).impossible({"clip": Lone(0.5, 0.017)}))
    assert list(Idle(problem(10, "p99=18ms")).impossible({"clip": Lone(0.5, 0.0171)}))


def test_nodes_without_a_gpu_that_host_models_are_planned_alone() -> None:
    price = {"usd_per_hour": 0.1, "source": "a test", "date": date(2026, 11, 26)}
    node: dict[str, Any] = {"hardware": "cpu-demo", "cpus": 2, "memory_gb": 8, "prices": {"on_demand": price}}
    with pytest.raises(ValueError, match="planned alone"):
        Catalogue.model_validate({"nodes": {"demo": {**node, "max_nodes": 2}}})
    Catalogue.model_validate({"nodes": {"demo": {**node, "max_nodes": 1}}})


def test_a_price_that_a_node_has_not_is_named() -> None:
    shown = catalogue().model_dump()
    shown["nodes"]["t4"]["prices"].pop("spot")
    asked = problem(50, "p99=1s", price="spot", nodes=Catalogue.model_validate(shown))
    dear = replace(asked, catalogue=asked.catalogue.only(("t4", "a100")))
    plan = solve(dear, what_ifs=False, simulate=Stub()).plan
    assert {(one.name, one.price) for one in plan.nodes} <= {("t4", "on_demand"), ("a100", "spot")}
    text = markdown(plan.model_copy(update={"nodes": (plan.nodes[0].model_copy(update={"price": "on_demand"}),)}))
    assert "has no spot price" in text


def test_reasons_are_few_and_of_every_stage() -> None:
    gathered = Found()
    for number in range(30):
        gathered.refuse("clip", f"reason {number}")
        gathered.refuse("clip", f"reason {number}")
    gathered.refuse("llava", "its own")
    assert len(gathered.refusals) == 31
    plan = solve(problem(3000, "p99=1ms"), what_ifs=False, simulate=Stub()).plan
    assert 0 < len(plan.reasons) <= 11
    assert any("when idle" in reason for reason in plan.reasons)


def test_too_many_ways_to_place_models_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.capacity.planner import search as module

    asked = problem(60, "p99=3s", flows=SCREENED)
    every = search(asked, Judge(asked, simulate=Stub()))
    assert every.proven
    monkeypatch.setattr(module, "_MOST_ASSIGNMENTS", 30)
    fewer = search(asked, Judge(asked, simulate=Stub()))
    assert fewer.candidate is not None and not fewer.proven
    monkeypatch.setattr(module, "_MOST_ASSIGNMENTS", 3)
    with pytest.raises(ConfigError, match="--node"):
        search(asked, Judge(asked, simulate=Stub()))


def test_a_called_stage_has_the_floor_of_its_provider() -> None:
    asked = problem(20, "p99=3s", flows=SCREENED)
    work: Work = asked.works["llava"]
    from benchmarks.capacity.planner.options import called

    (api,) = called(asked, work)
    assert isinstance(api, Called)
    assert api.floor_s == PROFILES["t4"].providers["gpt-4o-mini"].latency.seconds[0] < api.idle_s


def test_the_benchmark_reports_gaps_and_held_out_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    import benchmarks.capacity.simulator as simulator

    monkeypatch.setattr(simulator, "simulate", Stub(latency_s=0.01))
    report = benchmark.run(instances=2, seed=1, plans=False, trace=None)
    assert [row["held_out_missed"] for row in report.rows] == [0, 0]
    for row in report.rows:
        assert row["gap"] == pytest.approx(row["usd_per_hour"] / row["exhaustive_usd"] - 1)
        assert any(row["case"] in miss for miss in report.misses) == (row["gap"] > 0.05)
    assert "trace" in " ".join(report.notes)


def test_the_benchmark_counts_held_out_runs_that_break_an_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    import benchmarks.capacity.simulator as simulator

    def late_elsewhere(scenario: Any, arrivals: Any, *, seed: int, **window: float) -> Outcome:
        return Stub(latency_s=60.0 if seed >= 10_000 else 0.01)(scenario, arrivals, seed=seed, **window)

    monkeypatch.setattr(simulator, "simulate", late_elsewhere)
    report = benchmark.run(instances=1, seed=1, plans=False, trace=None)
    assert report.rows[0]["held_out_missed"] == 10
    assert any("10 of 10 held-out runs missed" in miss for miss in report.misses)
