"""The planned cluster file: our own checks take it, and it keeps what the base file says and is not planned."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from benchmarks.capacity.planner.catalogue import load_catalogue
from benchmarks.capacity.planner.cluster_yaml import cluster_yaml
from benchmarks.capacity.planner.objectives import parse_objective
from benchmarks.capacity.planner.problem import Problem, Wishes
from benchmarks.capacity.planner.question import of_cluster
from benchmarks.capacity.planner.question import problem as asked_of
from benchmarks.capacity.planner.solve import Solution, solve
from benchmarks.capacity.profiles import shipped_profiles
from benchmarks.capacity.scenario import Flow
from serve.config.cluster import ClusterFile
from serve.config.load import load_profile, parse
from tests.unit import planner_cases as cases
from tests.unit.planner_stub import Stub


def planned(asked: Problem) -> Solution:
    """Without a simulation: what is looked at is what is written."""
    return solve(asked, what_ifs=False, simulate=Stub())


def written(solution: Solution) -> ClusterFile:
    """The file, as it is read again."""
    assert solution.cluster is not None, solution.plan.reasons
    return parse(yaml.safe_load(cluster_yaml(solution.cluster, solution.plan)))


@pytest.mark.parametrize(
    ("profile", "flow"),
    [
        ("cluster", "clip"),
        ("cluster", "entry=moderation,output_tokens=16,escalated.screen=0.05,escalated.analyse=0.1"),
        ("gpu", "clip"),
        ("gpu", "entry=vqa,output_tokens=16,escalated.quick=0.3,escalated.careful=0.1"),
        ("demo", "clip"),
        ("demo", "entry=moderation,output_tokens=16"),
    ],
)
def test_a_plan_of_a_shipped_cluster_file_loads(profile: str, flow: str) -> None:
    base = load_profile(profile)
    asked = asked_of(
        of_cluster(base, [flow], "cpu-demo" if profile == "demo" else None),
        rate_per_s=1.0,
        arrivals=None,
        slo=[parse_objective("p99=60s")],
        catalogue=load_catalogue(),
        profiles=shipped_profiles(),
        wishes=Wishes(seconds=900),
    )
    cluster = written(planned(asked))
    named = {one.cascade for one in cluster.objectives.slos.values()} - {None}
    assert named == {one.cascade for one in base.objectives.slos.values()} & cluster.cascades.keys()
    # What is promised of routes does not hang on a cascade.
    of_routes = {name for name, one in base.objectives.slos.items() if one.cascade is None}
    assert of_routes <= cluster.objectives.slos.keys()


def pools(preferred: str = "t4", *fallback: str) -> ClusterFile:
    """CLIP on a card and its fallbacks, LLaVA on an A100; two pools say how their nodes are found on Kubernetes."""
    pool: dict[str, Any] = {"gpu": "T4", "gpus": 1, "gpu_memory_gb": 16, "cpus": 8, "memory_gb": 32}
    spot = {"node_selector": {"pool": "t4-spot"}, "tolerations": [{"key": "spot"}], "idle_timeout_s": 90}
    model: dict[str, Any] = {"dtype": "float16", "gpu_memory_gb": 14}
    on = {"pool": preferred, "fallback_pools": fallback}
    return parse(
        {
            "name": "pools",
            "node_pools": {
                "t4": {**pool, "kubernetes": spot},
                "l4": {**pool, "gpu": "L4"},
                "a100": {**pool, "gpu": "A100", "gpu_memory_gb": 80, "kubernetes": {"priority": 3}},
            },
            "models": {
                "clip": {"kind": "clip", "checkpoint": "encoder", **model, "placement": on},
                "llava": {"kind": "llava", "checkpoint": "writer", **model, "placement": {"pool": "a100"}},
            },
        }
    )


def classified_and_written(rate: float, written_share: float, slo: str, base: ClusterFile, max_nodes: int) -> Problem:
    """More than an A100 does: what does not fit there is on T4."""
    flows = (
        Flow(name="classified", entry="clip", share=1 - written_share, deadline_s=5),
        Flow(name="written", entry="llava", share=written_share, prompt_tokens=20, output_tokens=40, deadline_s=20),
    )
    return cases.problem(rate, slo, flows=flows, base=base, nodes=cases.catalogue(t4_usd=0.4, max_nodes=max_nodes))


def test_fallback_pools_that_are_not_planned_are_left_out() -> None:
    cluster = written(planned(cases.problem(50, base=pools("t4", "l4", "a100"))))
    assert set(cluster.node_pools) == {"t4"}
    assert cluster.models["clip"].placement.fallback_pools == ()


def test_a_fallback_pool_that_is_planned_stays() -> None:
    # Idle, LLaVA takes longer than that on a T4.
    base = pools("t4", "l4", "a100")
    cluster = written(planned(classified_and_written(700, 0.02, "p99=1.5s", base, max_nodes=12)))
    assert (cluster.models["clip"].placement.pool, cluster.models["llava"].placement.pool) == ("t4", "a100")
    assert cluster.models["clip"].placement.fallback_pools == ("a100",)


def test_a_fallback_pool_with_smaller_cards_is_left_out() -> None:
    """There a replica's share of a GPU would be larger than planned, and Ray knows one share for all cards."""
    # One T4 does not do as much as CLIP is asked.
    base = pools("a100", "t4")
    cluster = written(planned(classified_and_written(700, 0.004, "p99=10s", base, max_nodes=1)))
    assert (cluster.models["clip"].placement.pool, cluster.models["llava"].placement.pool) == ("a100", "t4")
    assert cluster.models["clip"].placement.fallback_pools == ()


def test_a_pool_of_the_base_files_name_keeps_its_nodes_on_kubernetes() -> None:
    base = pools()
    cluster = written(planned(classified_and_written(700, 0.02, "p99=1.5s", base, max_nodes=12)))
    assert set(cluster.node_pools) == {"t4", "a100"}
    for name, pool in cluster.node_pools.items():
        assert pool.kubernetes == base.node_pools[name].kubernetes
