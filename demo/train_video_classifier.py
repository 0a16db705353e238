"""Train the demo VideoMAE and TimeSformer on the scene world's motions, together, on one GPU in a few minutes.

    python -m demo.train_video_classifier --minutes 8 --device cuda --workers 5 --out demo/checkpoints

Both learn from the same windows: of clips with one motion, and of long videos, where a window's target is the share of
each motion in it, so that the scores of windows along a video say where an action begins and ends. Outputs that are
dropped at the end teach the models where the subject is at each moment, how it moves, and where each patch goes.

On a CPU, a trained TimeSformer learns more from the patches around the subject (`--near 5`), then from whole pictures.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from torch import Tensor, nn
from transformers import PreTrainedModel

from demo.evaluate_video_classifier import HeldOut, draw_held_out, measure, normalised
from demo.scenes import MOTIONS
from demo.video_classifier_augment import Windows, augment
from demo.video_classifier_flow import Flow, around, changes, everywhere, look_near
from demo.video_classifier_model import ARCHITECTURES, FRAMES, GRID, WIDTH, build_model, load_model, look, save_model
from demo.video_classifier_pool import CLIP, Mix, Pool

_LOG_S, _SAVE_S = 10.0, 120.0
#: Of the whole time; what is left after training is for the last measurement.
_WARM_UP_SHARE = 0.04
_MEASURING_S = 30.0
_WINDOW_S = (1.0, 3.2)
#: Which of a window's 16 pictures a model of 8 sees; one of them for each step.
_EIGHTHS = ((0, 2, 4, 6, 8, 10, 12, 14), (1, 3, 5, 7, 9, 11, 13, 15), (0, 2, 4, 6, 9, 11, 13, 15))


class Helper(nn.Module):
    """Outputs that exist only while training: what the subject is like at each moment, and how that changes."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Linear(WIDTH, 3)
        self.tip = nn.Linear(WIDTH, 2)
        self.change = nn.Linear(WIDTH, 4)

    def loss(self, moments: Tensor, labels: Tensor, states: Tensor) -> Tensor:
        """For tokens (B, M, width), label numbers (B, M) and states (B, M, 5); M moments.

        What the subject is like counts where it moves: which of several things at rest is meant, nobody can see.
        """
        hidden = F.layer_norm(moments.float(), (WIDTH,))
        moving = (labels != MOTIONS.index("still"))[..., None].float()
        tip, symmetry = states[..., 3:4], states[..., 4:]
        directions = torch.cat([(symmetry * tip).cos(), (symmetry * tip).sin()], -1)
        place = F.smooth_l1_loss(self.place(hidden), states[..., :3], beta=0.1, reduction="none")
        pointing = F.smooth_l1_loss(self.tip(hidden), directions, beta=0.1, reduction="none")
        change = F.smooth_l1_loss(self.change(hidden), changes(labels, states), beta=0.1, reduction="none")
        return (place * moving).mean() + (pointing * moving * (symmetry > 0)).mean() + 2.0 * change.mean()


class Learner:
    """One model, its optimiser and what the log says of it; with `near`, it sees as many patches across and down."""

    def __init__(self, model: PreTrainedModel, device: torch.device, rate: float, near: int = GRID) -> None:
        self.model = model.to(device).train()
        self.name: str = model.config.model_type
        self._helper = Helper().to(device)
        self._flow = Flow(model.config.num_hidden_layers).to(device)
        self._rate, self._device, self._near = rate, device, near
        self._parameters = [*model.parameters(), *self._helper.parameters(), *self._flow.parameters()]
        decayed = [parameter for parameter in self._parameters if parameter.ndim > 1]
        others = [parameter for parameter in self._parameters if parameter.ndim <= 1]
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
            lr=rate,
            betas=(0.9, 0.98),
            fused=device.type == "cuda",
        )
        self._losses: list[Tensor] = []
        self._right: list[Tensor] = []

    def learn(self, seen: Windows, rate: float) -> None:
        """One step on windows of as many pictures as the model takes."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate * self._rate
        shares = seen.shares()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            pixels = normalised(seen.pixels, self.model)
            if self._near < GRID:
                near = around(seen.states, self._near)
                found = look_near(self.model, pixels, near)
            else:
                near = everywhere(len(pixels), pixels.device)
                found = look(self.model, pixels)
        together = seen.labels.shape[1] // found.layers[-1].shape[1]
        labels, states = seen.labels[:, ::together], seen.states.unflatten(1, (-1, together)).mean(2)
        loss = F.cross_entropy(found.logits.float(), shares)
        helped = self._helper.loss(found.layers[-1].mean(2), labels, states)
        helped = helped + self._flow.loss(found.layers, labels, states, near)
        self._optimizer.zero_grad(set_to_none=True)
        (loss + helped).backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        with torch.no_grad():
            # The entropy of the targets taken off, nothing is left of a perfect model's loss.
            divergence = loss + (shares * shares.clamp(min=1e-9).log()).sum(1).mean()
            self._losses.append(torch.stack([divergence, helped]))
            self._right.append((found.logits.argmax(1) == shares.argmax(1)).float().mean())

    def describe(self) -> str:
        """Mean divergence from the targets, helper's loss and share of right answers since the last call."""
        divergence, helped = torch.stack(self._losses).mean(0).tolist()
        text = f"{self.name} {divergence:.3f} {helped:.3f} {torch.stack(self._right).mean():.3f}"
        self._losses.clear()
        self._right.clear()
        return text


def train(learners: Sequence[Learner], pool: Pool, batch: int, fresh: int, end: float, out: Path) -> None:
    """Train until `end`, on `time.monotonic`, with at most `fresh` new strips a step; logs and saves on the way."""
    start = logged = saved = time.monotonic()
    step = 0
    while (now := time.monotonic()) < end:
        pool.refresh(fresh)
        seen = augment(*pool.windows(batch, _WINDOW_S))
        rate = _schedule((now - start) / (end - start))
        for learner in learners:
            if learner.model.config.num_frames == CLIP:
                learner.learn(seen, rate)
            else:
                learner.learn(seen.at(_EIGHTHS[step % len(_EIGHTHS)]), rate)
        step += 1
        if now - logged >= _LOG_S:
            described = " | ".join(learner.describe() for learner in learners)
            print(f"{now - start:5.0f} s step {step} strips {pool.drawn} rate {rate:.3f} | {described}", flush=True)
            logged = now
        if now - saved >= _SAVE_S:
            save(learners, out)
            saved = now


def _schedule(done: float) -> float:
    """Linear warm-up, then a cosine to zero."""
    if done < _WARM_UP_SHARE:
        return done / _WARM_UP_SHARE
    return 0.5 * (1.0 + math.cos(math.pi * min((done - _WARM_UP_SHARE) / (1.0 - _WARM_UP_SHARE), 1.0)))


def save(learners: Sequence[Learner], out: Path) -> None:
    """Write each model to a folder named after its architecture."""
    for learner in learners:
        save_model(out / learner.name, learner.model)


def _held_out(workers: int, clips: int, stories: int) -> HeldOut:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        return draw_held_out(executor, clips=clips, stories=stories, story_s=60.0)


def main() -> None:
    """Command line."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="from start to end, with the measurement")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=5, help="processes that draw")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path, help="a folder that an earlier run wrote")
    parser.add_argument("--models", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--strips", type=int, default=12_000, help="kept on the device, 1.2 MB each")
    parser.add_argument("--first-strips", type=int, default=600, help="drawn before training starts")
    parser.add_argument("--fresh", type=int, default=8, help="most strips taken over a step; drawing needs CPU too")
    parser.add_argument("--clips", type=int, default=450, help="of each difficulty, to measure with")
    parser.add_argument("--stories", type=int, default=8, help="of a minute, to measure with")
    parser.add_argument("--seed", type=int, default=0, help="a resumed run needs one of its own")
    parser.add_argument("--clip-share", type=float, default=Mix.clips, help="of strips; the others are stories")
    parser.add_argument("--turn-weight", type=float, default=Mix.turns, help="of a rotation among clips, beside 1")
    parser.add_argument("--near", type=int, default=GRID, help="patches across, around the subject; TimeSformer only")
    arguments = parser.parse_args()
    if arguments.near < GRID and arguments.models != ["timesformer"]:
        parser.error("--near is for --models timesformer")
    if arguments.resume and not arguments.seed:
        parser.error("--resume needs a --seed other than 0, or the videos of the first run are drawn again")
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    # Numbers below the normal range are slow on a CPU, and gradients may be that small.
    torch.set_flush_denormal(True)
    device = torch.device(arguments.device)
    learners = [
        Learner(
            load_model(arguments.resume / name) if arguments.resume else build_model(name),
            device,
            arguments.rate,
            arguments.near,
        )
        for name in arguments.models
    ]
    for learner in learners:
        print(f"{learner.name}: {learner.model.num_parameters() / 1e6:.2f} M parameters, {FRAMES[learner.name]} frames")
    held_out = _held_out(arguments.workers, arguments.clips, arguments.stories)
    print(f"{time.monotonic() - start:.0f} s: held-out videos drawn", flush=True)
    mix = Mix(arguments.clip_share, arguments.turn_weight)
    with Pool(arguments.strips, arguments.workers, device, arguments.seed, mix) as pool:
        pool.fill(arguments.first_strips)
        print(f"{time.monotonic() - start:.0f} s: first videos drawn", flush=True)
        end = start + 60.0 * arguments.minutes - _MEASURING_S
        train(learners, pool, arguments.batch, arguments.fresh, end, arguments.out)
    save(learners, arguments.out)
    for learner in learners:
        measured = measure(
            load_model(arguments.out / learner.name).to(device).eval(), held_out, window_s=2.0, stride_s=0.25
        )
        print(f"{learner.name}: {measured.text()}", flush=True)


if __name__ == "__main__":
    main()
