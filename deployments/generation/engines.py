"""Which engine runs a model."""

from __future__ import annotations

import importlib.util
from typing import Any

from deployments.generation.engine import Engine
from serve.config.models import GenerativeModel
from serve.errors import ConfigError

# Architectures (`architectures[0]` of config.json) that vLLM runs: its own, and Video-LLaVA by our plugin.
_ON_VLLM = frozenset(
    {
        "LlavaForConditionalGeneration",
        "LlavaNextForConditionalGeneration",
        "Blip2ForConditionalGeneration",
        "VideoLlavaForConditionalGeneration",
    }
)


def make_engine(config: GenerativeModel) -> Engine:
    """The engine that the cluster file names, or for `auto` the one that `choose_engine` picks.

    Raises:
        ConfigError: vLLM is named and cannot run the checkpoint here.
    """
    if choose_engine(config) == "vllm":
        from deployments.generation.vllm_engine import VllmEngine

        return VllmEngine(config)
    from deployments.generation.transformers_engine import TransformersEngine

    return TransformersEngine(config)


def choose_engine(config: GenerativeModel) -> str:
    """`vllm` or `transformers`.

    Raises:
        ConfigError: see `make_engine`.
    """
    if config.engine == "transformers":
        return "transformers"
    why_not = _why_not_vllm(config)
    if why_not is None:
        return "vllm"
    if config.engine == "vllm":
        raise ConfigError(f"engine is 'vllm', but {why_not}; use engine: transformers.")
    return "transformers"


def _why_not_vllm(config: GenerativeModel) -> str | None:
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed on this node"
    from transformers import AutoConfig

    loaded: Any = AutoConfig.from_pretrained(config.checkpoint, revision=config.revision, trust_remote_code=False)
    architecture = (loaded.architectures or ["?"])[0]
    if architecture not in _ON_VLLM:
        return f"it does not run {architecture}"
    if architecture == "Blip2ForConditionalGeneration" and loaded.text_config.model_type != "opt":
        return f"it runs BLIP-2 with OPT, not with {loaded.text_config.model_type}"
    return None
