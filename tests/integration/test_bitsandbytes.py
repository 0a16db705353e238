"""4-bit weights on a CPU through transformers and bitsandbytes; vLLM's are in test_vllm_engine.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from bitsandbytes.nn import Linear4bit
from PIL import Image
from transformers import AutoProcessor, BitsAndBytesConfig, LlavaForConditionalGeneration

from tests.support import tiny_models


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
