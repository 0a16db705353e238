"""Which engine runs a model."""

from __future__ import annotations

from typing import Literal

from deployments.generation.engine import Engine
from deployments.generation.vllm_settings import obstacle
from serve.config.models import GenerativeModel
from serve.errors import ConfigError


def make_engine(model: GenerativeModel) -> Engine:
    """The engine that the cluster file names, or for `auto` vLLM where nothing stands against it.

    Raises:
        ConfigError: vLLM is named and cannot run the model here.
    """
    if choose_engine(model) == "vllm":
        from deployments.generation.vllm_engine import VllmEngine

        return VllmEngine(model)
    from deployments.generation.transformers_engine import TransformersEngine

    return TransformersEngine(model)


def choose_engine(model: GenerativeModel) -> Literal["vllm", "transformers"]:
    """The engine's name.

    Raises:
        ConfigError: see `make_engine`.
    """
    if model.engine == "transformers":
        return "transformers"
    why_not = obstacle(model)
    if why_not is None:
        return "vllm"
    if model.engine == "vllm":
        raise ConfigError(f"engine: got 'vllm', but {why_not}; it must be transformers or auto")
    return "transformers"
