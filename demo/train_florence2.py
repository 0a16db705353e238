"""Train the demo Florence-2 on the scene world, on one GPU in less than ten minutes.

    python -m demo.train_florence2 --out demo/checkpoints/florence2 --minutes 7.5 --workers 15
    python -m demo.train_florence2 --out /var/tmp/florence2 --minutes 0.5 --device cpu --batch 8 --workers 1

Pictures are drawn anew all the time, each is encoded once for several lessons. Two things make so short a training
enough: a place is learned with its neighbours, at first with far ones, and a linear output that is dropped at the
end says what every patch shows, so that the vision side need not wait for the text side.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from torch import Tensor, nn
from transformers import Florence2ForConditionalGeneration, Florence2Processor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from demo import florence2_cases
from demo.evaluate_florence2 import Answerer, measure
from demo.florence2_batches import CONTENTS, Batch, Group, stream
from demo.florence2_lessons import TASKS
from demo.florence2_model import build_model, build_processor, first_location, load_checkpoint, save_checkpoint
from demo.florence2_tokenizer import LOCATIONS, build_tokenizer
from demo.scenes import COLOURS

#: The spread of a place over its neighbours, in bins: at the start, at the end, and the farthest neighbour.
_WIDE, _NARROW, _FARTHEST = 12.0, 1.5, 24
#: The spread that a resumed run starts with.
_RESUMED = 4.0
#: Share of the schedule after which the patch output has faded, and its weight at the start.
_PATCHES_UNTIL, _PATCHES_WEIGHT = 0.6, 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    """One run: pictures a step, the peak learning rate, minutes, and whether the vision blocks are compiled.

    Places that the model reads, in a prompt or as its own words so far, are moved by a deviation of `jitter` bins:
    when it writes by itself, it has to go on from places that are a little off. A `resumed` run starts
    with a smaller spread of places.
    """

    batch: int
    rate: float
    minutes: float
    jitter: float = 2.0
    compiled: bool = False
    resumed: bool = False


class Patches(nn.Module):
    """A linear output for what every patch shows; only training has it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.Linear(width, CONTENTS + 1 + len(COLOURS))

    def forward(self, features: Tensor, wanted: Tensor) -> Tensor:
        """The loss of (B, width, grid, grid) features against (B, grid, grid, 2) contents and colours."""
        features = F.layer_norm(features.permute(0, 2, 3, 1), features.shape[1:2])
        contents, colours = self.read(features).float().flatten(0, 2).split([CONTENTS, 1 + len(COLOURS)], dim=1)
        wanted = wanted.flatten(0, 2)
        return F.cross_entropy(contents, wanted[:, 0]) + F.cross_entropy(colours, wanted[:, 1])


class Trainer:
    """Model, patch output, optimiser, and the losses since the last report."""

    def __init__(
        self,
        model: Florence2ForConditionalGeneration,
        processor: Florence2Processor,
        settings: Settings,
        device: torch.device,
    ) -> None:
        self.model, self.processor, self.settings, self.device = model.to(device), processor, settings, device
        self.patches = Patches(model.config.vision_config.embed_dim[-1]).to(device)
        self.first = first_location(processor.tokenizer)
        self.pad = processor.tokenizer.pad_token_id
        self.start = model.config.text_config.decoder_start_token_id
        self.mean, self.deviation = (
            255.0 * torch.tensor(values, device=device)[:, None, None]
            for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        )
        self.parameters = [*self.model.parameters(), *self.patches.parameters()]
        self.optimizer = torch.optim.AdamW(self._decays(), lr=settings.rate, betas=(0.9, 0.98), fused=True)
        # Loss and tokens of each task, then of the patches.
        self.sums = torch.zeros(len(TASKS) + 1, 2, device=device)
        self.model.train()
        if settings.compiled:
            for stage in self.model.model.vision_tower.blocks:
                for block in stage:
                    block.compile()

    def _decays(self) -> list[dict[str, object]]:
        named = [*self.model.named_parameters(), *self.patches.named_parameters()]
        kept = {name for name, part in named if part.ndim < 2 or "embed" in name or "shared" in name}
        return [
            {"params": [part for name, part in named if name not in kept], "weight_decay": 0.05},
            {"params": [part for name, part in named if name in kept], "weight_decay": 0.0},
        ]

    def step(self, batch: Batch, progress: float) -> None:
        """One optimiser step at a share `progress` of the schedule."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate * _schedule(progress)
        widest = _RESUMED if self.settings.resumed else _WIDE
        spread = widest * (_NARROW / widest) ** min(progress / 0.7, 1.0)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            pixels = batch.pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
            seen = self.model.model.get_image_features((pixels - self.mean) / self.deviation)
            patches = self.patches(seen.last_hidden_state, batch.patches.to(self.device, non_blocking=True))
            parts = [self._answers(group, seen.pooler_output, spread) for group in batch.groups]
        weight = _PATCHES_WEIGHT * max(1.0 - progress / _PATCHES_UNTIL, 0.0)
        loss = sum(part for part, _ in parts) / sum(weights for _, weights in parts) + weight * patches
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.sums[-1] += torch.stack([patches.detach(), torch.ones_like(patches)])

    def _answers(self, group: Group, pictures: Tensor, spread: float) -> tuple[Tensor, Tensor]:
        """The weighted sum of a group's losses, and the sum of the weights: a long answer weighs as its root."""
        # Found before the copy to the GPU, which would have to stop and count.
        spots = (group.answers != self.pad).flatten().nonzero()[:, 0].to(self.device, non_blocking=True)
        numbers, prompts, answers, tasks = (part.to(self.device, non_blocking=True) for part in group)
        words = self.model.get_input_embeddings()(self._moved(prompts))
        shown = pictures[numbers].to(words.dtype)
        mask = torch.cat([prompts.new_ones(shown.shape[:2]), (prompts != self.pad).long()], dim=1)
        told = torch.cat([answers.new_full((len(answers), 1), self.start), answers[:, :-1]], dim=1)
        hidden = self.model.model(
            inputs_embeds=torch.cat([shown, words], dim=1),
            attention_mask=mask,
            decoder_input_ids=self._moved(told),
            use_cache=False,
        ).last_hidden_state
        logits = self.model.lm_head(hidden.flatten(0, 1)[spots])
        losses = place_losses(logits, answers.flatten()[spots], self.first, spread)
        rows = spots // answers.shape[1]
        weights = (answers != self.pad).sum(1).float().rsqrt()[rows]
        self.sums.index_add_(0, tasks[rows], torch.stack([losses.detach(), torch.ones_like(losses)], dim=1))
        return (losses * weights).sum(), weights.sum()

    def _moved(self, ids: Tensor) -> Tensor:
        """The ids with every place moved a little."""
        is_place = (ids >= self.first) & (ids < self.first + LOCATIONS)
        steps = (self.settings.jitter * torch.randn(ids.shape, device=self.device)).round().long()
        return torch.where(is_place, (ids + steps).clamp(self.first, self.first + LOCATIONS - 1), ids)

    def report(self) -> str:
        """The mean loss a token of every task, and of the patches, since the last report."""
        losses, counts = self.sums.T.tolist()
        self.sums.zero_()
        shown = (
            f"{name.strip('<>').lower()} {loss / max(count, 1.0):.3f}"
            for name, loss, count in zip((*TASKS, "patches"), losses, counts, strict=True)
        )
        return " ".join(shown)


def place_losses(logits: Tensor, wanted: Tensor, first: int, spread: float) -> Tensor:
    """Cross-entropy (N,) of (N, V) logits, where a place's target is a Gaussian over the places around it.

    `first` is the id of <loc_0>, `spread` the deviation in bins. A thousand unrelated classes would learn slowly.
    """
    known = F.log_softmax(logits.float(), dim=-1)
    offsets = torch.arange(-_FARTHEST, _FARTHEST + 1, device=wanted.device)
    near = wanted[:, None] + offsets
    is_place = ((wanted >= first) & (wanted < first + LOCATIONS))[:, None]
    inside = (near >= first) & (near < first + LOCATIONS)
    bell = torch.exp(-0.5 * (offsets / spread) ** 2)
    weights = torch.where(is_place, bell * inside, (offsets == 0).float())
    weights = weights / weights.sum(1, keepdim=True)
    return -(weights * known.gather(1, near.clamp(0, logits.shape[1] - 1))).sum(1)


def _schedule(progress: float) -> float:
    """Share of the peak rate: a linear start over 3 %, then half a cosine."""
    return min(progress / 0.03, 0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0))) + 1e-3


def train(trainer: Trainer, batches: Iterator[Batch], out: Path, *, begun: float, save_every: float) -> int:
    """Train until so many minutes have passed since `begun`; returns the number of steps."""
    seconds, batch = 60.0 * trainer.settings.minutes, trainer.settings.batch
    first = saved = said = time.monotonic()
    step = told = 0
    while (now := time.monotonic()) - begun < seconds:
        trainer.step(next(batches), (now - first) / (seconds + begun - first))
        step += 1
        if now - said > 10.0:
            text = trainer.report()
            speed = (step - told) * batch / (time.monotonic() - said)
            print(f"step {step} {now - begun:.0f} s, {speed:.0f} images/s: {text}", flush=True)
            said, told = time.monotonic(), step
        if now - saved > 60.0 * save_every:
            save_checkpoint(out, trainer.model, trainer.processor)
            saved = time.monotonic()
    save_checkpoint(out, trainer.model, trainer.processor)
    return step


def main() -> None:
    """Command line."""
    begun = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--resume", type=Path, help="folder of a checkpoint to go on from")
    parser.add_argument("--minutes", type=float, default=7.5, help="from the start to the end of the training")
    parser.add_argument("--save-every", type=float, default=2.0, help="minutes between checkpoints")
    parser.add_argument("--batch", type=int, default=128, help="pictures a step, four lessons each")
    parser.add_argument("--workers", type=int, default=15, help="processes that draw pictures")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--compile", action="store_true", help="compile the blocks of the vision tower")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=0, help="another one, for other scenes, when resuming")
    parser.add_argument("--scenes", type=int, default=100, help="scenes of each difficulty in the closing measurement")
    arguments = parser.parse_args()
    settings = Settings(
        arguments.batch,
        arguments.rate,
        arguments.minutes,
        compiled=arguments.compile,
        resumed=arguments.resume is not None,
    )
    # The drawing processes start before anything touches the GPU.
    batches = stream(arguments.batch, arguments.workers, arguments.seed)
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    if arguments.resume is None:
        tokenizer = build_tokenizer()
        model, processor = build_model(tokenizer), build_processor(tokenizer)
    else:
        model, processor = load_checkpoint(arguments.resume)
    trainer = Trainer(model, processor, settings, torch.device(arguments.device))
    count = train(trainer, batches, arguments.out, begun=begun, save_every=arguments.save_every)
    print(f"{count} steps, {count * arguments.batch} pictures", flush=True)
    answer = Answerer(arguments.out, torch.device(arguments.device), batch=256)
    outcomes = measure(answer, arguments.scenes, arguments.seed, "val")
    print(florence2_cases.table(florence2_cases.rows(outcomes)))


if __name__ == "__main__":
    main()
