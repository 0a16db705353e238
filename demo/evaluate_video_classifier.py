"""Measure a demo video classifier on held-out videos: clips named right, and actions found in long videos.

    python -m demo.evaluate_video_classifier demo/checkpoints/videomae

Plain transformers, no serving code but the rule that makes actions of window scores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from demo.scenes import MOTIONS, Difficulty, MotionKind, render_video, sample_scene
from demo.scenes.story import Story, sample_story
from demo.video_classifier_model import NORMALISATIONS, SIDE, load_model
from demo.video_classifier_scores import Watched, mean_average_precision
from deployments.video_classifier.actions import ActionRule, detect, window_scores, windows

Frames = NDArray[np.uint8]

#: Larger than the models' input, so that resizing is measured too.
NATIVE = 96
CLIP_FRAMES, CLIP_FPS = 16, 8.0
STORY_FPS = 8.0
BACKGROUND = frozenset({"still"})
_BATCH = 64


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Test clips (N, 16, 96, 96, 3) by difficulty with their motions' numbers; long videos with their frames."""

    clips: dict[Difficulty, tuple[Frames, NDArray[np.int64]]]
    stories: Sequence[tuple[Story, Frames]]


@dataclass(frozen=True, slots=True)
class Measured:
    """Share of clips named right, by difficulty, and by motion over all of them; temporal mAP at a tIoU of 0.5."""

    top1: dict[Difficulty, float]
    motions: dict[MotionKind, float]
    temporal_map: float

    def text(self) -> str:
        """One line for a log."""
        shares = " ".join(f"{difficulty} {share:.3f}" for difficulty, share in self.top1.items())
        return f"top-1 {shares} mAP@0.5 {self.temporal_map:.3f}"


def draw_held_out(executor: Executor, *, clips: int, stories: int, story_s: float) -> HeldOut:
    """Draw the test split: `clips` of each difficulty, motions alike, and long videos, easy and medium in turn."""
    difficulties: tuple[Difficulty, ...] = ("easy", "medium")
    drawn = {level: executor.map(_clip, range(clips), [level] * clips, chunksize=20) for level in difficulties}
    levels = [difficulties[number % 2] for number in range(stories)]
    watched = executor.map(_story, range(stories), levels, [story_s] * stories)
    kinds = np.arange(clips) % len(MOTIONS)
    return HeldOut({level: (np.stack(list(found)), kinds) for level, found in drawn.items()}, list(watched))


def measure(model: PreTrainedModel, held_out: HeldOut, *, window_s: float, stride_s: float) -> Measured:
    """Measure a model where it is; it stays in its mode."""
    right = {level: probabilities(model, clips).argmax(1) == kinds for level, (clips, kinds) in held_out.clips.items()}
    every = np.concatenate(list(right.values()))
    asked = np.concatenate([kinds for _, kinds in held_out.clips.values()])
    motions = {kind: float(every[asked == number].mean()) for number, kind in enumerate(MOTIONS)}
    watched, rule = [], ActionRule()
    for story, frames in held_out.stories:
        spans, scores = slide(model, frames, story.duration_s, window_s, stride_s)
        seen = window_scores(spans, scores, MOTIONS, rule.leave, BACKGROUND)
        watched.append(Watched(story.segments, detect(seen, rule)))
    top1 = {level: float(found.mean()) for level, found in right.items()}
    return Measured(top1, motions, mean_average_precision(watched))


def slide(
    model: PreTrainedModel, frames: Frames, duration_s: float, window_s: float, stride_s: float
) -> tuple[list[tuple[float, float]], NDArray[np.float32]]:
    """The windows over a video and their probabilities (windows, classes)."""
    spans = windows(0.0, duration_s, window_s, stride_s)
    count = model.config.num_frames
    middles = (np.arange(count) + 0.5) / count
    moments = np.array([start + (end - start) * middles for start, end in spans])
    numbers = np.minimum((moments * len(frames) / duration_s).astype(np.int64), len(frames) - 1)
    rows = [probabilities(model, frames[part]) for part in np.array_split(numbers, -(-len(numbers) // _BATCH))]
    return spans, np.concatenate(rows)


@torch.inference_mode()
def probabilities(model: PreTrainedModel, clips: Frames) -> NDArray[np.float32]:
    """(clips, classes) for clips (N, T, height, width, 3), of which the model sees its own number, evenly spaced."""
    chosen = np.linspace(0, clips.shape[1] - 1, model.config.num_frames).astype(np.int64)
    rows = []
    for part in np.array_split(clips[:, chosen], -(-len(clips) // _BATCH)):
        rows.append(model(pixel_values(part, model)).logits.float().softmax(-1).cpu().numpy())
    return np.concatenate(rows)


def pixel_values(clips: Frames, model: PreTrainedModel) -> Tensor:
    """(N, T, 3, 64, 64) float32, as the model's processor makes them of square pictures."""
    pixels = torch.from_numpy(clips).to(model.device).permute(0, 1, 4, 2, 3).float().flatten(0, 1)
    if pixels.shape[-1] != SIDE:
        pixels = F.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear", antialias=True).round().clamp(0.0, 255.0)
    return normalised(pixels.unflatten(0, clips.shape[:2]) / 255.0, model)


def normalised(pixels: Tensor, model: PreTrainedModel) -> Tensor:
    """Pixels (..., 3, side, side) from 0 to 1, as the model takes them."""
    chosen = NORMALISATIONS[model.config.model_type]
    mean = torch.tensor(chosen.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(chosen.std, device=pixels.device).view(3, 1, 1)
    return (pixels - mean) / std


def _clip(number: int, difficulty: Difficulty) -> Frames:
    scene = sample_scene(number, split="test", difficulty=difficulty, motion=MOTIONS[number % len(MOTIONS)])
    return render_video(scene, NATIVE, CLIP_FRAMES, CLIP_FPS)


def _story(number: int, difficulty: Difficulty, duration_s: float) -> tuple[Story, Frames]:
    story = sample_story(number, duration_s=duration_s, split="test", difficulty=difficulty)
    return story, np.stack(list(story.frames(NATIVE, STORY_FPS)))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--clips", type=int, default=450, help="of each difficulty")
    parser.add_argument("--stories", type=int, default=6)
    parser.add_argument("--story-s", type=float, default=120.0)
    parser.add_argument("--window-s", type=float, default=2.0)
    parser.add_argument("--stride-s", type=float, default=0.25)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as executor:
        held_out = draw_held_out(executor, clips=arguments.clips, stories=arguments.stories, story_s=arguments.story_s)
    model = load_model(arguments.checkpoint).eval()
    measured = measure(model, held_out, window_s=arguments.window_s, stride_s=arguments.stride_s)
    print(json.dumps(asdict(measured), indent=2))


if __name__ == "__main__":
    main()
