"""Going on with the training of a finished demo model, on a GPU and from its answers alone.

What the first trainings teach with lessons on single words, on a CPU and in small batches, is here only started from:
pictures and prompts are drawn anew by worker processes for every step, a step has many times as many of them, and
nothing but the answers counts. Layers that are added pass everything through at first, so that nothing is lost.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from demo.packing import Packed, Score, answer_loss
from demo.vision_warmup import MEAN, STD

#: Scenes are numbered beyond those of the pools that the checkpoints were started on.
_FIRST_SCENE, _LAST_SCENE = 1_000_000, 1 << 31
_BETAS, _WARM, _SCORED_EVERY = (0.9, 0.98), 150, 4
_SAVE_EVERY_S = 120.0


@dataclass(frozen=True, slots=True)
class Step:
    """What one step is about: `pictures` (N, ..., side, side, 3) uint8, the rows that ask about them, and under which
    name its answers are counted."""

    pictures: NDArray[np.uint8]
    packed: Packed
    name: str


class Steps(IterableDataset[Step], ABC):
    """Steps without end, others in each worker process."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __iter__(self) -> Iterator[Step]:
        worker = get_worker_info()
        torch.set_num_threads(1)
        number = 0 if worker is None else worker.id
        rng, pixels = random.Random(f"{self._seed} {number}"), np.random.default_rng([self._seed, number])
        while True:
            yield self.draw(rng, pixels)

    @abstractmethod
    def draw(self, rng: random.Random, pixels: np.random.Generator) -> Step:
        """One step; `pixels` draws what pictures look like, `rng` all else."""


def scene_number(rng: random.Random) -> int:
    """The number of a training scene that no pool holds."""
    return rng.randrange(_FIRST_SCENE, _LAST_SCENE)


def deepen(model: PreTrainedModel, layers: int | None) -> PreTrainedModel:
    """The same model with more layers in its language part, which pass everything through at first."""
    config = model.config
    if layers is None or layers <= config.text_config.num_hidden_layers:
        return model
    config.text_config.num_hidden_layers = layers
    config.text_config.layer_types = None
    deeper = type(model)(config)
    missing = deeper.load_state_dict(model.state_dict(), strict=False).missing_keys
    with torch.no_grad():
        for name, parameter in deeper.named_parameters():
            if name in missing and name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
    return deeper


def normalise(pictures: Tensor) -> Tensor:
    """(B, ..., side, side, 3) uint8, each of the B under a light of its own -> (B, ..., 3, side, side) float32."""
    device, ones = pictures.device, (1,) * (pictures.ndim - 1)
    pixels = pictures.movedim(-1, -3).float() / 255.0
    gain = 1.0 + 0.12 * (2.0 * torch.rand(len(pictures), *ones, device=device) - 1.0)
    tint = 0.03 * (2.0 * torch.rand(len(pictures), *ones[:-3], 3, 1, 1, device=device) - 1.0)
    noise = 0.02 * torch.rand(len(pictures), *ones, device=device) * torch.randn_like(pixels)
    return ((pixels * gain + tint + noise).clamp(0.0, 1.0) - MEAN.to(device)) / STD.to(device)


def read(language: Any, packed: Packed, token: int, patches: Tensor) -> Tensor:
    """Hidden states (B, L, width) at the top of a language model that reads patches in the places of a token."""
    embedded = language.embed_tokens(packed.tokens)
    where = (packed.tokens == token)[..., None]
    states: Tensor = language(
        inputs_embeds=embedded.masked_scatter(where, patches.to(embedded.dtype)),
        attention_mask=packed.mask,
        position_ids=packed.positions,
        use_cache=False,
    ).last_hidden_state
    return states


def train(
    model: Any,
    steps: Steps,
    states_of: Callable[[Any, Tensor, Packed], Tensor],
    save: Callable[[], None],
    arguments: argparse.Namespace,
) -> None:
    """Train for the given minutes, drawing and saving included.

    Args:
        states_of: for normalised pictures and rows, hidden states (B, L, width) at the top of the language model.
        save: writes the checkpoint as it is now.
    """
    started, device = time.monotonic(), torch.device(arguments.device)
    seconds = 60.0 * arguments.minutes
    model.to(device).train()
    loader = DataLoader(steps, None, num_workers=arguments.workers, prefetch_factor=4 if arguments.workers else None)
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1 and "embed" not in name]
    plain = [p for name, p in model.named_parameters() if p.ndim <= 1 or "embed" in name]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.rate, betas=_BETAS, fused=True)
    scores: dict[str, Score] = defaultdict(Score)
    logged = saved = started
    for number, step in enumerate(loader):
        now = time.monotonic()
        if now - started >= seconds:
            break
        share = min((number + 1) / _WARM, 0.5 + 0.5 * math.cos(math.pi * (now - started) / seconds))
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * max(share, 0.002)
        pixels, packed = normalise(torch.as_tensor(step.pictures, device=device)), step.packed.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            states = states_of(model, pixels, packed)
        loss, right = answer_loss(states.float(), model.lm_head, packed)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if number % _SCORED_EVERY == 0:
            scores[step.name].add(packed, right)
        if now - logged >= arguments.log_every:
            pace = (now - started) / (number + 1)
            print(f"step {number} {now - started:.0f} s, {pace:.3f} s a step, loss {loss.item():.3f}", flush=True)
            for name, score in scores.items():
                print(f"  {name}: {score.text()}", flush=True)
            logged = now
        if now - saved >= _SAVE_EVERY_S:
            save()
            saved = now
    model.cpu().eval()
    save()


def command_line(description: str | None) -> argparse.Namespace:
    """The arguments of these trainings."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, required=True, help="checkpoint whose weights to start from")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--layers", type=int, help="layers of the language model; more than it has are added")
    parser.add_argument("--batch", type=int, default=96, help="pictures or clips a step, or a few less")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--log-every", type=float, default=20.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(arguments.seed)
    return arguments


def tokenizer_of(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint."""
    return PreTrainedTokenizerFast.from_pretrained(folder)
