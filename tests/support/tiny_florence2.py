"""Florence-2 checkpoints with random weights, in transformers' layout: a small one, and one of the published size.

The settings of generation are those of the published checkpoints, the ban on repeated trigrams included.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BartConfig, Florence2Config, Florence2ForConditionalGeneration, Florence2Processor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

from demo.florence2_model import build_model, build_processor, save_checkpoint
from demo.florence2_tokenizer import build_tokenizer

# Of Florence-2-base: 768 x 768 pixels become 24 x 24 tokens and their mean.
_BASE_SIDE, _BASE_TOKENS, _BASE_VOCABULARY, _BASE_POSITIONS = 768, 577, 51_290, 1024


def small(folder: Path, *, seed: int = 0) -> Path:
    """The demo's architecture: 192 pixels, 145 image tokens."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    _randomise(model, seed)
    return _save(folder, model, build_processor(tokenizer))


def base(folder: Path, *, seed: int = 0) -> Path:
    """The configuration of florence-community/Florence-2-base, 230 M parameters, with the demo's tokenizer."""
    tokenizer = build_tokenizer()
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    text = BartConfig(
        vocab_size=_BASE_VOCABULARY,
        max_position_embeddings=_BASE_POSITIONS,
        d_model=768,
        encoder_layers=6,
        decoder_layers=6,
        encoder_ffn_dim=3072,
        decoder_ffn_dim=3072,
        encoder_attention_heads=12,
        decoder_attention_heads=12,
        decoder_start_token_id=tokenizer.eos_token_id,
        **special,
    )
    vision = Florence2VisionConfig(projection_dim=768)
    config = Florence2Config(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        **special,
    )
    model = Florence2ForConditionalGeneration(config)
    _randomise(model, seed)
    images = CLIPImageProcessorPil(
        size={"height": _BASE_SIDE, "width": _BASE_SIDE},
        crop_size={"height": _BASE_SIDE, "width": _BASE_SIDE},
        do_center_crop=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        image_seq_length=_BASE_TOKENS,
    )
    parsing = build_processor(tokenizer).post_processor_config
    return _save(folder, model, Florence2Processor(images, tokenizer, post_processor_config=parsing))


def _randomise(model: Florence2ForConditionalGeneration, seed: int) -> None:
    """Attention is sharp and what it carries is strong, so that answers depend on picture, prompt and position.

    A decoder that merely repeats what it likes best has answers of equal score in every order of their tokens, and a
    beam search among those is decided by rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, _spread(name, weight[0].numel()), generator=generator)


def _spread(name: str, inputs: int) -> float:
    scale = float(inputs) ** -0.5
    if "language_model" not in name:
        return scale
    if "embed_positions" in name or "shared" in name:
        return 1.0 if "embed_positions" in name else 0.3
    if "q_proj" in name or "k_proj" in name or "encoder_attn" in name:
        return 3 * scale
    return 2 * scale


def _save(folder: Path, model: Florence2ForConditionalGeneration, processor: Florence2Processor) -> Path:
    save_checkpoint(folder, model, processor)
    saved = type(model.generation_config).from_pretrained(folder)
    saved.no_repeat_ngram_size = 3
    saved.save_pretrained(folder)
    return folder
