"""How replicas share nodes: fractions cover memory and time, and what is planned packs as Ray packs it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.capacity.planner.catalogue import NodeType
from benchmarks.capacity.planner.layout import Pool, _counts, every_layout, layouts, least_nodes
from benchmarks.capacity.planner.options import Hosted, Need
from deployments.gpu import Claim, pack
from tests.unit.planner_cases import catalogue, cluster, encoder, engine

T4 = catalogue().nodes["t4"]
A100 = catalogue().nodes["a100"]


def hosted(stage: str, capacity: float, memory_gb: float, overflow: str | None = None, cpu_s: float = 0.001) -> Hosted:
    profile = encoder(0.004, 0.01) if stage == "clip" else engine(0.04)
    return Hosted(stage, "t4", profile, 16, capacity, 0.02, memory_gb, cpu_s, overflow)


def need(calls: float, least: float | None = None) -> Need:
    return Need(calls, calls / 0.85 if least is None else least, 0.0, 0.5)


def first(node: NodeType, nodes: int, *stages: tuple[Hosted, Need]) -> Pool:
    return next(layouts(cluster(), "t4", node, nodes, stages))


def test_a_stage_alone_gets_whole_gpus() -> None:
    pool = first(T4, 3, (hosted("clip", 100, 4), need(200)))
    (placed,) = pool.placed
    assert placed.replicas == 3
    assert placed.fraction == 10_000
    assert placed.slowdown == 1
    assert placed.use == pytest.approx(200 / 300)
    assert [dict(node) for node in pool.contents] == [{"clip": 1}] * 3


def test_two_stages_share_a_gpu_in_proportion_to_what_they_need() -> None:
    """Time: 0.3 / 0.85 and 0.4 / 0.85 of the GPU; memory: a quarter and a half of it."""
    pool = first(T4, 1, (hosted("clip", 100, 4), need(30)), (hosted("llava", 10, 8), need(4)))
    clip, llava = pool.placed
    assert clip.fraction >= 0.3 / 0.85 * 10_000 - 1
    assert llava.fraction >= 0.5 * 10_000 - 1
    assert clip.fraction + llava.fraction <= 10_000
    assert clip.slowdown == pytest.approx(1 / (1 - 0.4))
    assert clip.use == pytest.approx(0.3 / 0.6)
    assert llava.use == pytest.approx(0.4 / 0.7)


def test_what_does_not_fit_yields_nothing() -> None:
    heavy = (hosted("clip", 100, 12), need(10)), (hosted("llava", 10, 12), need(1))
    assert not list(layouts(cluster(), "t4", T4, 1, heavy))
    busy = (hosted("clip", 100, 4), need(60)), (hosted("llava", 10, 4), need(5))
    assert not list(layouts(cluster(), "t4", T4, 1, busy))
    assert list(layouts(cluster(), "t4", T4, 2, busy))
    cores = (hosted("clip", 1000, 4, cpu_s=0.02), need(800))
    assert not list(layouts(cluster(), "t4", T4, 1, [cores]))


def test_a_node_without_a_gpu_holds_what_its_main_memory_holds() -> None:
    price = {"usd_per_hour": 0.1, "source": "a test", "date": date(2026, 11, 26)}
    given = {"hardware": "cpu-demo", "cpus": 4, "max_nodes": 1, "prices": {"on_demand": price}}
    stages = (hosted("clip", 100, 4), need(10)), (hosted("llava", 10, 2), need(1))
    for memory_gb, fits in ((6, True), (5.9, False)):
        node = NodeType.model_validate({**given, "memory_gb": memory_gb})
        assert bool(list(layouts(cluster(), "demo", node, 1, stages))) == fits
        assert bool(every_layout(cluster(), "demo", node, 1, stages)) == fits


def test_a_stage_that_overflows_may_be_asked_more_than_it_can_do() -> None:
    (placed,) = first(T4, 1, (hosted("clip", 100, 4, overflow="mini"), need(300))).placed
    assert placed.use == pytest.approx(3)


CASES = st.lists(st.tuples(st.floats(0.5, 15), st.floats(0.05, 2.5)), min_size=1, max_size=2)


@settings(max_examples=60, deadline=None)
@given(CASES, st.integers(1, 5))
def test_every_layout_packs_and_leaves_each_gpu_its_time(cases: list[tuple[float, float]], nodes: int) -> None:
    stages = [
        (hosted(name, 100, memory), need(100 * load))
        for name, (memory, load) in zip(("clip", "llava"), cases)  # noqa: B905
    ]
    for pool in itertools.islice(layouts(cluster(), "t4", T4, nodes, stages), 3):
        claims = [Claim(one.option.stage, one.fraction * 16 / 10_000, one.replicas) for one in pool.placed]
        assert not pack(claims, 1, 16, nodes=nodes).homeless
        for one, (option, wanted) in zip(pool.placed, stages, strict=True):
            assert one.fraction / 10_000 * 16 >= option.memory_gb - 0.01
            assert one.fraction / 10_000 >= wanted.least_per_s / option.capacity_per_s / one.replicas - 1e-3
            assert one.use < 1
        loads: Mapping[str, float] = {
            one.option.stage: wanted.calls_per_s / option.capacity_per_s / one.replicas
            for one, (option, wanted) in zip(pool.placed, stages, strict=True)
        }
        for content in pool.contents:
            assert sum(count * loads[stage] for stage, count in content.items()) <= 0.85 + 1e-3
        assert sum(content.get(one.option.stage, 0) for content in pool.contents for one in pool.placed) == sum(
            one.replicas for one in pool.placed
        )


@settings(max_examples=60, deadline=None)
@given(CASES)
def test_least_nodes_is_a_lower_bound(cases: list[tuple[float, float]]) -> None:
    stages = [
        (hosted(name, 100, memory), need(100 * load))
        for name, (memory, load) in zip(("clip", "llava"), cases)  # noqa: B905
    ]
    least = least_nodes(T4, stages, 0.85)
    assert all(not list(layouts(cluster(), "t4", T4, nodes, stages)) for nodes in range(1, least))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.floats(0.5, 12), st.floats(0.01, 1.5)), min_size=3, max_size=4), st.integers(2, 11))
def test_one_node_more_never_leaves_nothing_to_try(cases: list[tuple[float, float]], nodes: int) -> None:
    """Also where not every number of replicas is tried any more: beyond 1,024 mixes of them."""
    stages = [(hosted("clip", 100, memory), need(100 * load)) for memory, load in cases]
    assert not _counts(T4, nodes, stages) or _counts(T4, nodes + 1, stages)


def test_many_nodes_solve_what_one_replica_of_each_does() -> None:
    """Each model fills a GPU's memory, so that there are as many replicas as GPUs, whichever they are."""
    stages = [(hosted("clip", 100, 12), need(10))] * 4
    assert _counts(T4, 4, stages)
    assert _counts(T4, 12, stages)


def test_cores_left_are_known_by_node() -> None:
    pool = first(T4, 3, (hosted("clip", 100, 4, cpu_s=0.02), need(200)))
    assert pool.spare == tuple(8 - pool.placed[0].num_cpus * content.get("clip", 0) for content in pool.contents)


def test_a_larger_gpu_needs_fewer_nodes() -> None:
    stages = [(hosted("clip", 100, 12), need(10)), (hosted("llava", 10, 12), need(1))]
    assert least_nodes(T4, stages, 0.85) == 2
    assert least_nodes(A100, stages, 0.85) == 1
    assert least_nodes(T4, [], 0.85) == 0
