"""A model's section of the cluster file, as vLLM's arguments and environment. Pure; imports no vLLM."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

from deployments.gpu import gpu_fraction
from serve.config.models import GenerativeModel

Device = Literal["cpu", "cuda"]

# KV cache on a CPU, where nothing else bounds it.
CPU_KV_CACHE_GB = 0.5
# Preprocessed media that the engine keeps: a 336 px picture in float32 takes 1.4 MB.
_MEDIA_CACHE_GB = 0.5
# What vLLM schedules in one step when `batching.max_cost` does not say.
_STEP_TOKENS = 2048
_WORKER_EXTENSION = "deployments.generation.vllm_worker.ArgusWorker"


def environment(model: GenerativeModel, device: Device) -> dict[str, str]:
    """Environment variables that must be set before vLLM is first imported, here and in its processes."""
    variables = {
        # Nothing is reported to anyone.
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        # The tokenizer runs in a thread pool beside the event loop already.
        "TOKENIZERS_PARALLELISM": "false",
    }
    if is_local(model.checkpoint):
        variables |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if device == "cpu":
        variables |= {
            # On a CPU vLLM puts its worker into a process below the engine's, to set that process' threads. We set
            # them for the engine process, so the worker can live in it: one import of torch and 0.8 GB less.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": str(model.placement.threads),
        }
    return variables


def is_local(checkpoint: str) -> bool:
    """Whether a checkpoint is a folder; else it is a hub id."""
    return Path(checkpoint).is_dir()


def engine_arguments(model: GenerativeModel, device: Device, gpu_memory_gb: float | None = None) -> dict[str, Any]:
    """Keyword arguments of `vllm.engine.arg_utils.AsyncEngineArgs`.

    Args:
        gpu_memory_gb: total memory of one GPU in GB; on a CPU None.

    Raises:
        ValueError: a checkpoint that comes as pickles.
    """
    check_safetensors(model.checkpoint)
    eager = model.eager if model.eager is not None else device == "cpu"
    arguments: dict[str, Any] = {
        "model": model.checkpoint,
        "revision": model.revision,
        "tokenizer_revision": model.revision,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "dtype": model.dtype,
        "max_model_len": model.max_model_len,
        "enforce_eager": eager,
        "limit_mm_per_prompt": media_limits(model),
        "mm_processor_cache_gb": _MEDIA_CACHE_GB,
        "max_num_seqs": model.batching.max_items,
        "max_num_batched_tokens": int(model.batching.max_cost or _STEP_TOKENS),
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
        "worker_extension_cls": _WORKER_EXTENSION,
    }
    arguments |= _quantization(model)
    if device == "cpu":
        # Prefixes are shared by whole blocks; vLLM's 128 tokens on a CPU are more than most of our prompts have.
        arguments["block_size"] = 32
    if model.kv_cache_gb is not None or device == "cpu":
        arguments["kv_cache_memory_bytes"] = int((model.kv_cache_gb or CPU_KV_CACHE_GB) * 1e9)
    if device == "cuda" and gpu_memory_gb is not None:
        gpus = max(1, math.ceil(gpu_fraction(model.gpu_memory_gb, gpu_memory_gb)))
        arguments["tensor_parallel_size"] = gpus
        # Unlike torch's cap, this share covers the CUDA context too: vLLM measures it.
        arguments["gpu_memory_utilization"] = min(1.0, model.gpu_memory_gb / (gpus * gpu_memory_gb))
    return arguments


def media_limits(model: GenerativeModel) -> dict[str, Any]:
    """Most images and videos of one prompt, as configured; the architecture may take fewer."""
    if model.kind == "video_llava":
        # The frames size vLLM's encoder cache.
        return {"image": model.max_images, "video": {"count": model.max_videos, "num_frames": model.video_frames}}
    return {"image": model.max_images}


def _quantization(model: GenerativeModel) -> dict[str, Any]:
    if model.quantization == "4bit":
        return {"quantization": "bitsandbytes", "load_format": "bitsandbytes"}
    if model.quantization == "int8":
        return {"quantization": "int8_per_channel_weight_only"}
    return {}


def check_safetensors(checkpoint: str) -> None:
    """Refuses a folder whose weights are not safetensors: unpickling a file runs what is in it.

    Raises:
        ValueError: no safetensors in the folder.
    """
    folder = Path(checkpoint)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise ValueError(f"{checkpoint} has no *.safetensors; convert its weights, pickled ones are not loaded")


def architecture(checkpoint: str) -> str | None:
    """The first of `architectures` in a folder's config.json; None for a hub id or an unreadable folder."""
    try:
        config = json.loads((Path(checkpoint) / "config.json").read_text())
        return str(config["architectures"][0])
    except (OSError, ValueError, LookupError, TypeError):
        return None
