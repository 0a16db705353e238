"""What watching a video would take, before any model is asked: chunks, frames, tokens and money."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from deployments.video_classifier.actions import check_window_count, window_and_stride, window_count
from serve.config.cluster import ClusterFile
from serve.config.models import GenerativeModel, VideoClassifierModel
from serve.providers import tokens
from serve.providers.prices import cost, price_of
from serve.videos.plan import Chunk
from serve.videos.reader import Part
from serve.videos.summariser import grouped
from serve.videos.types import Actions, Body, Keyframes

# Of Video-LLaVA as published (Lin et al. 2023): patches of 14 pixels of 224 x 224, and the class token.
_FRAME_TOKENS = 257
# Of VideoMAE as published (Tong et al. 2022); TimeSformer's base model has 8.
_CLIP_FRAMES = 16
# Of the times in front of a note: 25 characters.
_STAMP_TOKENS = 9


@dataclass(frozen=True, slots=True)
class Estimate:
    """For one back end, all chunks together.

    Attributes:
        frames: that it looks at.
        prompt_tokens: of prompts, videos included.
        completion_tokens: at most.
        usd: 0 for a model of ours, None where the price is not known.
    """

    model: str
    chunks: int
    frames: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None

    def body(self) -> Body:
        """As clients see it."""
        return {
            "model": self.model,
            "chunks": self.chunks,
            "frames": self.frames,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "usd": self.usd,
        }


def watching(cluster: ClusterFile, name: str, chunks: Sequence[Chunk], prompt: str, max_tokens: int) -> Estimate:
    """What a back end takes to watch the chunks.

    A model of ours samples so many frames of each, whatever its length; Gemini counts by the second
    (`serve.providers.tokens.gemini_video_tokens`). Texts are counted by their bytes.
    """
    text = (tokens.text_tokens(prompt) + tokens.MESSAGE_TOKENS) * len(chunks)
    written = max_tokens * len(chunks)
    model = cluster.models.get(name)
    if isinstance(model, GenerativeModel):
        frames = model.video_frames * len(chunks)
        return Estimate(name, len(chunks), frames, frames * frame_tokens(model.checkpoint) + text, written, 0.0)
    fps = cluster.providers[name].gemini.video_fps or 1.0
    seconds = [chunk.end_s - chunk.start_s for chunk in chunks]
    prompts = sum(tokens.gemini_video_tokens(length, fps) for length in seconds) + text
    frames = sum(math.ceil(length * fps) for length in seconds)
    return Estimate(name, len(chunks), frames, prompts, written, _usd(cluster, name, prompts, written))


def merging(cluster: ClusterFile, name: str, chunks: int, max_tokens: int, room: int) -> Estimate:
    """What the summariser takes to merge what was written about the chunks, were every note as long as it may be.

    Args:
        room: see `serve.videos.summariser.Summariser`.
    """
    note_tokens = max_tokens + _STAMP_TOKENS
    prompts = written = 0
    notes = chunks
    while notes > 1:
        groups = grouped(range(notes), room, lambda _: note_tokens)
        merged = [len(group) for group in groups if len(group) > 1]
        prompts += sum(merged) * note_tokens + len(merged) * tokens.MESSAGE_TOKENS
        written += len(merged) * max_tokens
        notes = len(groups)
    return Estimate(name, 0, 0, prompts, written, _usd(cluster, name, prompts, written))


def pictures(request: Keyframes, part: Part) -> tuple[int, tuple[int, int]]:
    """How many key frames there are at most, and their width and height; only their choice says how many there are."""
    most = min(request.count, part.info.frames)
    if request.strategy == "keyframe" and request.min_gap_s:
        most = min(most, 1 + math.floor((part.end_s - part.start_s) / request.min_gap_s))
    width, height = part.info.width, part.info.height
    scale = min(1.0, request.side / max(width, height))
    return most, (max(1, round(width * scale)), max(1, round(height * scale)))


def describing(cluster: ClusterFile, name: str, frames: int, size: tuple[int, int], max_tokens: int) -> Estimate:
    """What a captioner takes to describe pictures of that width and height; of a model of ours, only the answers are
    known beforehand."""
    written = max_tokens * frames
    if name in cluster.models:
        return Estimate(name, frames, frames, 0, written, 0.0)
    provider = cluster.providers[name]
    picture = {
        "openai": lambda: tokens.openai_image_tokens(*size, "auto", provider.model),
        "gemini": lambda: tokens.gemini_image_tokens(*size),
        "anthropic": lambda: tokens.anthropic_image_tokens(*size, provider.model),
    }.get(provider.kind, lambda: 0)()
    prompts = (picture + tokens.MESSAGE_TOKENS) * frames
    return Estimate(name, frames, frames, prompts, written, _usd(cluster, name, prompts, written))


def detecting(cluster: ClusterFile, name: str, request: Actions, chunks: Sequence[Chunk]) -> Estimate:
    """What a classifier takes to look for actions in the chunks.

    Raises:
        InvalidRequest: see `window_and_stride` and `check_window_count`.
    """
    model = cluster.models[name]
    assert isinstance(model, VideoClassifierModel), "others have no such task"
    window_s, stride_s = window_and_stride(model, request.window_s, request.stride_s)
    for chunk in chunks:
        check_window_count(chunk.start_s, chunk.end_s, stride_s, model.max_windows)
    clips = sum(window_count(chunk.start_s, chunk.end_s, window_s, stride_s) for chunk in chunks)
    return seeing(cluster, name, len(chunks), clips)


def seeing(cluster: ClusterFile, name: str, chunks: int, clips: int) -> Estimate:
    """What a classifier takes for so many clips; one that several clips see is counted in each."""
    model = cluster.models[name]
    assert isinstance(model, VideoClassifierModel), "others have no such task"
    return Estimate(name, chunks, clips * clip_frames(model.checkpoint), 0, 0, 0.0)


def _usd(cluster: ClusterFile, name: str, prompt_tokens: int, completion_tokens: int) -> float | None:
    if name in cluster.models:
        return 0.0
    price = price_of(cluster.providers[name])
    return None if price is None else cost(price, prompt_tokens, completion_tokens)


@cache
def clip_frames(checkpoint: str) -> int:
    """Frames of a clip: by the checkpoint's configuration where it is a folder, else VideoMAE's as published."""
    try:
        return int(json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))["num_frames"])
    except (OSError, ValueError, KeyError, TypeError):
        return _CLIP_FRAMES


@cache
def frame_tokens(checkpoint: str) -> int:
    """Tokens of a frame: by the checkpoint's configuration where it is a folder, else as published."""
    try:
        vision = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))["vision_config"]
        return int(vision["image_size"] // vision["patch_size"]) ** 2 + 1
    except (OSError, ValueError, KeyError, TypeError):
        return _FRAME_TOKENS
