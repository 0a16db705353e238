"""The architectures that we serve with vLLM, and the entry point `vllm.general_plugins` that adds what it lacks."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from deployments.generation.vllm_process import end_with_parent

_VIDEO_LLAVA = "VideoLlavaForConditionalGeneration"
MODULES: Mapping[str, str] = {
    "LlavaForConditionalGeneration": "vllm.model_executor.models.llava",
    "LlavaNextForConditionalGeneration": "vllm.model_executor.models.llava_next",
    "LlavaNextVideoForConditionalGeneration": "vllm.model_executor.models.llava_next_video",
    "Blip2ForConditionalGeneration": "vllm.model_executor.models.blip2",
    _VIDEO_LLAVA: "deployments.generation.video_llava_vllm",
}


def register() -> None:
    """Registers the architecture that vLLM lacks, and ties an engine process to the one that started it.

    vLLM calls this once in each of its processes, but promises nothing, so it may be called again.
    """
    from vllm import ModelRegistry

    if _VIDEO_LLAVA not in ModelRegistry.get_supported_archs():
        # By name: the class is imported only where a Video-LLaVA is served.
        ModelRegistry.register_model(_VIDEO_LLAVA, f"{MODULES[_VIDEO_LLAVA]}:{_VIDEO_LLAVA}")
    end_with_parent()


def register_class(architecture: str) -> None:
    """Registers one of our architectures by its imported class.

    To learn what a model registered by name can do, vLLM imports it in a process of its own, which costs another
    import of torch on each machine that has not cached the answer. That protects a later fork from CUDA, so where
    there is CUDA this should not be called.
    """
    from vllm import ModelRegistry

    module = importlib.import_module(MODULES[architecture])
    ModelRegistry.register_model(architecture, getattr(module, architecture))
