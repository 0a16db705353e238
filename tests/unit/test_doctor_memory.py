"""`argus doctor` on main memory: what the cluster file counts on, and what is free."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from serve.config.cluster import ClusterFile
from serve.config.load import load_profile, parse
from serve.runtime import checks
from serve.runtime.checks import Finding, Level


def found(monkeypatch: pytest.MonkeyPatch, cluster: ClusterFile, free_gb: float) -> Finding:
    monkeypatch.setattr(checks.psutil, "virtual_memory", lambda: SimpleNamespace(available=free_gb * 1e9))
    [finding] = checks._memory(cluster)
    return finding


def llava(memory_gb: float, **model: Any) -> ClusterFile:
    """7,063 million parameters: 28.3 GB in float32, and what comes on top of them."""
    keys = {"kind": "llava", "checkpoint": "llava-hf/llava-1.5-7b-hf", "dtype": "float32", "max_model_len": 256} | model
    return parse({"name": "mine", "node_pools": {"here": {"memory_gb": memory_gb}}, "models": {"llava": keys}})


@pytest.mark.parametrize(("profile", "pool"), [("demo", "local"), ("gpu", "gpu"), ("cluster", "t4")])
def test_what_the_profile_counts_on_is_said(monkeypatch: pytest.MonkeyPatch, profile: str, pool: str) -> None:
    cluster = load_profile(profile)
    counted = cluster.node_pools[pool].memory_gb
    enough = found(monkeypatch, cluster, counted + 0.5)
    assert (enough.level, enough.fix) == (Level.OK, "")
    assert f"{profile} counts on {counted:g} GB a node (node_pools.{pool}.memory_gb)" in enough.found
    short = found(monkeypatch, cluster, counted - 0.5)
    assert short.level is Level.WARNING and short.fix
    assert short.found.startswith(f"{counted - 0.5:.1f} GB; ")


def test_a_model_that_is_larger_than_the_file_counts_on(monkeypatch: pytest.MonkeyPatch) -> None:
    short = found(monkeypatch, llava(8), 20)
    assert short.level is Level.WARNING
    assert 28.3 < float(short.found.partition("mine counts on ")[2].split()[0]) < 32
    assert "generating models on the CPU" in short.found
    assert found(monkeypatch, llava(8), 40).level is Level.OK
    assert "node_pools.here.memory_gb" in found(monkeypatch, llava(64), 40).found


def test_each_replica_has_weights_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    two = llava(8, autoscaling={"min_replicas": 2, "max_replicas": 2})
    assert found(monkeypatch, two, 40).level is Level.WARNING
