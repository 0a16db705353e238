"""What the trainings of the generative demo models share: the small language models, the schedule, state on disk."""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from demo.generative_tokenizer import build_tokenizer
from demo.lookups import look_for_alike

WIDTH, LAYERS, HEADS, MLP = 192, 4, 6, 384
MAX_POSITIONS = 2048


def llama_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """A Llama of a million parameters and a half; its heads of 32 are the smallest that vLLM's CPU kernels take."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=WIDTH // HEADS,
        max_position_embeddings=MAX_POSITIONS,
        # Slow rotations, so that like finds like at any distance.
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )


@torch.no_grad()
def start_llama(model: LlamaModel, head: nn.Linear) -> None:
    """Start a small Llama so that what it looks up in its first two layers is near the words that name it."""
    model.embed_tokens.weight.normal_(0.0, 0.3)
    head.weight.copy_(0.2 * model.embed_tokens.weight)
    for layer in model.layers[: LAYERS // 2]:
        attention = layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        look_for_alike(*parts, heads=HEADS, rotary=True)


class LayerStates:
    """Keeps the hidden states that left each layer in the last forward pass."""

    def __init__(self, layers: nn.ModuleList) -> None:
        self.states: list[Tensor] = []
        layers[0].register_forward_pre_hook(lambda _module, _inputs: self.states.clear())
        for layer in layers:
            layer.register_forward_hook(self._keep)

    @property
    def half(self) -> Tensor:
        """The states that leave the middle layer."""
        return self.states[len(self.states) // 2 - 1]

    def _keep(self, _module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        self.states.append(output if isinstance(output, Tensor) else output[0])


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], scale: float = 1.0) -> list[dict[str, object]]:
    """Groups for AdamW: matrices decay, vectors and embeddings do not; `scale` is a share of the common rate."""
    decayed, plain = [], []
    for name, parameter in named:
        (decayed if parameter.ndim > 1 and "embed" not in name else plain).append(parameter)
    return [
        {"params": decayed, "weight_decay": 0.05, "scale": scale},
        {"params": plain, "weight_decay": 0.0, "scale": scale},
    ]


def rate_share(step: int, steps: int, *, warm: int = 60, tail: float = 0.25) -> float:
    """Share of the peak rate: a linear start, a plateau, and a linear fall over the last part of the steps."""
    return min((step + 1) / warm, 1.0, max(0.01, (steps - step) / (tail * steps)))


class Trainer(nn.Module):
    """What is trained, and the loss of a step."""

    def groups(self) -> list[dict[str, object]]:
        """Parameter groups for AdamW, each with its share of the common rate."""
        raise NotImplementedError

    def loss(self, step: int) -> Tensor:
        """The loss of a step on fresh examples."""
        raise NotImplementedError

    def begin(self) -> None:
        """What is done to the weights before the first step of a run."""

    def describe(self) -> str:
        """What the log says: losses of the last step, and shares of right answers since the last call."""
        raise NotImplementedError


class Draws(Protocol):
    """What draws the examples of each step."""

    rng: np.random.Generator
    words: random.Random


class Run:
    """A training that can be stopped and taken up again: steps, state and its log.

    The number of steps is read again from `steps.txt` beside the state every 25 steps, so that a run can be made
    longer or shorter while it goes on.
    """

    def __init__(self, folder: Path, trainer: Trainer, optimizer: torch.optim.Optimizer, *, rate: float, steps: int):
        self.folder, self.trainer, self.optimizer = folder, trainer, optimizer
        self.rate, self.steps, self.step = rate, steps, 0
        folder.mkdir(parents=True, exist_ok=True)
        self._wanted = folder / "steps.txt"
        self._wanted.write_text(str(steps))
        self._state = folder / "state.pt"
        if self._state.exists():
            state = torch.load(self._state, weights_only=True)
            trainer.load_state_dict(state["module"])
            optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
        else:
            trainer.begin()

    def train(self, *, save_every: int = 100) -> None:
        """Take the remaining steps."""
        start, first = time.monotonic(), self.step
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        while self.step < self.steps:
            share = rate_share(self.step, self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * share * group["scale"]
            value = self.trainer.loss(self.step)
            self.optimizer.zero_grad()
            torch.autograd.backward(value)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimizer.step()
            self.step += 1
            if self.step % 25 == 0:
                pace = (time.monotonic() - start) / (self.step - first)
                print(f"step {self.step}/{self.steps} {pace:.2f} s a step: {self.trainer.describe()}", flush=True)
                self.steps = int(self._wanted.read_text())
            if self.step % save_every == 0 or self.step >= self.steps:
                self.save()

    def save(self) -> None:
        """Write the state, replacing the last one only when it is complete."""
        fresh = self._state.with_suffix(".new")
        state = {"module": self.trainer.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        torch.save(state, fresh)
        fresh.replace(self._state)
        (self.folder / "run.json").write_text(json.dumps({"step": self.step, "steps": self.steps}))


def command_line(description: str | None, *, pool: str, batch: int) -> argparse.ArgumentParser:
    """The arguments that all trainings take; `pool` says what the pool is one of."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True, help=f"folder of the rendered {pool}")
    parser.add_argument("--tower", type=Path, required=True, help="what the warm-up wrote")
    parser.add_argument("--run", type=Path, required=True, help="folder for the state; a run found there goes on")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--start", type=Path, help="state.pt of another run whose weights to start from")
    parser.add_argument("--tokenizer", type=Path, help="folder of the tokenizer that those weights were trained with")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nice", type=int, default=0, help="how far to step back for other processes, up to 19")
    return parser


def prepare(arguments: argparse.Namespace) -> PreTrainedTokenizerFast:
    """Settle on one thread, a priority and a seed; returns the tokenizer: the given one, or else one made from today's
    wordings and the seed."""
    torch.set_num_threads(1)
    os.nice(arguments.nice)
    torch.manual_seed(arguments.seed)
    if arguments.tokenizer is not None:
        return PreTrainedTokenizerFast.from_pretrained(arguments.tokenizer)
    return build_tokenizer(arguments.seed)


def train(arguments: argparse.Namespace, trainer: Trainer, draws: Draws) -> None:
    """Train as the command line says, from where the run's folder has got to."""
    if arguments.start is not None:
        state = torch.load(arguments.start, weights_only=True)
        # Helper outputs may have come or gone since; the model itself has not, and a wrong shape still fails.
        trainer.load_state_dict(state["module"], strict=False)
    optimizer = torch.optim.AdamW(trainer.groups(), lr=arguments.rate, betas=(0.9, 0.98), fused=True)
    run = Run(arguments.run, trainer, optimizer, rate=arguments.rate, steps=arguments.steps)
    if run.step or arguments.start is not None:  # A run taken up again sees other examples than it did at its start.
        draws.rng = np.random.default_rng([arguments.seed, run.step, arguments.start is not None])
        draws.words = random.Random(arguments.seed + run.step + int(arguments.start is not None))
    run.train()
