"""Cluster files that look right and cannot run, and errors that must not say too much."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.gpu import Claim, gpu_fraction, pack
from serve.config.budget import problems
from serve.config.cluster import ClusterFile
from serve.config.load import ConfigErrors, load_file
from serve.config.model_base import Section
from tests.unit.test_config import file, said_of
from tests.unit.test_config_budget import A100, T4, cluster, llava, replicas, sections


def test_a_gpu_budget_on_a_cpu_pool() -> None:
    found = problems(cluster({"a": llava(4)}, cpu={"cpus": 4}))
    assert "models.a.gpu_memory_gb: got 4, but pool 'cpu' has no GPU; it must be 0 there" in found


def test_a_model_over_several_gpus_needs_them_on_one_node() -> None:
    """Ray places an actor's whole GPUs on one node."""
    nodes = {**T4, "gpus": 1, "min_nodes": 2, "max_nodes": 2}
    assert problems(cluster({"a": llava(24)}, t4=nodes)) != []
    assert problems(cluster({"a": llava(24)}, t4={**T4, "gpus": 2})) == []


def test_a_replica_cannot_straddle_the_cores_of_two_nodes() -> None:
    nodes = {"cpus": 8, "min_nodes": 2, "max_nodes": 2}
    assert problems(cluster({"a": llava(0, placement={"num_cpus": 12})}, cpu=nodes)) != []


def test_the_routers_cores_count() -> None:
    data = cluster({"a": llava(0, placement={"num_cpus": 3})}, cpu={"cpus": 4}).model_dump()
    data["router"] = {"replicas": 4, "num_cpus": 1}
    assert problems(ClusterFile.model_validate(data)) != []


def test_an_infinite_budget_is_a_problem_not_a_crash() -> None:
    try:
        found = problems(cluster({"a": llava(float("inf"))}, a100=A100))
    except ConfigErrors:
        return
    assert found != []


def test_every_key_says_what_it_is_kind_too() -> None:
    bare = [
        f"{kind.__name__}.{name}"
        for kind in sections(ClusterFile, set())
        if issubclass(kind, Section)  # a calibration is a file of its own, which no person writes
        for name, field in kind.model_fields.items()
        if not field.description
    ]
    assert bare == []


@given(st.integers(2, 9), st.integers(0, 1), st.integers(1, 3))
def test_what_packs_is_what_ray_can_place(parts: int, fewer: int, gpus: int) -> None:
    """The packing must count in Ray's rounded fractions, else a replica that "fits" waits forever."""
    memory, count = 24.0, parts * gpus - fewer
    if not pack([Claim("m", memory / parts, count)], gpus, memory).homeless:
        a_gpu = int(10_000 // round(gpu_fraction(memory / parts, memory) * 10_000))
        assert count <= a_gpu * gpus


def test_three_thirds_of_a_gpu() -> None:
    fits = problems(cluster({"a": llava(8, **replicas(3))}, pool={**T4, "gpu_memory_gb": 24})) == []
    assert fits == (3 * gpu_fraction(8, 24) <= 1)


def test_config_errors_keep_their_problems_over_a_pickle() -> None:
    error = ConfigErrors("x: a; b", ("a", "b"))
    assert pickle.loads(pickle.dumps(error)).problems == ("a", "b")
    assert error.at("models").problems == ("a", "b")  # type: ignore[attr-defined]


WRONG: list[tuple[dict[str, Any], list[str]]] = [
    (
        file(models={"m": {"kind": "custom", "implementation": "a:B", "tasks": ["fly"]}}),
        ["models.m.tasks.0: got 'fly'", "'classify' or 'embed'"],
    ),
    (
        file(cascades={"c": {"answer": "label", "steps": [{"name": "one", "use": "clip"}]}}),
        ["cascades.c.steps.0.task: is missing"],
    ),
    (file(models={"clip": {"checkpoint": "a/b"}}), ["models.clip.kind: is missing", "vector_index"]),
    (file(limits={"max_upload_bytes": 250 * 2**20}), ["limits.max_upload_bytes", "one message", "256 MiB", "240 MiB"]),
    (file(limits={"max_uploads_bytes": 300 * 2**20}), ["limits", "max_uploads_bytes", "209715200", "twice"]),
    (file(models={"clip": {"kind": "clipp"}}), ["models.clip.kind: got 'clipp'", "vector_index"]),
]


@pytest.mark.parametrize(("data", "said"), WRONG)
def test_one_problem_and_no_other(data: dict[str, Any], said: list[str]) -> None:
    [problem] = said_of(data)
    for part in said:
        assert part in problem


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """YAML keeps the last one silently: a whole model disappears."""
    path = tmp_path / "a.yaml"
    path.write_text(
        "name: t\nnode_pools: {cpu: {}}\nmodels:\n  clip: {kind: clip, checkpoint: a/b}\n  clip: {kind: vector_index}\n"
    )
    with pytest.raises(ConfigErrors, match="clip"):
        load_file(path)


def test_a_key_pasted_in_the_place_of_its_hash_is_not_shown() -> None:
    [problem] = said_of(file(auth={"keys": [{"name": "a", "sha256": "sk-my-secret-key"}]}))
    assert problem.startswith("auth.keys.0.sha256: ")
    assert "sk-my-secret-key" not in problem
