"""Small checkpoints with random weights, in the layout of the hub, for tests of the engines.

Weights are drawn wider than models are initialised, so that answers vary from token to token and depend on the picture:
with the usual 0.02 a random model repeats one token, and parity would prove little.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaImageProcessor,
    VideoLlavaProcessor,
    VideoLlavaVideoProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

IMAGE_SIZE = 32
PATCH = 8
FRAMES = 4
CONTEXT = 512
# Sizes that LLaVA-NeXT may cut an image into, (height, width).
_GRID = [[IMAGE_SIZE, 2 * IMAGE_SIZE], [2 * IMAGE_SIZE, IMAGE_SIZE], [2 * IMAGE_SIZE, 2 * IMAGE_SIZE]]
_BOS, _EOS, _PAD = "<s>", "</s>", "<pad>"


def tokenizer(*media: str, bos: bool = True) -> PreTrainedTokenizerFast:
    """One token a byte, and the special ones; `media` are placeholders such as `<image>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    specials = [_BOS, _EOS, _PAD, *media]
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{_BOS} $A", special_tokens=[(_BOS, inner.token_to_id(_BOS))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=_BOS, eos_token=_EOS, pad_token=_PAD)


def _vision() -> dict[str, Any]:
    # Multiples of 64: bitsandbytes packs 4-bit weights by the block on processors that have AVX-512 BF16.
    return {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH,
    }


def _llama(words: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(words),
        "max_position_embeddings": CONTEXT,
        **_special_ids(words),
    }


def _special_ids(words: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}


def _clip_images(kind: Callable[..., Any] = CLIPImageProcessorPil) -> Any:
    return kind(size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})


def _tiled_images() -> LlavaNextImageProcessor:
    return LlavaNextImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_grid_pinpoints=_GRID,
    )


def _randomise(model: PreTrainedModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        with torch.no_grad():
            if weight.ndim > 1 or "embedding" in name:
                weight.normal_(0.0, 0.25, generator=generator)


def _save(model: PreTrainedModel, processor: Any, folder: Path, *renames: tuple[str, str]) -> Path:
    """Saves both, and gives the weights the names that they have on the hub."""
    model.generation_config.do_sample = False
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for pattern, replacement in renames:
        weights = {re.sub(pattern, replacement, name): weight for name, weight in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def llava(folder: Path, *, seed: int = 0, context: int = CONTEXT) -> Path:
    """LLaVA 1.5: CLIP, projector, Llama; 16 tokens an image."""
    words = tokenizer("<image>")
    image = words.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **_vision()},
        text_config={**_llama(words), "max_position_embeddings": context},
        image_token_index=image,
        image_seq_length=(IMAGE_SIZE // PATCH) ** 2,
        **_special_ids(words),
    )
    model = LlavaForConditionalGeneration(config)
    _randomise(model, seed)
    processor = LlavaProcessor(
        _clip_images(),
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    return _save(model, processor, folder, (r"^vision_tower\.", "vision_tower.vision_model."))


def llava_next(folder: Path, *, seed: int = 0) -> Path:
    """LLaVA-NeXT: as LLaVA, with tiles."""
    words = tokenizer("<image>")
    image = words.convert_tokens_to_ids("<image>")
    config = LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", **_vision()},
        text_config=_llama(words),
        image_token_index=image,
        image_grid_pinpoints=_GRID,
        image_seq_length=(IMAGE_SIZE // PATCH) ** 2,
        **_special_ids(words),
    )
    model = LlavaNextForConditionalGeneration(config)
    _randomise(model, seed)
    with torch.no_grad():
        model.model.image_newline.normal_(0.0, 0.25, generator=torch.Generator().manual_seed(seed))
    processor = LlavaNextProcessor(
        _tiled_images(),
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    return _save(model, processor, folder, (r"^vision_tower\.", "vision_tower.vision_model."))


def blip2(folder: Path, *, seed: int = 0) -> Path:
    """BLIP-2: its own vision tower, Q-Former with 4 queries, OPT."""
    words = tokenizer("<image>")
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    opt = {
        "model_type": "opt",
        "architectures": ["OPTForCausalLM"],
        "hidden_size": 64,
        "word_embed_proj_dim": 64,
        "ffn_dim": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": len(words),
        "max_position_embeddings": CONTEXT,
        **_special_ids(words),
    }
    config = Blip2Config(
        vision_config={**size, "image_size": IMAGE_SIZE, "patch_size": PATCH},
        qformer_config={**size, "encoder_hidden_size": 32, "vocab_size": len(words)},
        text_config=opt,
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    model = Blip2ForConditionalGeneration(config)
    _randomise(model, seed)
    with torch.no_grad():
        model.query_tokens.normal_(0.0, 0.25, generator=torch.Generator().manual_seed(seed))
    images = BlipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    return _save(model, Blip2Processor(images, words, num_query_tokens=4), folder)


def video_llava(folder: Path, *, seed: int = 0, hub_names: bool = False) -> Path:
    """Video-LLaVA: two CLIP towers, one projector, Llama; 16 tokens an image, 17 a frame.

    Args:
        hub_names: weights named as on the hub; else as transformers 5 names them.
    """
    words = tokenizer("<image>", "<video>")
    config = VideoLlavaConfig(
        vision_config={"model_type": "clip_vision_model", **_vision()},
        text_config=_llama(words),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_seq_length=(IMAGE_SIZE // PATCH) ** 2,
        video_seq_length=((IMAGE_SIZE // PATCH) ** 2 + 1) * FRAMES,
        **_special_ids(words),
    )
    model = VideoLlavaForConditionalGeneration(config)
    _randomise(model, seed)
    processor = VideoLlavaProcessor(
        _clip_images(VideoLlavaImageProcessor),
        _clip_images(VideoLlavaVideoProcessor),
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    renames = [(r"^(image|video)_tower\.", r"\1_tower.vision_model.")] if hub_names else []
    return _save(model, processor, folder, *renames)


def llava_next_video(folder: Path, *, seed: int = 0) -> Path:
    """LLaVA-NeXT-Video: as LLaVA-NeXT, and videos of 16 tokens a frame (64 patches, pooled two by two).

    vLLM divides by image size // patch size squared, so patches are smaller here.
    """
    patch = PATCH // 2
    words = tokenizer("<image>", "<video>")
    config = LlavaNextVideoConfig(
        vision_config={"model_type": "clip_vision_model", **_vision(), "patch_size": patch},
        text_config=_llama(words),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=_GRID,
        image_seq_length=(IMAGE_SIZE // patch) ** 2,
        video_seq_length=(IMAGE_SIZE // patch) ** 2 // 4 * FRAMES,
        **_special_ids(words),
    )
    model = LlavaNextVideoForConditionalGeneration(config)
    _randomise(model, seed)
    with torch.no_grad():
        model.model.image_newline.normal_(0.0, 0.25, generator=torch.Generator().manual_seed(seed))
    processor = LlavaNextVideoProcessor(
        _clip_images(LlavaNextVideoVideoProcessor),
        _tiled_images(),
        words,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return _save(model, processor, folder, (r"^vision_tower\.", "vision_tower.vision_model."))
