"""A checkpoint loaded with transformers, and what one must know of it to generate."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, GenerationConfig

from deployments.generation.grammar import GrammarCompiler
from deployments.generation.prompts import Family, family_of
from deployments.generation.token_bytes import TokenBytes
from deployments.generation.transformers_inputs import Preparer
from deployments.gpu import CONTEXT_GB, cap_allocator
from serve.config.models import GenerativeModel
from serve.errors import ConfigError

# Flan-T5's relative positions set no limit; its pre-training did.
_T5_CONTEXT = 512
# Memory of the KV cache on a CPU, where nothing else bounds it, in GB.
_CPU_KV_CACHE_GB = 0.5
# Share of what weights and CUDA context leave of a GPU budget that the cache may have; activations get the rest.
_GPU_CACHE_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to run, with what belongs to it.

    Attributes:
        end_tokens: ids that end an answer, by generation_config.json and by the tokenizer.
        batch_tokens: tokens, prompts and answers together, for which a batch's KV cache has room.
        took: seconds by stage.
    """

    family: Family
    model: Any
    tokenizer: Any
    tokens: TokenBytes
    preparer: Preparer
    grammars: GrammarCompiler
    device: torch.device
    dtype: torch.dtype
    max_model_len: int
    end_tokens: frozenset[int]
    pad_token: int
    weights_bytes: int
    batch_tokens: float
    took: dict[str, float]


def load(config: GenerativeModel) -> Loaded:
    """Loads weights (safetensors only, no code of the checkpoint's) and processor.

    Raises:
        ConfigError: an architecture that is not served, a context window beyond the checkpoint's, quantisation without
            its libraries.
    """
    started = time.monotonic()
    torch.set_num_threads(config.placement.threads)
    device = torch.device("cuda" if config.gpu_memory_gb and torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        cap_allocator(config.gpu_memory_gb)
    # Half precision is for the GPU; on a CPU it is slower and less exact than float32.
    dtype: torch.dtype = getattr(torch, config.dtype) if device.type == "cuda" else torch.float32
    options: dict[str, Any] = {"revision": config.revision, "trust_remote_code": False}
    described: Any = AutoConfig.from_pretrained(config.checkpoint, **options)
    family = family_of(described.model_type)
    if family is None:
        raise ConfigError(f"{config.checkpoint} is a {described.model_type!r} checkpoint, which is not served here.")
    window = _window(config, described.text_config)
    model = _model(config, device, dtype, options)
    loaded_at = time.monotonic()
    processor: Any = AutoProcessor.from_pretrained(config.checkpoint, **options)
    tokenizer = processor.tokenizer
    ends = _end_tokens(model, tokenizer)
    pad = tokenizer.pad_token_id
    weights = sum(weight.nbytes for weight in (*model.parameters(), *model.buffers()))
    image = (described.image_token_index, described.num_query_tokens) if family == "blip2" else None
    grammars = GrammarCompiler(tokenizer, model.get_output_embeddings().out_features, sorted(ends))
    return Loaded(
        family=family,
        model=model,
        tokenizer=tokenizer,
        tokens=TokenBytes(tokenizer),
        preparer=Preparer(processor, image, window),
        grammars=grammars,
        device=device,
        dtype=dtype,
        max_model_len=window,
        end_tokens=ends,
        pad_token=min(ends) if pad is None else pad,
        weights_bytes=weights,
        batch_tokens=config.batching.max_cost or _batch_tokens(config, described.text_config, device, dtype, weights),
        took={"load": loaded_at - started, "processor": time.monotonic() - loaded_at},
    )


def generation_config(loaded: Loaded, max_new_tokens: int) -> GenerationConfig:
    """Greedy and plain: what the checkpoint would add (beams, penalties, sampling) is the request's to choose."""
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_length=0,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(loaded.end_tokens),
        pad_token_id=loaded.pad_token,
    )


def _model(config: GenerativeModel, device: torch.device, dtype: torch.dtype, options: dict[str, Any]) -> Any:
    try:
        quantized = _quantization(config, dtype)
        placed = {"quantization_config": quantized, "device_map": {"": str(device)}} if quantized else {}
        model: Any = AutoModelForImageTextToText.from_pretrained(
            config.checkpoint, dtype=dtype, use_safetensors=True, **placed, **options
        )
    except ImportError as error:
        raise ConfigError(f"quantization {config.quantization!r} cannot be used here: {error}") from error
    return (model if quantized else model.to(device)).eval()


def _quantization(config: GenerativeModel, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if config.quantization == "none":
        return None
    if config.quantization == "int8":
        # With activations that are not float16, it logs a line for every layer of every step.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    # NormalFloat 4 with quantised scales (Dettmers et al. 2023, QLoRA).
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _window(config: GenerativeModel, text: Any) -> int:
    own = int(getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or _T5_CONTEXT)
    if config.max_model_len is not None and config.max_model_len > own:
        raise ConfigError(
            f"max_model_len is {config.max_model_len}; {config.checkpoint} was made for at most {own} tokens",
            param="max_model_len",
        )
    return config.max_model_len or own


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    ends: set[int] = {tokenizer.eos_token_id} - {None}
    # BLIP-2 generates with its language model's settings, the others with their own.
    for part in (model, getattr(model, "language_model", None)):
        found = getattr(getattr(part, "generation_config", None), "eos_token_id", None)
        ends.update([found] if isinstance(found, int) else found or [])
    return frozenset(ends)


def _batch_tokens(
    config: GenerativeModel, text: Any, device: torch.device, dtype: torch.dtype, weights_bytes: int
) -> int:
    """Tokens whose keys and values fit: 2 x layers x key-value heads x head size numbers a token."""
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = (
        getattr(text, "head_dim", None) or getattr(text, "d_kv", None) or text.hidden_size // text.num_attention_heads
    )
    layers = text.num_hidden_layers * (2 if getattr(text, "is_encoder_decoder", False) else 1)  # and cross-attention
    token_bytes = int(2 * layers * heads * head * dtype.itemsize)
    room_gb = config.kv_cache_gb
    if room_gb is None and device.type == "cpu":
        room_gb = _CPU_KV_CACHE_GB
    if room_gb is None:
        room_gb = max(0.0, config.gpu_memory_gb - CONTEXT_GB - weights_bytes / 1e9) * _GPU_CACHE_SHARE
    return math.floor(room_gb * 1e9 / token_bytes)
