"""What the configs of published checkpoints say, since the hub cannot be asked when a cluster file is checked.

Sources: config.json of each repository on huggingface.co, and for what it leaves out the defaults of transformers'
configuration classes (5.19), which are `DEFAULTS`. CLIP ViT-L/14: Radford et al. 2021; ViT-g/14 and the Q-Former:
Li et al. 2023 (BLIP-2); Vicuna: Llama 2's shapes; OPT: Zhang et al. 2022, table 1; FLAN-T5 XL: Chung et al. 2022.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
    },
    "mistral": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
    },
    "opt": {
        "hidden_size": 768,
        "ffn_dim": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 2048,
        "vocab_size": 50272,
    },
    "t5": {
        "d_model": 512,
        "d_ff": 2048,
        "d_kv": 64,
        "num_layers": 6,
        "num_heads": 8,
        "relative_attention_num_buckets": 32,
        "feed_forward_proj": "relu",
        "vocab_size": 32128,
    },
    "clip_vision_model": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_channels": 3,
        "image_size": 224,
        "patch_size": 32,
    },
    "blip_2_vision_model": {
        "hidden_size": 1408,
        "intermediate_size": 6144,
        "num_hidden_layers": 39,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
    },
    "blip_2_qformer": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "cross_attention_frequency": 2,
        "encoder_hidden_size": 1408,
    },
}

_CLIP_L_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_CLIP_L_224 = {**_CLIP_L_336, "image_size": 224}
_VICUNA_7B = {"model_type": "llama", "vocab_size": 32064}
_VICUNA_13B = {
    **_VICUNA_7B,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
}
_MISTRAL_7B = {"model_type": "mistral", "vocab_size": 32064}
_OPT_2_7B = {
    "model_type": "opt",
    "hidden_size": 2560,
    "word_embed_proj_dim": 2560,
    "ffn_dim": 10240,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 50304,
}
_OPT_6_7B = {**_OPT_2_7B, "hidden_size": 4096, "word_embed_proj_dim": 4096, "ffn_dim": 16384}
_FLAN_T5_XL = {
    "model_type": "t5",
    "d_model": 2048,
    "d_ff": 5120,
    "num_layers": 24,
    "num_heads": 32,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}


def _llava(text: Mapping[str, Any], kind: str = "llava") -> Mapping[str, Any]:
    return {"model_type": kind, "vision_config": _CLIP_L_336, "text_config": text}


def _blip2(text: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"model_type": "blip-2", "text_config": text, "num_query_tokens": 32}


CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llava-hf/llava-1.5-7b-hf": _llava(_VICUNA_7B),
    "llava-hf/llava-1.5-13b-hf": _llava(_VICUNA_13B),
    "llava-hf/llava-v1.6-mistral-7b-hf": _llava(_MISTRAL_7B, "llava_next"),
    "llava-hf/llava-v1.6-vicuna-7b-hf": _llava(_VICUNA_7B, "llava_next"),
    "llava-hf/llava-v1.6-vicuna-13b-hf": _llava(_VICUNA_13B, "llava_next"),
    "Salesforce/blip2-opt-2.7b": _blip2(_OPT_2_7B),
    "Salesforce/blip2-opt-6.7b": _blip2(_OPT_6_7B),
    "Salesforce/blip2-flan-t5-xl": _blip2(_FLAN_T5_XL),
    "LanguageBind/Video-LLaVA-7B-hf": {
        "model_type": "video_llava",
        "vision_config": _CLIP_L_224,
        "text_config": _VICUNA_7B,
    },
    "llava-hf/LLaVA-NeXT-Video-7B-hf": _llava(_VICUNA_7B, "llava_next_video"),
}


def config_of(checkpoint: str) -> Mapping[str, Any] | None:
    """The config of a folder with a config.json, or of one of the published ids above; else None."""
    file = Path(checkpoint) / "config.json"
    if not file.is_file():
        return CONFIGS.get(checkpoint)
    try:
        config = json.loads(file.read_text())
    except ValueError:
        return None
    return config if isinstance(config, dict) else None
