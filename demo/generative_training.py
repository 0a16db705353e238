"""What the trainings of the generative demo models share: the small language models, the schedule, state on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

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


class HalfWay:
    """Keeps the hidden states that leave the middle layer of the last forward pass."""

    state: Tensor

    def __init__(self, layers: nn.ModuleList) -> None:
        layers[len(layers) // 2 - 1].register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        self.state = output if isinstance(output, Tensor) else output[0]


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


class Run:
    """A training that can be stopped and taken up again: steps, state and its log.

    The number of steps is read again from `steps.txt` beside the state every 25 steps, so that a run can be made
    longer or shorter while it goes on.
    """

    def __init__(self, folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, *, rate: float, steps: int):
        self.folder, self.module, self.optimizer = folder, module, optimizer
        self.rate, self.steps, self.step = rate, steps, 0
        folder.mkdir(parents=True, exist_ok=True)
        self._wanted = folder / "steps.txt"
        self._wanted.write_text(str(steps))
        self._state = folder / "state.pt"
        if self._state.exists():
            state = torch.load(self._state, weights_only=True)
            module.load_state_dict(state["module"])
            optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def train(self, loss: Callable[[int], Tensor], describe: Callable[[], str], *, save_every: int = 100) -> None:
        """Take the remaining steps; `loss` gets the step's number, `describe` gives the log's text."""
        start, first = time.monotonic(), self.step
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        while self.step < self.steps:
            share = rate_share(self.step, self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * share * group["scale"]
            value = loss(self.step)
            self.optimizer.zero_grad()
            torch.autograd.backward(value)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimizer.step()
            self.step += 1
            if self.step % 25 == 0:
                pace = (time.monotonic() - start) / (self.step - first)
                print(f"step {self.step}/{self.steps} {pace:.2f} s a step: {describe()}", flush=True)
                self.steps = int(self._wanted.read_text())
            if self.step % save_every == 0 or self.step >= self.steps:
                self.save()

    def save(self) -> None:
        """Write the state, replacing the last one only when it is complete."""
        fresh = self._state.with_suffix(".new")
        state = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        torch.save(state, fresh)
        fresh.replace(self._state)
        (self.folder / "run.json").write_text(json.dumps({"step": self.step, "steps": self.steps}))
