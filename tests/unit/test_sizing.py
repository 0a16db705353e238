"""Sizes from configs, against the parameters of transformers' own models, built without memory."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedModel,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

from deployments.generation.published import CONFIGS, DEFAULTS, config_of
from deployments.generation.sizing import MemoryPlan, Weights, kv_per_token, plan, weights
from deployments.gpu import NEEDS

LLAVA, MISTRAL = "llava-hf/llava-1.5-7b-hf", "llava-hf/llava-v1.6-mistral-7b-hf"
BLIP2, VIDEO = "Salesforce/blip2-opt-2.7b", "LanguageBind/Video-LLaVA-7B-hf"
NEXT_VIDEO = "llava-hf/LLaVA-NeXT-Video-7B-hf"


def built(config: Any) -> PreTrainedModel:
    """transformers' model of a config, on the meta device."""
    settings = copy.deepcopy(dict(config))
    kind = settings.pop("model_type")
    with torch.device("meta"):
        if kind == "video_llava":
            return VideoLlavaForConditionalGeneration(VideoLlavaConfig(**settings))
        return AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **settings))


def counted(model: PreTrainedModel) -> Weights:
    """Its parameters, those of linear layers apart from the rest."""
    head = model.get_output_embeddings()
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    inside = sum(module.weight.numel() for module in linear)
    rows = sum(module.weight.shape[0] for module in linear)
    return Weights(inside, rows, sum(weight.numel() for weight in model.parameters()) - inside)


@pytest.mark.parametrize("checkpoint", sorted(CONFIGS))
def test_published_checkpoints_have_the_parameters_of_transformers_models(checkpoint: str) -> None:
    config = copy.deepcopy(dict(CONFIGS[checkpoint]))
    if config["text_config"]["model_type"] == "t5":
        config["text_config"] = {**config["text_config"], "tie_word_embeddings": True}
    assert weights(config) == counted(built(config))


@pytest.mark.parametrize(
    "change",
    [
        {"text_config": {"model_type": "llama", "num_key_value_heads": 4, "head_dim": 64, "num_hidden_layers": 3}},
        {"text_config": {"model_type": "mistral", "tie_word_embeddings": False, "num_hidden_layers": 2}},
        {
            "vision_config": {"model_type": "clip_vision_model", "num_hidden_layers": 2},
            "multimodal_projector_bias": False,
        },
        {"model_type": "llava_next"},
        {"model_type": "video_llava"},
        {"model_type": "llava_next_video"},
    ],
    ids=["grouped heads", "mistral", "default CLIP", "newline", "two towers", "newline and video"],
)
def test_variants_of_llava(change: dict[str, Any]) -> None:
    config = {"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"}, "text_config": {}}
    config |= {"text_config": {"model_type": "llama", "num_hidden_layers": 1}, **change}
    assert weights(config) == counted(built(config))


@pytest.mark.parametrize(
    "text",
    [
        {"model_type": "opt", "num_hidden_layers": 2},
        {"num_hidden_layers": 2, "word_embed_proj_dim": 512, "hidden_size": 1024, "num_attention_heads": 16},
        {"model_type": "t5", "num_layers": 2, "num_decoder_layers": 3},
    ],
    ids=["default OPT", "projected embeddings", "T5"],
)
def test_variants_of_blip2(text: dict[str, Any]) -> None:
    config = {
        "model_type": "blip-2",
        "vision_config": {"num_hidden_layers": 2},
        "qformer_config": {"num_hidden_layers": 3},
        "text_config": text,
    }
    assert weights(config) == counted(built(config))


def test_a_head_of_its_own_counts() -> None:
    config = CONFIGS["Salesforce/blip2-flan-t5-xl"]
    tied = {**config, "text_config": {**config["text_config"], "tie_word_embeddings": True}}
    assert weights(config).count - weights(tied).count == 32128 * 2048


def test_defaults_are_those_of_transformers() -> None:
    for kind, facts in DEFAULTS.items():
        config = AutoConfig.for_model(kind)
        assert {name: getattr(config, name) for name in facts} == dict(facts)


def test_kv_cache_of_a_token() -> None:
    assert kv_per_token(CONFIGS[LLAVA], "float16") == 2 * 32 * 32 * 128 * 2
    # Mistral shares each pair of keys and values among four heads.
    assert kv_per_token(CONFIGS[MISTRAL], "float16") * 4 == kv_per_token(CONFIGS[LLAVA], "float16")
    assert kv_per_token(CONFIGS[BLIP2], "float32") == 2 * 32 * 2560 * 4


@pytest.mark.parametrize(("checkpoint", "kind"), [(LLAVA, "llava"), (BLIP2, "blip2")])
def test_what_is_asked_of_a_gpu_holds_the_weights(checkpoint: str, kind: str) -> None:
    need = NEEDS[kind]
    half = plan(CONFIGS[checkpoint], "float16")
    # The minimum is what the weights take, in round numbers, and no room for a cache.
    assert half.weights / 1e9 < need.minimum * 1.3
    assert half.tokens_within(need.recommended * 1e9) > 4096


def test_quantised_weights() -> None:
    sizes = [plan(CONFIGS[LLAVA], "float16", how).weights for how in ("none", "int8", "4bit")]
    assert sizes[0] == 2 * weights(CONFIGS[LLAVA]).count
    assert 0.5 < sizes[1] / sizes[0] < 0.53
    assert 0.28 < sizes[2] / sizes[0] < 0.32
    four_bit = NEEDS["llava"].four_bit
    assert four_bit is not None
    assert sizes[2] / 1e9 < four_bit


def test_a_plan_adds_up() -> None:
    made = MemoryPlan(weights=1000, kv_per_token=10, activations=100)
    assert made.total(50) == 1600
    assert made.tokens_within(1600) == 50
    assert made.tokens_within(900) == 0


def test_activations_are_small_beside_weights_and_grow_with_the_step() -> None:
    for checkpoint in (LLAVA, MISTRAL, BLIP2, VIDEO, NEXT_VIDEO):
        narrow, wide = (plan(CONFIGS[checkpoint], "float16", step_tokens=tokens) for tokens in (1024, 8192))
        assert 0 < narrow.activations < wide.activations < 0.5 * wide.weights


def test_the_config_of_a_folder_or_a_published_id(tmp_path: Path) -> None:
    assert config_of(LLAVA) is CONFIGS[LLAVA]
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    assert config_of(str(tmp_path)) == {"model_type": "llava"}
    (tmp_path / "config.json").write_text("not json")
    assert config_of(str(tmp_path)) is None
    assert config_of("someone/else") is None


def test_what_is_not_known() -> None:
    with pytest.raises(ValueError, match="'florence2'"):
        plan({"model_type": "florence2"}, "float16")
    with pytest.raises(ValueError, match=r"text_config\.model_type is 'qwen2'"):
        plan({"model_type": "llava", "text_config": {"model_type": "qwen2"}}, "float16")
