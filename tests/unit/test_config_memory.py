"""Generating models against their budgets, as `argus config check` shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve.config.budget import problems
from serve.config.cluster import ClusterFile
from serve.config.load import load_profile, parse
from serve.config.memory import memory


def cluster(**model: Any) -> ClusterFile:
    llava = {"kind": "llava", "checkpoint": "llava-hf/llava-1.5-7b-hf", "dtype": "float16", **model}
    pools = {"gpu": {"gpu": "A100", "gpus": 1, "gpu_memory_gb": 80, "cpus": 8}}
    return parse({"name": "test", "node_pools": pools, "models": {"llava": llava}})


@pytest.mark.parametrize(("gigabytes", "quantization"), [(24, "none"), (10, "int8"), (8, "4bit")])
def test_what_fits(gigabytes: float, quantization: str) -> None:
    assert problems(cluster(gpu_memory_gb=gigabytes, quantization=quantization)) == []


def test_weights_that_fit_without_room_for_a_conversation_do_not_fit() -> None:
    (problem,) = problems(cluster(gpu_memory_gb=15, max_model_len=4096))
    assert problem.startswith("models.llava.gpu_memory_gb: got 15; weights (unquantised) take 14.1 GB")
    needed = float(problem.partition("at least ")[2].partition(",")[0])
    assert problems(cluster(gpu_memory_gb=needed + 0.1, max_model_len=4096)) == []


def test_a_shorter_window_needs_less() -> None:
    assert problems(cluster(gpu_memory_gb=15.2, max_model_len=256)) == []


def test_a_named_cache_bounds_the_tokens() -> None:
    (one,) = memory(cluster(gpu_memory_gb=24, kv_cache_gb=1))
    # 32 layers x 2 x 4096 x 2 bytes = 524,288 bytes a token.
    assert one.tokens("none") == int(1e9 // 524_288)
    (problem,) = problems(cluster(gpu_memory_gb=24, kv_cache_gb=0.5))
    assert problem.startswith("models.llava.kv_cache_gb: got 0.5; a KV cache of 2048 tokens takes 1.1 GB")
    (problem,) = problems(cluster(gpu_memory_gb=14, kv_cache_gb=2))
    assert problem.startswith("models.llava.gpu_memory_gb: got 14; weights (unquantised) take 14.1 GB")


def test_a_named_cache_holds_as_many_tokens_with_weights_of_any_width() -> None:
    (one,) = memory(cluster(gpu_memory_gb=40, kv_cache_gb=4))
    assert all(one.cell(width).endswith(", 7,629 tokens") for width in one.plans)
    # Where the budget leaves less than the file gives the cache, the budget bounds it.
    (one,) = memory(cluster(gpu_memory_gb=18, kv_cache_gb=4))
    (free,) = memory(cluster(gpu_memory_gb=18))
    assert one.tokens("none") == free.tokens("none") < one.tokens("4bit") == 7629
    (one,) = memory(cluster(gpu_memory_gb=10, kv_cache_gb=1, quantization="4bit"))
    assert one.cell("none").endswith("does not fit") and one.tokens("4bit") == 1907


def test_four_bits_are_about_a_quarter() -> None:
    (one,) = memory(cluster(gpu_memory_gb=24))
    assert 3 < one.plans["none"].weights / one.plans["4bit"].weights < 4
    assert "tokens" in one.cell("4bit")


def test_a_model_on_a_cpu_has_no_budget_to_miss() -> None:
    (one,) = memory(cluster())
    assert one.problem() is None
    assert "tokens" not in one.cell("none")


def test_an_architecture_that_is_not_known_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "tomorrow"}')
    assert memory(cluster(gpu_memory_gb=24, checkpoint=str(tmp_path))) == []


@pytest.mark.parametrize("profile", ["gpu", "cluster"])
def test_the_shipped_profiles_fit(profile: str) -> None:
    shipped = load_profile(profile)
    assert problems(shipped) == []
    assert {one.model for one in memory(shipped)} == {"llava", "llava-next", "blip2", "video-llava"}
