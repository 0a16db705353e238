"""Replicas on one GPU slow each other down, by as much as the others use it."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.capacity.planner.candidate import cluster_of, scenario_of
from benchmarks.capacity.planner.judge import Judge
from benchmarks.capacity.planner.search import search
from benchmarks.capacity.planner.sharing import shared, slowdown
from benchmarks.capacity.scenario import Flow, Scenario, scenario
from benchmarks.capacity.simulator import simulate
from benchmarks.traffic.arrivals import Poisson
from deployments.gpu import Claim, spread
from serve.config.load import parse
from tests.unit import planner_cases as cases


@pytest.mark.parametrize(
    ("others", "factor"),
    [
        ([], 1.0),
        ([0.0, 0.0], 1.0),
        ([0.2], 1.25),
        ([0.1, 0.3], 1 / 0.6),
        ([0.9], 2.0),  # one turn of two, and not of ten
        ([1.0, 1.0, 0.0], 3.0),
    ],
)
def test_a_pass_takes_longer_by_what_the_others_use(others: list[float], factor: float) -> None:
    assert slowdown(others) == pytest.approx(factor)


def test_replicas_are_known_by_gpu() -> None:
    claims = [Claim("whole", 32, 1), Claim("big", 10, 2), Claim("small", 4, 3)]
    found = spread(claims, 2, 16, nodes=3)
    assert not found.homeless
    assert found.models == ((), (), ("big", "small"), ("small",), ("big", "small"), ())


def made(replicas: int, rate: float, gpus: int = 1, nodes: int = 1, most: int = 0) -> Scenario:
    pool = {"gpu": "A100", "gpus": gpus, "gpu_memory_gb": 80, "cpus": 64, "memory_gb": 200, "min_nodes": nodes}
    content: dict[str, Any] = cases.cluster().model_dump(mode="json", exclude_unset=True)
    content["node_pools"] = {"here": {**pool, "max_nodes": nodes}}
    content["models"]["clip"] |= {
        "autoscaling": {"min_replicas": replicas, "max_replicas": most or replicas},
        "batching": {"max_items": 32},
        "placement": {"preprocess_workers": 16},
    }
    content["router"]["replicas"] = 4
    base = parse(content, calibrations=False)
    found = scenario(base, {"here": cases.PROFILES["a100"]}, cases.CLASSIFIED, autoscale=bool(most))
    return shared(found, base, rate)


def test_a_gpu_gives_no_more_with_many_replicas_on_it_than_with_one() -> None:
    """An A100 of this world does 32 items in 37 ms: 865 a second."""
    capacity = 32 / 0.037
    for replicas in (1, 4, 8):
        many = made(replicas, 3 * capacity)
        assert many.stages["clip"].slowdown == pytest.approx(replicas)
        arrivals = Poisson(rate_per_s=3 * capacity).times(20.0, 1)
        done = simulate(many, arrivals, seed=1, start_s=5.0, end_s=20.0)
        assert done.answers_per_s(None) == pytest.approx(capacity, rel=0.05)


def test_replicas_on_nodes_of_their_own_are_alone() -> None:
    assert made(4, 1000, nodes=4).stages["clip"].slowdown == 1
    two_a_gpu = made(4, 600, nodes=2).stages["clip"].slowdown
    assert two_a_gpu == pytest.approx(1 / (1 - 600 / 4 / (32 / 0.037)), rel=0.01)


def test_what_scales_shares_its_gpu_with_as_many_as_the_load_takes() -> None:
    capacity = 32 / 0.037
    assert made(1, 0.5 * capacity, most=8).stages["clip"].slowdown == 1
    assert made(1, 3 * capacity, most=8).stages["clip"].slowdown == pytest.approx(5)  # 3 / 0.7 replicas
    assert made(1, 3 * capacity, most=2).stages["clip"].slowdown == pytest.approx(2)


def test_a_models_memory_alone_costs_others_no_time() -> None:
    flows = (Flow(name="all", entry="llava", prompt_tokens=20, output_tokens=10),)
    base = cases.cluster()
    found = shared(scenario(base, {"here": cases.PROFILES["t4"]}, flows), base, 5.0)
    assert found.stages["llava"].slowdown == 1


def test_a_plans_file_is_simulated_as_the_plan_was() -> None:
    """What `argus plan` says of a shared GPU and what `argus simulate` says of the file that it writes."""
    asked = cases.problem(40, "p99=5s", flows=cases.SCREENED, nodes=cases.catalogue(t4_usd=9.0), apis=False)
    candidate = search(asked, Judge(asked)).candidate
    assert candidate is not None
    planned = scenario_of(asked, candidate)
    assert planned is not None
    cluster = cluster_of(asked, candidate)
    read = shared(
        scenario(cluster, {name: cases.PROFILES[name] for name in cluster.node_pools}, asked.flows), cluster, 40.0
    )
    assert {one.pool for one in planned.stages.values()} == {"a100"}
    for name, stage in planned.stages.items():
        assert stage.slowdown > 1
        assert read.stages[name].slowdown == pytest.approx(stage.slowdown)
