"""Train the demo CLIP on the scene world, on one CPU core in well under an hour.

    python -m demo.train_clip --pool /var/tmp/clip_pool --minutes 40 --out demo/checkpoints/clip

Three things teach the vision side: what every patch shows and what the largest object is, by linear outputs that are
dropped at the end, zero-shot classification over all colours, shapes and pairs with prompts drawn anew each
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
from demo.clip_model import LAYERS, MAX_TOKENS, WIDTH, build_model, build_processor, build_tokenizer, save_checkpoint
from demo.clip_pool import Pool, build_pool, load_pool
from demo.scenes import COLOURS, DIFFICULTIES, SHAPES, caption, label
from demo.vision_batches import Helpers, draw_pictures

_MAX_LOGIT_SCALE = math.log(100.0)
#: Shares of easy, medium and hard scenes in a batch, before and after this share of the schedule.
_HARDER_FROM = 0.4
_MIX_BEFORE, _MIX_AFTER = (0.65, 0.33, 0.02), (0.5, 0.32, 0.18)


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
        difficulties = np.array([DIFFICULTIES.index(difficulty) for _, difficulty, _ in pool.scenes])
        self.by_difficulty = [np.flatnonzero(difficulties == number) for number in range(len(DIFFICULTIES))]
        self.tokenizer: CLIPTokenizer = build_tokenizer(seed)
        self.processor = build_processor(self.tokenizer)
        self.model: CLIPModel = build_model(self.tokenizer)
        self.helpers = Helpers(WIDTH)
        self.rng = np.random.default_rng(seed)
        self.words = random.Random(seed)
        images = self.processor.image_processor
        self.mean = torch.tensor(images.image_mean)[:, None, None]
        self.std = torch.tensor(images.image_std)[:, None, None]
        self.optimizer = torch.optim.AdamW(self._groups(), lr=rate, betas=(0.9, 0.98), fused=True)

    def _groups(self) -> list[dict[str, object]]:
        named = [*self.model.named_parameters(), *self.helpers.named_parameters()]
        decayed = [p for n, p in named if p.ndim > 1 and "embedding" not in n]
        plain = [p for n, p in named if p.ndim <= 1 or "embedding" in n]
        return [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]

    def step(self, progress: float, *, with_text: bool) -> dict[str, float]:
        """One optimiser step at a share `progress` of the schedule; returns the losses by name."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * _schedule(progress)
        chosen = self._choose(_MIX_BEFORE if progress < _HARDER_FROM else _MIX_AFTER)
        batch = draw_pictures(self.pool, chosen, self.rng, self.mean, self.std)
        vision = self.model.vision_model(pixel_values=batch.pixels, output_hidden_states=True)
        patches = self.model.vision_model.post_layernorm(vision.last_hidden_state[:, 1:])
        early = vision.hidden_states[LAYERS // 2][:, 1:]
        rows = torch.from_numpy(chosen)
        losses = self.helpers.losses(early, patches, vision.pooler_output, batch, self.targets.subject[rows])
        if with_text:
            images = F.normalize(self.model.visual_projection(vision.pooler_output), dim=-1)
            losses |= self._text_losses(images, chosen)
        loss = torch.stack(tuple(losses.values())).sum()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0.0, _MAX_LOGIT_SCALE)
        return {name: value.item() for name, value in losses.items()}

    def _choose(self, mix: tuple[float, float, float]) -> NDArray[np.int64]:
        """Numbers of a batch's pictures, in order, without repetition."""
        counts = self.rng.multinomial(self.batch, mix)
        drawn = [self.rng.choice(self.by_difficulty[n], count, replace=False) for n, count in enumerate(counts)]
        return np.sort(np.concatenate(drawn))

    def _text_losses(self, images: Tensor, chosen: NDArray[np.int64]) -> dict[str, Tensor]:
        """Zero-shot classification over each set of classes, and captions against pictures both ways."""
        rows = torch.from_numpy(chosen)
        captions = self._captions(chosen)
        classes = [
            *prompts.random_colour_prompts(self.words),
            *prompts.random_shape_prompts(self.words),
            *prompts.random_pair_prompts(self.words),
        ]
        texts = torch.cat([self._encode(classes), self._encode(captions)])
        logits = self.model.logit_scale.exp() * images @ texts.T
        ends = [len(COLOURS), len(SHAPES), len(prompts.PAIRS), len(captions)]
        colours, shapes, pairs, matches = torch.split(logits, ends, dim=1)
        contents = torch.from_numpy(self.targets.contents[chosen])
        same = (contents[:, None] == contents).float()
        wanted = same / same.sum(1, keepdim=True)
        return {
            "colour": 0.5 * F.cross_entropy(colours, self.targets.colours[rows]),
            "shape": F.cross_entropy(shapes, self.targets.shapes[rows]),
            "pair": F.cross_entropy(pairs, self.targets.pairs[rows]),
            "caption": 0.25 * (F.cross_entropy(matches, wanted) + F.cross_entropy(matches.T, wanted)),
        }

    def _captions(self, chosen: NDArray[np.int64]) -> list[str]:
        """A batch's captions: detailed ones in one step of six, else brief ones, most of them in a template."""
        if self.words.random() < 1 / 6:
            return [self.targets.detailed[number] for number in chosen]
        brief = [self.targets.brief[number] for number in chosen]
        return [text if self.words.random() < 0.3 else prompts.random_caption(text, self.words) for text in brief]

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
    parser.add_argument("--text-from", type=float, default=0.25, help="share of the schedule before the text joins")
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
