"""The demo CLIP itself: its tokenizer, its untrained model, and saving it the way published CLIPs are saved."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from demo import clip_prompts as prompts
from demo.clip_pool import GRID, PATCH, SIDE
from demo.scenes import CAPTION_LEVELS, caption, questions, sample_scene

MAX_TOKENS = 77
_WIDTH, _LAYERS, _HEADS, _MLP = 192, 4, 3, 384
_TEXT_WIDTH, _TEXT_LAYERS, _TEXT_HEADS, _TEXT_MLP = 128, 2, 4, 256
_PROJECTION = 128
_VOCABULARY = 2048
_END_OF_WORD = "</w>"


def build_tokenizer(seed: int) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges come from the scene language; single bytes cover every other string."""
    blank = CLIPTokenizer().backend_tokenizer
    trained = Tokenizer(models.BPE(end_of_word_suffix=_END_OF_WORD))
    trained.normalizer = normalizers.Sequence([blank.normalizer])
    trained.pre_tokenizer = pre_tokenizers.Sequence([blank.pre_tokenizer])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, initial_alphabet=alphabet, end_of_word_suffix=_END_OF_WORD, show_progress=False
    )
    trained.train_from_iterator(_corpus(random.Random(seed)), trainer)
    merges = [(left, right) for left, right in json.loads(trained.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(letter + _END_OF_WORD for letter in alphabet), *(left + right for left, right in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def build_processor(tokenizer: CLIPTokenizer) -> CLIPProcessor:
    """CLIP's own preprocessing at 64 pixels: bicubic resize of the shorter edge, centre crop, CLIP's mean and std."""
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return CLIPProcessor(image_processor=images, tokenizer=tokenizer)


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """The untrained model, started so that attention is local from the first step."""
    config = CLIPConfig(
        projection_dim=_PROJECTION,
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": _TEXT_WIDTH,
            "intermediate_size": _TEXT_MLP,
            "num_hidden_layers": _TEXT_LAYERS,
            "num_attention_heads": _TEXT_HEADS,
            "projection_dim": _PROJECTION,
            "max_position_embeddings": MAX_TOKENS,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "hidden_size": _WIDTH,
            "intermediate_size": _MLP,
            "num_hidden_layers": _LAYERS,
            "num_attention_heads": _HEADS,
            "projection_dim": _PROJECTION,
            "image_size": SIDE,
            "patch_size": PATCH,
            "hidden_act": "gelu",
        },
    )
    model = CLIPModel(config)
    with torch.no_grad():
        _start_vision(model)
    return model


def save_checkpoint(folder: Path, model: CLIPModel, processor: CLIPProcessor) -> None:
    """Write model and processor, weights as float16 safetensors."""
    copy.deepcopy(model).half().save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)


def _corpus(rng: random.Random) -> Iterator[str]:
    for number in range(3000):
        scene = sample_scene(number, split="train", difficulty="medium")
        yield from (caption(scene, level) for level in CAPTION_LEVELS)
        if number % 4 == 0:
            yield from (question.question for question in questions(scene))
    for _ in range(200):
        yield from prompts.random_colour_prompts(rng)
        yield from prompts.random_shape_prompts(rng)
        yield from prompts.random_pair_prompts(rng)
    yield from (*prompts.TRAIN_TEMPLATES, *prompts.FILLERS)
    yield from (" ".join(rng.choices(prompts.FILLERS, k=8)) for _ in range(2000))


def _start_vision(model: CLIPModel) -> None:
    """Sine and cosine position embeddings, and query, key, value and output weights that imitate trained ones.

    Query times key starts near the identity, so that a patch attends to patches at like positions with like content;
    value times output starts near its negative, so that what is attended to stands out from the patch's own content.
    """
    vision = model.vision_model
    positions = vision.embeddings.position_embedding.weight
    positions.zero_()
    positions[1:] = 0.4 * _grid_waves(_WIDTH)
    for layer in vision.encoder.layers:
        attention = layer.self_attn
        width = _WIDTH // _HEADS
        for head in range(_HEADS):
            rows = slice(head * width, (head + 1) * width)
            left, strength, right = torch.linalg.svd(_near_identity(0.7, 0.7))
            root = strength[:width].sqrt()
            attention.q_proj.weight[rows] = (left[:, :width] * root).T
            attention.k_proj.weight[rows] = right[:width] * root[:, None]
        left, strength, right = torch.linalg.svd(_near_identity(0.4, -0.4))
        attention.v_proj.weight.copy_((left * strength.sqrt()).T)
        attention.out_proj.weight.copy_((strength.sqrt()[:, None] * right).T)


def _near_identity(noise: float, identity: float) -> torch.Tensor:
    return noise * torch.randn(_WIDTH, _WIDTH) / math.sqrt(_WIDTH) + identity * torch.eye(_WIDTH)


def _grid_waves(width: int) -> torch.Tensor:
    """Sines and cosines of the row and of the column of each patch: (64, width)."""
    count = width // 4
    rates = 2.0 * torch.pi / GRID * 0.5 * torch.arange(1, count + 1) ** 0.5
    angles = torch.arange(GRID)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = waves[:, None].expand(GRID, GRID, 2 * count)
    columns = waves[None].expand(GRID, GRID, 2 * count)
    return torch.cat([rows, columns], dim=-1).reshape(GRID * GRID, width)
