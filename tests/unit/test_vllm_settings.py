"""A model's section as vLLM's arguments; nothing of vLLM is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.generation import vllm_settings
from deployments.generation.vllm_settings import engine_arguments, environment, obstacle
from serve.config.models import GenerativeModel


def section(**settings: Any) -> GenerativeModel:
    return GenerativeModel(**{"kind": "llava", "checkpoint": "llava-hf/llava-1.5-7b-hf", **settings})


def test_a_budget_becomes_a_share_of_one_gpu() -> None:
    made = engine_arguments(section(gpu_memory_gb=24, dtype="float16"), "cuda", 80)
    assert made["gpu_memory_utilization"] == pytest.approx(0.3)
    assert made["tensor_parallel_size"] == 1
    assert not made["enforce_eager"]
    assert "kv_cache_memory_bytes" not in made


def test_a_budget_of_several_gpus_is_spread_over_them() -> None:
    made = engine_arguments(section(gpu_memory_gb=40), "cuda", 16)
    assert made["tensor_parallel_size"] == 3
    assert made["gpu_memory_utilization"] == pytest.approx(40 / 48)


def test_the_cache_can_be_given_in_bytes() -> None:
    assert engine_arguments(section(gpu_memory_gb=24, kv_cache_gb=2.5), "cuda", 80)["kv_cache_memory_bytes"] == 2.5e9
    assert engine_arguments(section(), "cpu")["kv_cache_memory_bytes"] == 0.5e9


def test_what_is_kept_of_pictures_is_bounded() -> None:
    assert engine_arguments(section(media_cache_gb=0.05), "cpu")["mm_processor_cache_gb"] * 2**30 == pytest.approx(5e7)
    assert engine_arguments(section(), "cuda", 80)["mm_processor_cache_gb"] * 2**30 == pytest.approx(5e8)


def test_limits_of_a_step_and_a_prompt() -> None:
    model = section(
        kind="video_llava", max_images=3, max_videos=2, video_frames=6, batching={"max_items": 7, "max_cost": 512}
    )
    made = engine_arguments(model, "cpu")
    assert (made["max_num_seqs"], made["max_num_batched_tokens"]) == (7, 512)
    assert made["limit_mm_per_prompt"] == {"image": 3, "video": {"count": 2, "num_frames": 6}}
    assert engine_arguments(section(max_images=3), "cpu")["limit_mm_per_prompt"] == {"image": 3}


def test_llava_next_video_reads_one_video_and_no_image_on_vllm() -> None:
    model = section(kind="video_llava", checkpoint="llava-hf/LLaVA-NeXT-Video-7B-hf", max_images=3, max_videos=2)
    assert vllm_settings.media_limits(model) == {"video": {"count": 1, "num_frames": 8}}
    assert vllm_settings.media_limits(model.model_copy(update={"max_videos": 0}))["video"]["count"] == 0


def test_only_safetensors_and_no_code_from_the_hub() -> None:
    made = engine_arguments(section(), "cpu")
    assert (made["load_format"], made["trust_remote_code"]) == ("safetensors", False)


def test_four_bit_weights() -> None:
    made = engine_arguments(section(quantization="4bit"), "cpu")
    assert (made["quantization"], made["load_format"]) == ("bitsandbytes", "bitsandbytes")


def test_the_environment(tmp_path: Path) -> None:
    assert environment(section(placement={"threads": 3}), "cpu")["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in environment(section(), "cuda")
    # A sampler's function that is compiled when it is first wanted keeps that answer waiting for seconds.
    assert environment(section(), "cpu")["TORCHDYNAMO_DISABLE"] == "1"
    assert "TORCHDYNAMO_DISABLE" not in environment(section(eager=False), "cpu") | environment(section(), "cuda")
    assert "HF_HUB_OFFLINE" not in environment(section(), "cpu")
    assert environment(section(checkpoint=str(tmp_path)), "cpu")["HF_HUB_OFFLINE"] == "1"
    assert environment(section(), "cpu")["VLLM_NO_USAGE_STATS"] == "1"


@pytest.mark.parametrize(
    ("config", "settings", "why"),
    [
        ({"architectures": ["LlavaForConditionalGeneration"]}, {}, None),
        ({"architectures": ["LlavaNextVideoForConditionalGeneration"]}, {"kind": "video_llava"}, None),
        ({"architectures": ["LlavaForConditionalGeneration"]}, {"quantization": "int8"}, "8-bit"),
        ({"architectures": ["Florence2ForConditionalGeneration"]}, {}, "does not serve Florence2"),
        (
            {"architectures": ["Blip2ForConditionalGeneration"], "text_config": {"model_type": "t5"}},
            {"kind": "blip2"},
            "not with T5",
        ),
    ],
)
def test_obstacles(tmp_path: Path, config: dict[str, Any], settings: dict[str, Any], why: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()
    found = obstacle(section(checkpoint=str(tmp_path), **settings))
    assert found is None if why is None else found is not None and why in found


def test_pickled_weights_are_an_obstacle(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlavaForConditionalGeneration"]}')
    (tmp_path / "pytorch_model.bin").touch()
    assert "safetensors" in (obstacle(section(checkpoint=str(tmp_path))) or "")


def test_a_gpu_build_needs_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_settings, "_is_cpu_build", lambda: False)
    assert "needs a GPU" in (obstacle(section()) or "")
    assert obstacle(section(gpu_memory_gb=24)) is None
