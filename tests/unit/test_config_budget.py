"""What a cluster file asks of its nodes, against what they have; and that every key is documented."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from serve.config.budget import budgets, problems
from serve.config.cluster import ClusterFile
from serve.config.load import parse
from serve.config.model_base import Section


def cluster(models: dict[str, dict[str, Any]], **pools: dict[str, Any]) -> ClusterFile:
    return parse({"name": "test", "node_pools": pools, "models": models})


def llava(gb: float, pool: str | None = None, **keys: Any) -> dict[str, Any]:
    placement = {"placement": {"pool": pool, "num_cpus": 0.1}}
    return {"kind": "llava", "checkpoint": "a/b", "quantization": "int8", "gpu_memory_gb": gb, **placement, **keys}


def replicas(count: int) -> dict[str, Any]:
    return {"autoscaling": {"min_replicas": count, "max_replicas": count}}


A100 = {"gpu": "A100", "gpus": 1, "gpu_memory_gb": 40, "cpus": 8}
T4 = {"gpu": "T4", "gpus": 1, "gpu_memory_gb": 16, "cpus": 8}


def test_a_budget_for_each_pool() -> None:
    found = budgets(
        cluster(
            {"a": llava(4, "t4"), "b": llava(14, "big", **replicas(2)), "c": llava(5, "big"), "d": llava(0, "big")},
            t4=T4,
            big=A100,
        )
    )
    assert [budget.pool for budget in found] == ["t4", "big"]
    assert found[0].sum_line() == "a 4 = 4 of 16 GB"
    assert found[1].sum_line() == "b 2 x 14 + c 5 = 33 of 40 GB"
    assert [budget.packing.total_gb for budget in found] == [4, 33]
    assert [budget.packing.homeless for budget in found] == [(), ()]


def test_a_pool_without_models() -> None:
    found = budgets(cluster({"a": llava(4, "t4")}, t4=T4, spare={"cpus": 3}))
    assert found[1].sum_line() == "nothing = 0 of 0 GB"
    assert found[1].cpus == (0, 3)


def test_the_fewest_nodes_count() -> None:
    nodes = {**A100, "min_nodes": 3, "max_nodes": 9}
    [budget] = budgets(cluster({"a": llava(24, **replicas(3))}, a100=nodes))
    assert budget.available_gb == 120
    assert budget.packing.used_gb == (24, 24, 24)
    assert problems(cluster({"a": llava(24, **replicas(4))}, a100=nodes)) != []


def test_scaling_to_zero_still_needs_room_for_one() -> None:
    idle = {"autoscaling": {"min_replicas": 0, "max_replicas": 1}}
    nodes = {**T4, "min_nodes": 0}
    assert problems(cluster({"a": llava(16, **idle)}, t4=nodes)) == []
    [problem] = problems(cluster({"a": llava(16, **idle), "b": llava(16, **idle)}, t4=nodes))
    assert "a 16 + b 16 = 32 of 16 GB" in problem


def test_what_does_not_fit_shows_the_sum() -> None:
    [problem] = problems(cluster({"a": llava(24), "b": llava(14, **replicas(2))}, a100=A100))
    assert problem.startswith("node_pools.a100: ")
    assert "a 24 + b 2 x 14 = 52 of 40 GB" in problem
    assert problem.endswith("no room for b")


def test_the_sum_fits_but_no_gpu_has_room() -> None:
    two = {**T4, "gpus": 2}
    [problem] = problems(cluster({"a": llava(10, **replicas(3))}, t4=two))
    assert "a 3 x 10 = 30 of 32 GB" in problem
    assert "no room for a" in problem
    assert problems(cluster({"a": llava(10, **replicas(2))}, t4=two)) == []


def test_pools_do_not_help_each_other() -> None:
    [problem] = problems(cluster({"a": llava(10, "one"), "b": llava(10, "one")}, one=T4, other=T4))
    assert problem.startswith("node_pools.one: ")


def test_less_than_a_cuda_context() -> None:
    [problem] = problems(cluster({"a": llava(0.5)}, t4=T4))
    assert "models.a.gpu_memory_gb: got 0.5" in problem
    assert "0.5, so it must be more" in problem


KINDS = [("clip", 2), ("blip2", 6), ("llava", 14), ("florence2", 4)]


@pytest.mark.parametrize(("kind", "least"), KINDS)
def test_the_least_that_a_kind_needs(kind: str, least: float) -> None:
    def found(gb: float) -> list[str]:
        return problems(cluster({"a": {"kind": kind, "checkpoint": "x/y", "gpu_memory_gb": gb}}, a100=A100))

    assert found(least) == []
    [problem] = found(least - 0.1)
    assert f"models.a.gpu_memory_gb: got {least - 0.1:g}; {kind} needs at least {least:g} at 16 bits" in problem
    assert "recommended" in problem
    assert found(0) == []  # on the CPU


def test_the_least_at_four_bits() -> None:
    assert problems(cluster({"a": llava(5, quantization="4bit")}, t4=T4)) == []
    [problem] = problems(cluster({"a": llava(4.9, quantization="4bit")}, t4=T4))
    assert "got 4.9; llava needs at least 14 at 16 bits, 5 at 4 bits (24 recommended)" in problem
    [problem] = problems(cluster({"a": llava(5, quantization="none")}, t4=T4))
    assert "llava needs at least 14" in problem


def test_cpu_cores() -> None:
    def found(cores: float, nodes: int = 1) -> list[str]:
        keys = {"placement": {"num_cpus": cores}, **replicas(2)}
        return problems(cluster({"a": llava(0) | keys}, cpu={"cpus": 4, "min_nodes": nodes, "max_nodes": 9}))

    assert found(1.5) == []
    [problem] = found(2.5)
    assert problem.startswith("node_pools.cpu.cpus: ")
    assert "reserve 5 cores" in problem
    assert "have 4" in problem
    assert found(2.5, nodes=2) == []


def test_every_problem_is_told() -> None:
    found = problems(cluster({"a": llava(4, quantization="4bit"), "b": llava(60)}, a100=A100))
    assert len(found) == 2
    assert found[0].startswith("models.a.gpu_memory_gb")
    assert found[1].startswith("node_pools.a100")


def sections(kind: Any, seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """Every model that a type mentions, however deep."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if kind not in seen:
            seen.add(kind)
            yield kind
            for field in kind.model_fields.values():
                yield from sections(field.annotation, seen)
    else:
        for argument in typing.get_args(kind):
            yield from sections(argument, seen)


def test_every_key_says_what_it_is() -> None:
    found = list(sections(ClusterFile, set()))
    assert {kind.__name__ for kind in found} >= {"Limits", "ApiKey", "CascadeStep", "ClipModel", "Placement"}
    bare = [
        f"{kind.__name__}.{name}"
        for kind in found
        if issubclass(kind, Section)  # a calibration is a file of its own, which no person writes
        for name, field in kind.model_fields.items()
        if not field.description and name != "kind"
    ]
    assert bare == []
    assert [kind.__name__ for kind in found if not (kind.__doc__ or "").strip()] == []


def test_every_section_refuses_unknown_keys() -> None:
    for kind in sections(ClusterFile, set()):
        assert kind.model_config.get("extra") == "forbid", kind.__name__
        assert kind.model_config.get("frozen"), kind.__name__


def test_the_json_schema() -> None:
    schema = json.loads(json.dumps(ClusterFile.model_json_schema()))
    assert schema["required"] == ["name", "node_pools", "models"]
    assert set(schema["properties"]) == set(ClusterFile.model_fields)
    assert {"ClipModel", "VectorIndexModel", "NodePool", "Limits"} <= set(schema["$defs"])
    assert schema["$defs"]["Batching"]["properties"]["max_items"]["maximum"] == 4096
    assert schema["additionalProperties"] is False
