"""Prompts, answers and fixtures that tests of the vLLM engine share."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from deployments.generation import vllm_process, vllm_settings
from deployments.generation.engine import Engine, Prompt
from deployments.generation.messages import Answer, ChatEvent, ChatResult, Gathering, Sampling
from serve.config.models import GenerativeModel
from tests.support import tiny_models

WINDOW = 2048
GREEDY = Sampling(temperature=0.0, max_tokens=20)
_rng = np.random.default_rng(7)


def picture(width: int, height: int) -> Image.Image:
    coarse = _rng.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def video(frames: int = tiny_models.FRAMES) -> np.ndarray:
    return _rng.integers(0, 255, (frames, 40, 50, 3), dtype=np.uint8)


A, B, V, W = picture(50, 40), picture(30, 64), video(), video()


def prompt(text: str, images: tuple[Image.Image, ...] = (), videos: tuple[np.ndarray, ...] = ()) -> Prompt:
    ids = tuple(str(hash(image.tobytes())) for image in images), tuple(str(hash(clip.tobytes())) for clip in videos)
    return Prompt(text, images, ids[0], videos, ids[1])


def ask_about(*media: Any, text: str = "what is it?") -> Prompt:
    """A prompt with its media in order."""
    marks = "".join("<image>\n" if isinstance(item, Image.Image) else "<video>\n" for item in media)
    images = tuple(item for item in media if isinstance(item, Image.Image))
    videos = tuple(item for item in media if not isinstance(item, Image.Image))
    return prompt(f"USER: {marks}{text} ASSISTANT:", images, videos)


async def events(engine: Engine, asked: Prompt, sampling: Sampling = GREEDY, within_s: float = 60) -> list[ChatEvent]:
    return [event async for event in engine.generate(asked, sampling, "test", time.monotonic() + within_s)]


async def answer(engine: Engine, asked: Prompt, sampling: Sampling = GREEDY, within_s: float = 60) -> ChatResult:
    gathering = Gathering()
    for event in await events(engine, asked, sampling, within_s):
        gathering.add(event)
    return gathering.result()


async def only(engine: Engine, asked: Prompt, sampling: Sampling = GREEDY) -> Answer:
    (one,) = (await answer(engine, asked, sampling)).answers
    return one


def by_transformers(folder: Path, asked: Prompt) -> tuple[int, tuple[int, ...]]:
    """Prompt tokens, and the greedy answer of transformers in float32."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    media = {"images": list(asked.images) or None, "videos": list(asked.videos) or None}
    inputs = processor(text=asked.text, return_tensors="pt", **{k: v for k, v in media.items() if v})
    with torch.no_grad():
        made = model.generate(**inputs, max_new_tokens=GREEDY.max_tokens, do_sample=False)
    length = inputs["input_ids"].shape[1]
    return length, tuple(made[0, length:].tolist())


async def assert_parity(engine: Engine, folder: Path, asked: Prompt) -> None:
    result = await answer(engine, asked)
    assert (result.prompt_tokens, result.answers[0].token_ids) == by_transformers(folder, asked)


@pytest.fixture(scope="module", autouse=True)
def forked_engines() -> Iterator[None]:
    """One fork server for the module, and the process' environment as it was."""
    before = dict(os.environ)
    os.environ.update(vllm_settings.environment(model(Path("x")), "cpu"))
    vllm_process.use_fork_server(forked_engines)
    yield
    vllm_process.leave_fork_server(forked_engines)
    os.environ.clear()
    os.environ.update(before)


def model(folder: Path, **settings: Any) -> GenerativeModel:
    return GenerativeModel(
        **{"kind": "llava", "checkpoint": str(folder), "max_model_len": WINDOW, "kv_cache_gb": 0.1, **settings}
    )


def engine_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "EngineCore" in child.name()]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.llava(tmp_path_factory.mktemp("llava"), context=WINDOW)
