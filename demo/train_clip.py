"""Train the demo CLIP on the scene world, on one CPU core in well under an hour.

    python -m demo.train_clip --pool /var/tmp/clip_pool --minutes 40 --out demo/checkpoints/clip

Three things teach the vision side: colour and shape of every patch and of the largest object by plain classifiers
that are dropped at the end, zero-shot classification over all colours, shapes and pairs with prompts drawn anew each
step, and the captions of the batch's scenes.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from demo import clip_prompts as prompts
from demo.clip_model import MAX_TOKENS, build_model, build_processor, build_tokenizer, save_checkpoint
from demo.clip_pool import GRID, IGNORED, Pool, build_pool, load_pool
from demo.scenes import COLOURS, SHAPES, caption, label

_MAX_LOGIT_SCALE = math.log(100.0)
_BACKGROUND_WEIGHT = 0.15
_NOISE = 0.02


@dataclass(frozen=True, slots=True)
class Targets:
    """What is known of each picture of the pool; rows of the three weight tables add up to one.

    `colours` (N, 10), `shapes` (N, 8), `pairs` (N, 80) float32 by shown area; `subject` (N, 2) int64: colour and
    shape of the largest object; `brief` and `detailed`: captions; `contents`: a key equal for scenes with the same
    objects.
    """

    colours: Tensor
    shapes: Tensor
    pairs: Tensor
    subject: Tensor
    brief: tuple[str, ...]
    detailed: tuple[str, ...]
    contents: NDArray[np.int64]


class PatchHeads(nn.Module):
    """Classifiers that exist only while training: per patch and per picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch_colour = nn.Linear(width, len(COLOURS) + 1)
        self.patch_shape = nn.Linear(width, len(SHAPES) + 1)
        self.colour = nn.Linear(width, len(COLOURS))
        self.shape = nn.Linear(width, len(SHAPES))

    def loss(self, patches: Tensor, pooled: Tensor, labels: Tensor, subject: Tensor) -> Tensor:
        """The classifiers' loss for patches (B, 64, width), pooled (B, width), labels (B, 2, 64), subject (B, 2)."""
        shape = _patch_loss(self.patch_shape(patches), labels[:, 1])
        colour = _patch_loss(self.patch_colour(patches), labels[:, 0])
        whole_shape = F.cross_entropy(self.shape(pooled), subject[:, 1])
        whole_colour = F.cross_entropy(self.colour(pooled), subject[:, 0])
        return shape + 0.5 * colour + 0.5 * whole_shape + 0.25 * whole_colour


def _patch_loss(logits: Tensor, labels: Tensor) -> Tensor:
    weights = torch.ones(logits.shape[-1])
    weights[0] = _BACKGROUND_WEIGHT
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weights, ignore_index=IGNORED)


def collect_targets(pool: Pool) -> Targets:
    """Draw every scene of the pool again and note what it holds."""
    count = len(pool.scenes)
    colours, shapes = torch.zeros(count, len(COLOURS)), torch.zeros(count, len(SHAPES))
    pairs = torch.zeros(count, len(COLOURS), len(SHAPES))
    subject = torch.zeros(count, 2, dtype=torch.int64)
    brief, detailed, contents = [], [], []
    for number in range(count):
        scene = pool.scene(number)
        for item in scene.objects:
            colour, shape = COLOURS.index(item.colour), SHAPES.index(item.shape)
            colours[number, colour] += item.size**3
            shapes[number, shape] += item.size**3
            pairs[number, colour, shape] += item.size**3
        subject[number, 0] = COLOURS.index(scene.subject.colour)
        subject[number, 1] = SHAPES.index(scene.subject.shape)
        brief.append(caption(scene))
        detailed.append(caption(scene, "detailed"))
        contents.append(tuple(sorted(label(item) for item in scene.objects)))
    keys = {content: key for key, content in enumerate(sorted(set(contents)))}
    return Targets(
        colours / colours.sum(1, keepdim=True),
        shapes / shapes.sum(1, keepdim=True),
        pairs.flatten(1) / pairs.sum((1, 2)).unsqueeze(1),
        subject,
        tuple(brief),
        tuple(detailed),
        np.array([keys[content] for content in contents], np.int64),
    )


class Trainer:
    """Model, classifiers, optimiser and the random draws of one training run."""

    def __init__(self, pool: Pool, *, batch: int, rate: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.pool, self.batch, self.rate = pool, batch, rate
        self.targets = collect_targets(pool)
        self.tokenizer: CLIPTokenizer = build_tokenizer(seed)
        self.processor = build_processor(self.tokenizer)
        self.model: CLIPModel = build_model(self.tokenizer)
        self.heads = PatchHeads(self.model.config.vision_config.hidden_size)
        self.rng = np.random.default_rng(seed)
        self.words = random.Random(seed)
        images = self.processor.image_processor
        self.mean = torch.tensor(images.image_mean)[:, None, None]
        self.std = torch.tensor(images.image_std)[:, None, None]
        self.optimizer = torch.optim.AdamW(self._groups(), lr=rate, betas=(0.9, 0.98), fused=True)

    def _groups(self) -> list[dict[str, object]]:
        named = [*self.model.named_parameters(), *self.heads.named_parameters()]
        decayed = [p for n, p in named if p.ndim > 1 and "embedding" not in n]
        plain = [p for n, p in named if p.ndim <= 1 or "embedding" in n]
        return [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]

    def step(self, progress: float, *, with_text: bool) -> dict[str, float]:
        """One optimiser step at a share `progress` of the schedule; returns the losses by name."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * _schedule(progress)
        chosen = np.sort(self.rng.choice(len(self.pool.scenes), self.batch, replace=False))
        pixels, labels = self._pictures(chosen)
        vision = self.model.vision_model(pixel_values=pixels)
        patches = self.model.vision_model.post_layernorm(vision.last_hidden_state[:, 1:])
        rows = torch.from_numpy(chosen)
        losses = {"heads": self.heads.loss(patches, vision.pooler_output, labels, self.targets.subject[rows])}
        if with_text:
            images = F.normalize(self.model.visual_projection(vision.pooler_output), dim=-1)
            losses |= self._text_losses(images, chosen)
        loss = torch.stack(tuple(losses.values())).sum()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0.0, _MAX_LOGIT_SCALE)
        return {name: value.item() for name, value in losses.items()}

    def _pictures(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, 64, 64), normalised, and patch labels (B, 2, 64); half of the pictures are mirrored."""
        pixels = torch.from_numpy(self.pool.images[chosen]).permute(0, 3, 1, 2).float() / 255.0
        labels = torch.from_numpy(self.pool.patches[chosen]).long()
        mirrored = torch.from_numpy(self.rng.random(len(chosen)) < 0.5)
        pixels[mirrored] = pixels[mirrored].flip(-1)
        labels[mirrored] = labels[mirrored].flip(-1)
        gain = 1.0 + 0.12 * (2.0 * torch.rand(len(chosen), 1, 1, 1) - 1.0)
        tint = 0.03 * (2.0 * torch.rand(len(chosen), 3, 1, 1) - 1.0)
        noise = _NOISE * torch.rand(len(chosen), 1, 1, 1) * torch.randn_like(pixels)
        pixels = (pixels * gain + tint + noise).clamp(0.0, 1.0)
        return (pixels - self.mean) / self.std, labels.reshape(len(chosen), 2, GRID * GRID)

    def _text_losses(self, images: Tensor, chosen: NDArray[np.int64]) -> dict[str, Tensor]:
        """Zero-shot classification over each set of classes, and captions against pictures both ways."""
        rows = torch.from_numpy(chosen)
        captions = [self._caption(int(number)) for number in chosen]
        texts = self._encode(
            [
                *prompts.random_colour_prompts(self.words),
                *prompts.random_shape_prompts(self.words),
                *prompts.random_pair_prompts(self.words),
                *captions,
            ]
        )
        logits = self.model.logit_scale.exp() * images @ texts.T
        ends = [len(COLOURS), len(SHAPES), len(prompts.PAIRS), len(captions)]
        colours, shapes, pairs, matches = logits.split(ends, dim=1)
        contents = torch.from_numpy(self.targets.contents[chosen])
        same = (contents[:, None] == contents).float()
        wanted = same / same.sum(1, keepdim=True)
        return {
            "colour": 0.5 * F.cross_entropy(colours, self.targets.colours[rows]),
            "shape": F.cross_entropy(shapes, self.targets.shapes[rows]),
            "pair": F.cross_entropy(pairs, self.targets.pairs[rows]),
            "caption": 0.25 * (F.cross_entropy(matches, wanted) + F.cross_entropy(matches.T, wanted)),
        }

    def _caption(self, number: int) -> str:
        draw = self.words.random()
        if draw < 0.3:
            return self.targets.brief[number]
        if draw < 0.85:
            return prompts.random_caption(self.targets.brief[number], self.words)
        return self.targets.detailed[number]

    def _encode(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        pooled = self.model.text_model(**tokens).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1)


def _schedule(progress: float) -> float:
    """Share of the peak rate: a linear start over 4 %, then half a cosine."""
    return min(progress / 0.04, 0.5 + 0.5 * math.cos(math.pi * progress)) + 1e-3


def train(trainer: Trainer, out: Path, *, minutes: float, text_from: float, save_every: float) -> int:
    """Train for so many minutes; returns the number of steps taken."""
    start = time.monotonic()
    seconds, saved, step = 60.0 * minutes, start, 0
    while (passed := time.monotonic() - start) < seconds:
        progress = passed / seconds
        losses = trainer.step(progress, with_text=progress >= text_from)
        step += 1
        if step % 50 == 0:
            shown = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
            print(f"step {step} {passed:.0f} s, {step * trainer.batch / passed:.0f} images/s: {shown}", flush=True)
        if time.monotonic() - saved > 60.0 * save_every:
            save_checkpoint(out, trainer.model, trainer.processor)
            saved = time.monotonic()
    save_checkpoint(out, trainer.model, trainer.processor)
    return step


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True, help="folder of the rendered pool, made when missing")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--count", type=int, default=80_000, help="pictures in the pool")
    parser.add_argument("--minutes", type=float, default=40.0, help="length of the training, without the pool")
    parser.add_argument("--text-from", type=float, default=0.1, help="share of the schedule before the text joins")
    parser.add_argument("--save-every", type=float, default=5.0, help="minutes between checkpoints")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not (arguments.pool / "scenes.json").exists():
        build_pool(arguments.pool, arguments.count, arguments.seed)
    trainer = Trainer(load_pool(arguments.pool), batch=arguments.batch, rate=arguments.rate, seed=arguments.seed)
    steps = train(
        trainer,
        arguments.out,
        minutes=arguments.minutes,
        text_from=arguments.text_from,
        save_every=arguments.save_every,
    )
    print(f"{steps} steps, {steps * arguments.batch} pictures")


if __name__ == "__main__":
    main()
