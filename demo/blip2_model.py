"""The demo BLIP-2 before its training: a warmed-up tower in BLIP-2's form, queries laid out as a grid, a small OPT."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from torch import Tensor, nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    CLIPVisionModel,
    OPTConfig,
    PreTrainedTokenizerFast,
)

from demo.clip_model import grid_waves
from demo.generative_tokenizer import IMAGE
from demo.generative_training import HEADS, LAYERS, MLP, WIDTH
from demo.lookups import look_for_alike

#: Queries lie on a grid; each starts out looking at its own block of 2 x 2 patches.
QUERY_GRID = 6
QUERIES = QUERY_GRID**2
_QFORMER_LAYERS = 2
_TEXT_POSITIONS = 512


def build_model(
    tokenizer: PreTrainedTokenizerFast, tower: CLIPVisionModel, pixels: Tensor
) -> Blip2ForConditionalGeneration:
    """A BLIP-2 around a copy of a warmed-up CLIP tower; some typical pictures (N, 3, side, side) tell its scale."""
    vision = tower.config
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            num_hidden_layers=vision.num_hidden_layers - 1,
            num_attention_heads=vision.num_attention_heads,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            hidden_act=vision.hidden_act,
            layer_norm_eps=vision.layer_norm_eps,
            initializer_range=0.02,
        ),
        qformer_config=Blip2QFormerConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=MLP,
            num_hidden_layers=_QFORMER_LAYERS,
            num_attention_heads=HEADS,
            cross_attention_frequency=1,
            encoder_hidden_size=vision.hidden_size,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.05,
        ),
        text_config=OPTConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            word_embed_proj_dim=WIDTH,
            ffn_dim=MLP,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=_TEXT_POSITIONS,
            dropout=0.0,
            init_std=0.05,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():
        _copy_tower(model, tower, pixels)
        _lay_out_queries(model, pixels)
        decoder = model.language_model.model.decoder
        # The output layer is the embedding again, so this scale is that of the first guesses, too.
        decoder.embed_tokens.weight.normal_(0.0, 0.1)
        for layer in decoder.layers[: LAYERS // 2]:
            attention = layer.self_attn
            parts = (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
            look_for_alike(*parts, heads=HEADS, rotary=False)
    return model


def _copy_tower(model: Blip2ForConditionalGeneration, tower: CLIPVisionModel, pixels: Tensor) -> None:
    """CLIP's tower without the norm below its layers, which BLIP-2's has not.

    The norm's shift and gain fold into what is embedded, with one common scale in place of each token's own; the
    training makes up for the difference.
    """
    vision, embedded = model.vision_model, tower.embeddings(pixels)
    scale = embedded.std(dim=-1, correction=0).mean()
    gain, shift = tower.pre_layrnorm.weight / scale, tower.pre_layrnorm.bias
    kernel = tower.embeddings.patch_embedding.weight
    vision.embeddings.patch_embedding.weight.copy_((kernel - kernel.mean(0)) * gain[:, None, None, None])
    vision.embeddings.patch_embedding.bias.zero_()
    positions = tower.embeddings.position_embedding.weight
    vision.embeddings.position_embedding.copy_(((positions - positions.mean(1, keepdim=True)) * gain + shift)[None])
    top = tower.embeddings.class_embedding
    vision.embeddings.class_embedding.copy_(((top - top.mean()) * gain).view(1, 1, -1))
    for target, source in zip(vision.encoder.layers, tower.encoder.layers, strict=False):
        attention = source.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        target.self_attn.qkv.weight.copy_(torch.cat([part.weight for part in parts]))
        target.self_attn.qkv.bias.copy_(torch.cat([part.bias for part in parts]))
        target.self_attn.projection.load_state_dict(attention.out_proj.state_dict())
        for name in ("layer_norm1", "layer_norm2", "mlp"):
            getattr(target, name).load_state_dict(getattr(source, name).state_dict())


def _lay_out_queries(model: Blip2ForConditionalGeneration, pixels: Tensor) -> None:
    """Queries that start as the waves of their places, and keys that read a patch's place off its features."""
    vision, former = model.vision_model, model.qformer
    grid = vision.config.image_size // vision.config.patch_size
    waves = grid_waves(grid)
    features = vision(pixels).last_hidden_state[:, 1:]
    places = _least_squares(features.flatten(0, 1), waves.repeat(len(pixels), 1))
    block = grid // QUERY_GRID
    centres = waves.reshape(grid, grid, -1).unfold(0, block, block).unfold(1, block, block).mean(dim=(-2, -1))
    queries = F.layer_norm(centres.flatten(0, 1), (WIDTH,))
    model.query_tokens.copy_(queries[None])
    head = WIDTH // HEADS
    basis = torch.linalg.svd(waves, full_matrices=False).Vh[:head]
    attention = former.encoder.layer[0].crossattention.attention
    sharpness = _sharpness(queries @ basis.T, features @ places @ basis.T, block, grid)
    for number in range(HEADS):
        rows = slice(number * head, (number + 1) * head)
        attention.query.weight[rows] = sharpness * basis
        attention.key.weight[rows] = basis @ places.T
    attention.query.bias.zero_()
    attention.key.bias.zero_()
    nn.init.orthogonal_(attention.value.weight)
    nn.init.orthogonal_(former.encoder.layer[0].crossattention.output.dense.weight, gain=2.0)


def _least_squares(inputs: Tensor, wanted: Tensor) -> Tensor:
    """The matrix that best takes inputs (N, a) to wanted (N, b)."""
    square = inputs.T @ inputs + 1e-2 * len(inputs) * torch.eye(inputs.shape[1])
    return torch.linalg.solve(square, inputs.T @ wanted)


def _sharpness(queries: Tensor, keys: Tensor, block: int, grid: int) -> float:
    """How strongly queries (Q, d) must ask so that half of the attention to keys (N, G G, d) stays in their block."""
    rows = torch.arange(grid) // block
    own = (rows[:, None] * (grid // block) + rows).flatten()
    mine = torch.arange(len(queries))[:, None] == own
    scores = queries @ keys.transpose(1, 2) / math.sqrt(queries.shape[1])
    for strength in (0.25 * 1.3**number for number in range(24)):
        share = ((strength * scores).softmax(-1) * mine).sum(-1).mean().item()
        if share > 0.5:
            break
    print(f"queries start with {100.0 * share:.0f} % of their attention on their own block", flush=True)
    return strength
