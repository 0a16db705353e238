"""Prompts, engines and waits that tests of the transformers engine share."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from deployments.generation.engine import Prompt
from deployments.generation.messages import (
    ChatResult,
    Gathering,
    Sampling,
)
from deployments.generation.transformers_engine import TransformersEngine
from serve.config.model_base import Batching
from serve.config.models import GenerativeModel
from tests.support import tiny_generation, tiny_models
from tests.support.tiny_generation import Gate

GREEDY = Sampling(max_tokens=24, temperature=0.0)
BUILDERS: dict[str, Callable[[Path], Path]] = {
    "llava": tiny_models.llava,
    "llava_next": tiny_models.llava_next,
    "blip2": tiny_models.blip2,
    "blip2_t5": tiny_generation.blip2_t5,
    "video_llava": tiny_models.video_llava,
    "llava_next_video": tiny_models.llava_next_video,
}


def picture(seed: int, size: tuple[int, int] = (40, 60)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def about(text: str, *seeds: int, sizes: Sequence[tuple[int, int]] = ()) -> Prompt:
    """A LLaVA prompt about pictures."""
    images = tuple(picture(seed, size) for seed, size in zip(seeds, sizes or [(40, 60)] * len(seeds), strict=True))
    return Prompt(f"USER: {'<image>' * len(seeds)}{text} ASSISTANT:", images, tuple(map(str, seeds)))


def clip(seed: int, frames: int = tiny_models.FRAMES) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (frames, 40, 60, 3), dtype=np.uint8)


def film(text: str, seed: int, *images: int, frames: int = tiny_models.FRAMES) -> Prompt:
    pictures = tuple(map(picture, images))
    video = clip(seed, frames)
    return Prompt(f"USER: {'<image>' * len(images)}<video>{text} ASSISTANT:", pictures, ("i",) * len(images), (video,))


class Observer:
    """Remembers how many rows each batch had."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.retried: list[int] = []

    def batch_ran(self, *, items: int, cost: float, forward_s: float, waits_s: Sequence[float]) -> None:
        self.sizes.append(items)

    def dropped(self, reason: str) -> None: ...

    def retried_alone(self, items: int) -> None:
        self.retried.append(items)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: build(tmp_path_factory.mktemp(name)) for name, build in BUILDERS.items()}


def config_of(folder: Path, kind: str = "llava", **settings: Any) -> GenerativeModel:
    kind = {"llava_next": "llava", "blip2_t5": "blip2", "llava_next_video": "video_llava"}.get(kind, kind)
    settings.setdefault("batching", Batching(max_wait_ms=200))
    return GenerativeModel(kind=kind, checkpoint=str(folder), engine="transformers", **settings)


@pytest.fixture
async def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.fixture
async def observer() -> Observer:
    return Observer()


@pytest.fixture
async def llava(folders: dict[str, Path], gate: Gate, observer: Observer) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine(config_of(folders["llava"]), observer)
    await engine.start()
    gate.steps = 0
    observer.sizes.clear()
    yield engine
    gate.open()
    await engine.close()


async def answer(
    engine: TransformersEngine, prompt: Prompt, sampling: Sampling = GREEDY, deadline: float = math.inf
) -> ChatResult:
    gathering = Gathering()
    async with aclosing(engine.generate(prompt, sampling, "test", deadline)) as events:
        async for event in events:
            gathering.add(event)
    return gathering.result()


async def together(
    engine: TransformersEngine, gate: Gate, *requests: tuple[Prompt, Sampling]
) -> list[ChatResult | BaseException]:
    """The answers of requests that were made to share a batch: they gather while another one runs."""
    gate.shut()
    plug = asyncio.create_task(answer(engine, about("plug"), Sampling(max_tokens=1, temperature=0)))
    await asyncio.to_thread(gate.entered.acquire)
    tasks = [asyncio.create_task(answer(engine, prompt, sampling)) for prompt, sampling in requests]
    await queued(engine, sum(sampling.n for _, sampling in requests))
    gate.open()
    await plug
    return await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(12_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("what was waited for has not come within a minute")


async def queued(engine: TransformersEngine, rows: int) -> None:
    await until(lambda: engine.waiting >= rows)


@functools.cache
def plain(folder: Path) -> tuple[Any, Any]:
    """The model and its processor, as transformers loads them."""
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(folder)
