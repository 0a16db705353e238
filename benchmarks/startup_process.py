"""One start of a generating model in a process of its own: prints its stages as a line of JSON. `benchmarks.startup`
runs it; nothing is imported before the clock has been read.

    python -m benchmarks.startup_process KIND SYSTEM SPAWNED_AT
"""

from __future__ import annotations

import time

_BEGAN = time.time()

import asyncio  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

if TYPE_CHECKING:
    from deployments.generation.messages import Message
    from serve.config.models import GenerativeModel

_ROOT = Path(__file__).parents[1]
_QUESTION = "What colour is the object?"
_LONGEST_S = 300.0


def model_of(kind: str, engine: str) -> GenerativeModel:
    """A demo checkpoint's section of a cluster file."""
    from serve.config.models import GenerativeModel

    section: dict[str, Any] = {
        "kind": kind,
        "engine": engine,
        "checkpoint": str(_ROOT / "demo" / "checkpoints" / kind),
        "batching": {"max_items": 16},
    }
    return GenerativeModel.model_validate(section)


def question() -> Message:
    """One question about the sample picture."""
    from deployments.generation.messages import ImagePart, Message, Text
    from deployments.messages import EncodedImage

    picture = (_ROOT / "demo" / "samples" / "red_star.png").read_bytes()
    return Message("user", (ImagePart(EncodedImage(picture)), Text(_QUESTION)))


async def argus(kind: str, engine: str) -> dict[str, float]:
    """Our replica, as Ray Serve makes it. Seconds by stage."""
    began = time.monotonic()
    from deployments.generation.messages import ChatRequest, Sampling
    from deployments.generation.replica import GenerativeReplica
    from deployments.messages import Call
    from serve.media.image import ImageLimits

    replica = GenerativeReplica.__new__(GenerativeReplica)
    await replica.__init__(kind, model_of(kind, engine), ImageLimits())  # type: ignore[misc]
    try:
        ready = time.monotonic()
        stages = (await replica.info()).start_s or {}
        request = ChatRequest((question(),), Sampling(max_tokens=8, temperature=0.0))
        await replica.chat(request, Call("first", _LONGEST_S))
        return {
            "imports": ready - began - sum(stages.values()) + stages.get("import", 0.0),
            "process": stages.get("config", 0.0) + stages.get("process", 0.0),
            "weights": stages["load"] + stages.get("processor", 0.0),
            "warm_up": stages["warm_up"],
            "first_answer": time.monotonic() - ready,
        }
    finally:
        await replica.__del__()


async def plain_vllm(kind: str) -> dict[str, float]:
    """vLLM's own `AsyncLLM` with the engine arguments that ours is given, and its own way of starting."""
    began = time.monotonic()
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

    from deployments.base import CpuPool
    from deployments.generation.media import MediaLimits, load_prompt
    from deployments.generation.prompts import load_style, render
    from deployments.generation.vllm_settings import engine_arguments

    model = model_of(kind, "vllm")
    style = load_style(model.checkpoint)
    imported = time.monotonic()
    arguments = engine_arguments(model, "cpu")
    del arguments["worker_extension_cls"]
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    try:
        ready = time.monotonic()
        pool = CpuPool(1)
        prompt = await load_prompt(render([question()], style), pool, MediaLimits(), ready + _LONGEST_S)
        pool.close()
        asked: Any = {"prompt": prompt.text, "multi_modal_data": {"image": list(prompt.images)}}
        async for _ in llm.generate(asked, SamplingParams(max_tokens=8, temperature=0.0), "first"):
            pass
        return {
            "imports": imported - began,
            "process": ready - imported,
            "first_answer": time.monotonic() - ready,
        }
    finally:
        llm.shutdown()


async def _started(kind: str, system: str) -> dict[str, float]:
    return await (plain_vllm(kind) if system == "plain vllm" else argus(kind, system))


def main() -> None:
    """Command line."""
    kind, system, spawned_at = sys.argv[1:]
    # Nothing is reported to anyone, and nothing looked up.
    os.environ.update({"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"})
    stages = {"python": _BEGAN - float(spawned_at), **asyncio.run(_started(kind, system))}
    print(json.dumps(stages), flush=True)


if __name__ == "__main__":
    main()
