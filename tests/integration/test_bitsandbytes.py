"""4-bit and 8-bit weights on a CPU through transformers and bitsandbytes; vLLM's are in test_vllm_engine.py."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from PIL import Image
from transformers import AutoProcessor, BitsAndBytesConfig, LlavaForConditionalGeneration

from benchmarks.parity import prompts_of
from deployments.generation.messages import Sampling
from deployments.generation.transformers_engine import TransformersEngine
from deployments.generation.transformers_load import load
from serve.config.load import DEMO_CHECKPOINTS
from serve.config.models import GenerativeModel
from tests.support import tiny_models, transformers_cases

Quantization = Literal["none", "int8", "4bit"]
# Held-out prompts, and how many of their answers must be those of the model as it was trained. Measured: all of the
# LLaVA's, 92 (4-bit) and 98 % (8-bit) of the BLIP-2's 48.
PROMPTS, ALIKE = 16, 13


def config(kind: str, quantization: Quantization) -> GenerativeModel:
    """A demo checkpoint, whose weights are stored in 16 bits."""
    folder = DEMO_CHECKPOINTS / kind
    return transformers_cases.config_of(folder, kind, quantization=quantization)


async def answers(kind: str, quantization: Quantization) -> list[str]:
    """What it says of scenes that it was not trained on."""
    engine = TransformersEngine(config(kind, quantization))
    await engine.start()
    greedy = Sampling(max_tokens=12, temperature=0.0)
    try:
        asked = (transformers_cases.answer(engine, prompt, greedy) for prompt in prompts_of(kind, PROMPTS))
        return [result.answers[0].text for result in await asyncio.gather(*asked)]
    finally:
        await engine.close()


@functools.cache
def plain_answers(kind: str) -> list[str]:
    """Of the weights as they are stored."""
    return asyncio.run(answers(kind, "none"))


def packed_bytes(layer: Any) -> int:
    """Of a quantised matrix: its numbers and their scales."""
    if isinstance(layer, Linear8bitLt):
        return int(layer.weight.nbytes + layer.weight.SCB.nbytes)
    scales = layer.weight.quant_state
    return int(layer.weight.nbytes + scales.absmax.nbytes + scales.state2.absmax.nbytes)


@pytest.mark.parametrize("kind", ["llava", "blip2"])
@pytest.mark.parametrize(("quantization", "times_smaller"), [("4bit", (3.8, 4.0)), ("int8", (1.9, 2.0))])
def test_a_quantised_model_is_so_much_smaller_than_at_16_bits(
    kind: str, quantization: Quantization, times_smaller: tuple[float, float]
) -> None:
    loaded, whole = load(config(kind, quantization)), load(config(kind, "none"))
    kinds = Linear4bit if quantization == "4bit" else Linear8bitLt
    packed = {name: layer for name, layer in loaded.model.named_modules() if isinstance(layer, kinds)}
    numbers = {name: whole.model.get_submodule(name).weight.numel() for name in packed}
    least, most = times_smaller
    assert least < 2 * sum(numbers.values()) / sum(map(packed_bytes, packed.values())) < most
    # Matrices of vision tower and language model are packed, tables of the vocabulary are not.
    parts = {part for part in ("vision", "language_model") if any(part in name for name in packed)}
    assert parts == {"vision", "language_model"}
    assert sum(numbers.values()) > 0.6 * sum(weight.numel() for weight in whole.model.parameters())
    assert loaded.weights_bytes < whole.weights_bytes


@pytest.mark.parametrize("kind", ["llava", "blip2"])
@pytest.mark.parametrize("quantization", ["4bit", "int8"])
def test_a_quantised_model_answers_as_at_16_bits(
    kind: str, quantization: Quantization, caplog: pytest.LogCaptureFixture
) -> None:
    usual = plain_answers(kind)
    # Nobody comes near by always saying the same.
    assert Counter(usual).most_common(1)[0][1] <= PROMPTS // 4
    with caplog.at_level(logging.WARNING):
        quantised = asyncio.run(answers(kind, quantization))
    assert sum(a == b for a, b in zip(quantised, usual, strict=True)) >= ALIKE
    assert len(caplog.records) < PROMPTS, "bitsandbytes does not log every layer of every step"


def test_a_four_bit_llava_is_a_quarter_and_answers(tmp_path: Path) -> None:
    folder = tiny_models.llava(tmp_path)
    half = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=quantization, device_map="cpu"
    ).eval()

    packed = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    assert any("language_model" in name for name in packed)
    assert not any("lm_head" in name for name in packed)
    before = sum(2 * half.get_submodule(name).weight.numel() for name in packed)
    weights = sum(module.weight.numel() * module.weight.element_size() for module in packed.values())
    scales = sum(module.weight.quant_state.absmax.numel() * 4 for module in packed.values())
    assert weights * 4 == before
    # One float32 scale for 64 weights (sizing.py counts with it).
    assert (weights + scales) / before == (0.5 + 4 / 64) / 2

    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    inputs = AutoProcessor.from_pretrained(folder)(text="USER: <image>\nhi", images=image, return_tensors="pt")
    with torch.no_grad():
        made = model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    assert made.shape[1] == inputs["input_ids"].shape[1] + 8
