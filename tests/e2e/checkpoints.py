"""Checkpoints with random weights, for parity: the arithmetic of serving does not depend on training."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from serve.config.load import DEMO_CHECKPOINTS


def random_vit_b32(folder: Path) -> Path:
    """openai/clip-vit-base-patch32's exact configuration (its defaults in transformers), random weights.

    The tokenizer is the demo's, whose ids lie within the vocabulary, so the end-of-text id is the demo's too.
    """
    demo = CLIPConfig.from_pretrained(DEMO_CHECKPOINTS / "clip")
    text = CLIPTextConfig(
        eos_token_id=demo.text_config.eos_token_id,
        bos_token_id=demo.text_config.bos_token_id,
        pad_token_id=demo.text_config.pad_token_id,
    )
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=CLIPVisionConfig().to_dict()))
    model.save_pretrained(folder, safe_serialization=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_CHECKPOINTS / "clip" / name, folder / name)
    CLIPImageProcessorPil().save_pretrained(folder)
    return folder
