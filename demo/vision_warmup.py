"""Warm up a larger copy of the demo CLIP's vision tower on patch labels, before a language model reads its patches.

    python -m demo.vision_warmup --pool /var/tmp/pool96 --out /var/tmp/tower96.pt

At 96 pixels a small object covers as many patches as a middling one does at 64, so the tower starts by knowing much
of what it has to know. A fifth layer is put on top because LLaVA reads the last layer but one; nothing reads it.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from torch import Tensor, nn
from transformers import CLIPModel, CLIPVisionConfig, CLIPVisionModel

from demo.clip_model import POSITION_STRENGTH, grid_waves
from demo.clip_pool import IGNORED, Pool, build_pool, load_pool
from demo.vision_batches import Helpers, draw_pictures

CLIP_FOLDER = Path(__file__).parent / "checkpoints" / "clip"
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
SIDE = 96
#: Shares of easy, medium and hard scenes in the pool.
SHARES = (0.25, 0.4, 0.35)


def enlarged_tower(side: int = SIDE) -> CLIPVisionModel:
    """The demo CLIP's vision tower for pictures of `side` pixels, with a fifth layer that passes everything through."""
    clip = CLIPModel.from_pretrained(CLIP_FOLDER, dtype=torch.float32)
    config = clip.config.vision_config.to_dict() | {"image_size": side, "num_hidden_layers": 5}
    tower = CLIPVisionModel(CLIPVisionConfig(**config))
    weights = clip.vision_model.state_dict()
    name = "embeddings.position_embedding.weight"
    weights[name] = resized_positions(weights[name], side // tower.config.patch_size)
    tower.load_state_dict(weights, strict=False)
    with torch.no_grad():
        last = tower.encoder.layers[-1]
        for part in (last.self_attn.out_proj, last.mlp.fc2):
            part.weight.zero_()
            part.bias.zero_()
    return tower


def resized_positions(positions: Tensor, grid: int) -> Tensor:
    """The position embeddings (1 + G G, width) of a tower for another grid.

    They are the waves that they were started as, going on at the same pace, plus what they learned since, stretched:
    neighbours stay neighbours for the heads that look beside a patch.
    """
    old = math.isqrt(len(positions) - 1)
    learned = positions[1:] - POSITION_STRENGTH * grid_waves(old)
    learned = learned.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    stretched = F.interpolate(learned, size=(grid, grid), mode="bicubic", align_corners=False)
    stretched = stretched.permute(0, 2, 3, 1).reshape(grid * grid, -1)
    return torch.cat([positions[:1], POSITION_STRENGTH * grid_waves(grid) + stretched])


def load_tower(path: Path) -> tuple[CLIPVisionModel, Helpers]:
    """The tower and the helper outputs that a warm-up wrote."""
    state = torch.load(path, weights_only=True)
    tower = enlarged_tower()
    tower.load_state_dict(state["tower"])
    helpers = Helpers(tower.config.hidden_size)
    helpers.load_state_dict(state["helpers"])
    return tower, helpers


def tower_features(tower: CLIPVisionModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states (B, 1 + G G, width) half way up and below the last layer: what LLaVA calls layer -2."""
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    layers = tower.encoder.layers[:-1]
    early = hidden
    for number, layer in enumerate(layers):
        hidden = layer(hidden, attention_mask=None)
        if number + 1 == len(layers) // 2:
            early = hidden
    return early, hidden


def normalised(hidden: Tensor) -> Tensor:
    """Patches without their class token, each at mean zero and variance one, as the helpers read them."""
    return F.layer_norm(hidden[:, 1:], hidden.shape[-1:])


class Warmup:
    """Tower, helper outputs and optimiser."""

    def __init__(self, pool: Pool, *, batch: int, rate: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.pool, self.batch, self.rate = pool, batch, rate
        self.tower = enlarged_tower(pool.images.shape[1])
        self.helpers = Helpers(self.tower.config.hidden_size)
        self.rng = np.random.default_rng(seed)
        # The fifth layer, the last norm and the outputs for whole pictures stay as they are.
        parts = [self.tower.embeddings, self.tower.pre_layrnorm, *self.tower.encoder.layers[:-1], self.helpers]
        self.parameters = [p for part in parts for p in part.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.02, fused=True)

    def step(self, progress: float) -> dict[str, float]:
        """One optimiser step; returns the losses, and how many patches are named right."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * (min(progress / 0.05, 0.5 + 0.5 * math.cos(math.pi * progress)) + 0.01)
        chosen = np.sort(self.rng.choice(len(self.pool.scenes), self.batch, replace=False))
        batch = draw_pictures(self.pool, chosen, self.rng, MEAN, STD)
        early, hidden = tower_features(self.tower, batch.pixels)
        patches = normalised(hidden)
        losses = self.helpers.patch_losses(normalised(early), patches, batch)
        loss = torch.stack(tuple(losses.values())).sum()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        wanted = batch.classes
        filled = (wanted[:, 1] > 0) & (wanted[:, 1] != IGNORED)
        with torch.no_grad():
            shape = (self.helpers.patch_shape(patches).argmax(-1) == wanted[:, 1])[filled].double().mean()
            colour = (self.helpers.patch_colour(patches).argmax(-1) == wanted[:, 0])[filled].double().mean()
        shown = {name: value.item() for name, value in losses.items()}
        return shown | {"shape right": shape.item(), "colour right": colour.item()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True, help="folder of the rendered pool, made when missing")
    parser.add_argument("--out", type=Path, required=True, help="file for the tower and the helper outputs")
    parser.add_argument("--count", type=int, default=40_000, help="pictures in the pool")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=8e-4, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.nice(19)
    if not (arguments.pool / "scenes.json").exists():
        build_pool(arguments.pool, arguments.count, arguments.seed, side=SIDE, shares=SHARES)
    warmup = Warmup(load_pool(arguments.pool), batch=arguments.batch, rate=arguments.rate, seed=arguments.seed)
    start = time.monotonic()
    for step in range(arguments.steps):
        shown = warmup.step(step / arguments.steps)
        if step % 25 == 24:
            text = " ".join(f"{name} {value:.3f}" for name, value in shown.items())
            print(f"step {step + 1} {time.monotonic() - start:.0f} s: {text}", flush=True)
        if step % 200 == 199 or step + 1 == arguments.steps:
            torch.save({"tower": warmup.tower.state_dict(), "helpers": warmup.helpers.state_dict()}, arguments.out)


if __name__ == "__main__":
    main()
