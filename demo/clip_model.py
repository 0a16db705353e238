"""The demo CLIP itself: its tokenizer, its untrained model, and saving it the way published CLIPs are saved."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from demo import clip_prompts as prompts
from demo.clip_pool import GRID, PATCH, SIDE
from demo.scenes import CAPTION_LEVELS, caption, questions, sample_scene

MAX_TOKENS = 77
WIDTH, LAYERS, _HEADS, _MLP = 192, 4, 6, 384
_TEXT_WIDTH, _TEXT_LAYERS, _TEXT_HEADS, _TEXT_MLP = 128, 2, 4, 256
_PROJECTION = 128
POSITION_STRENGTH = 0.5
_NEIGHBOUR_FOCUS = 0.6
#: Where the heads of the first layers look at first: (rows, columns) away.
_NEIGHBOURS = (
    ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)),
    ((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1), (0, 0)),
)
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
    # The annotation of `merges` leaves out the pairs that the tokenizer in fact takes.
    return CLIPTokenizer(vocab=vocabulary, merges=cast("list[str]", merges), model_max_length=MAX_TOKENS)


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
            "hidden_size": WIDTH,
            "intermediate_size": _MLP,
            "num_hidden_layers": LAYERS,
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
    """Start the vision side with the habits of a small convolutional network.

    Positions are sines and cosines. In the first two layers each head looks at one neighbour of a patch, first those
    beside it, then those across its corners; in the others query times key starts near the identity, so that a patch
    looks for patches at like positions with like content.
    """
    vision = model.vision_model
    positions = vision.embeddings.position_embedding.weight
    positions.zero_()
    vision.embeddings.patch_embedding.weight *= 2.0
    positions[1:] = POSITION_STRENGTH * grid_waves()
    width = WIDTH // _HEADS
    for number, layer in enumerate(vision.encoder.layers):
        attention = layer.self_attn
        nn.init.orthogonal_(attention.v_proj.weight, gain=0.7)
        nn.init.orthogonal_(attention.out_proj.weight, gain=0.7)
        for head in range(_HEADS):
            rows = slice(head * width, (head + 1) * width)
            if number < len(_NEIGHBOURS):
                query, key = _look_at(_NEIGHBOURS[number][head], width)
            else:
                query, key = _look_for_alike(width)
            attention.q_proj.weight[rows], attention.k_proj.weight[rows] = query, key


def _look_at(step: tuple[int, int], width: int) -> tuple[Tensor, Tensor]:
    """Query and key weights (width, 192) under which a patch attends to the one `step` (rows, columns) away."""
    basis = torch.linalg.svd(grid_waves(), full_matrices=False).Vh[:width]
    return _NEIGHBOUR_FOCUS * basis @ _turn(step), _NEIGHBOUR_FOCUS * basis


def _look_for_alike(width: int) -> tuple[Tensor, Tensor]:
    """Query and key weights (width, 192) whose product is near the identity."""
    alike = 0.7 * torch.randn(WIDTH, WIDTH) / math.sqrt(WIDTH) + 0.7 * torch.eye(WIDTH)
    left, strength, right = torch.linalg.svd(alike)
    root = strength[:width].sqrt()
    return (left[:, :width] * root).T, right[:width] * root[:, None]


def _rates() -> Tensor:
    """Angles per patch: (48,)."""
    return torch.pi / GRID * torch.arange(1, WIDTH // 4 + 1) ** 0.5


def grid_waves(grid: int = GRID) -> Tensor:
    """Sines and cosines of the row, then of the column, of each patch: (grid grid, 192)."""
    angles = torch.arange(grid)[:, None] * _rates()
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = waves[:, None].expand(grid, grid, WIDTH // 2)
    columns = waves[None].expand(grid, grid, WIDTH // 2)
    return torch.cat([rows, columns], dim=-1).reshape(grid * grid, WIDTH)


def _turn(step: tuple[int, int]) -> Tensor:
    """The matrix (192, 192) that takes the waves of a patch to those of the patch `step` away."""
    half, quarter = WIDTH // 2, WIDTH // 4
    matrix = torch.zeros(WIDTH, WIDTH)
    for number, distance in enumerate(step):
        cos, sin = (distance * _rates()).cos().diag(), (distance * _rates()).sin().diag()
        sines = slice(number * half, number * half + quarter)
        cosines = slice(number * half + quarter, (number + 1) * half)
        matrix[sines, sines], matrix[sines, cosines] = cos, sin
        matrix[cosines, sines], matrix[cosines, cosines] = -sin, cos
    return matrix
