"""`argus bench video-classifier`: VideoMAE and TimeSformer through their deployment beside a plain transformers loop.

Both go from video file to class probabilities, a clip a request; see `benchmarks.beside_loop`. Frames are decoded by
the same reader on both sides: what differs is who shapes them, who makes the batches, and the way there.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from benchmarks.beside_loop import COLUMNS, LEAST_SHARE, TIMEOUT_S, Setting, all_of, compared, deployed, pickled
from benchmarks.report import Column, Report, this_command
from deployments.messages import Call
from deployments.video_classifier.messages import ClassifiedClips, ClassifyClips
from serve.config.cluster import ClusterFile
from serve.errors import ModelFailed

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

GOAL = f"the deployment classifies >= {LEAST_SHARE:g} of the loop's clips a second"
_COLUMNS = (Column("model", "model"), *COLUMNS)
_SIDE, _FRAMES, _FPS = 128, 20, 10.0
_KIND = "video_classifier"


class Loop:
    """Plain transformers over ready batches."""

    def __init__(self, setting: Setting) -> None:
        from transformers import AutoModelForVideoClassification
        from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

        torch.set_num_threads(1)
        self._setting = setting
        self._dtype = getattr(torch, setting.dtype)
        model: Any = AutoModelForVideoClassification.from_pretrained(
            setting.checkpoint, dtype=self._dtype, use_safetensors=True
        )
        self._model = model.to(setting.device).eval()
        self._processor: Any = VideoMAEImageProcessorPil.from_pretrained(setting.checkpoint)

    def run(self, videos: Sequence[bytes]) -> None:
        """Classifies everything."""
        from deployments.generation.frames import sample_frames

        for first in range(0, len(videos), self._setting.batch):
            batch = videos[first : first + self._setting.batch]
            clips = [list(sample_frames(video, self._model.config.num_frames)) for video in batch]
            inputs = self._processor(images=clips, return_tensors="pt")
            with torch.inference_mode():
                logits = self._model(**inputs.to(self._setting.device, self._dtype)).logits
            logits.float().softmax(-1).cpu().numpy()


def clips(count: int) -> list[bytes]:
    """Held-out clips as video files."""
    from demo.scenes import MOTIONS, render_video, sample_scene
    from demo.scenes.video_file import write_video

    files = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for i in range(count):
            scene = sample_scene(i, split="test", motion=MOTIONS[i % len(MOTIONS)])
            write_video(path, iter(render_video(scene, _SIDE, _FRAMES, _FPS)), _FPS)
            files.append(path.read_bytes())
    return files


def run(*, name: str, setting: Setting, count: int, rounds: int, progress: Console) -> Report:
    """Measures a model, both sides in turns.

    Args:
        name: what the table shows.
    """
    report = Report(
        this_command(),
        f"Video classifier, {count} single requests of {setting.callers} callers, batches of at most {setting.batch}",
        GOAL,
        _COLUMNS,
        {"device": setting.device, "dtype": setting.dtype, "requests": count, "rounds": rounds},
    )
    with deployed(setting, _KIND, _implementation) as handle:
        row = asyncio.run(_measure(name, setting, handle, clips(count), rounds, progress))
    report.rows = [{"model": name, **row}]
    report.notes = [
        "Clips a second are medians over the rounds, and so is the share, which is taken round by round.",
        f"Every request is an MP4 of {_FRAMES} frames of {_SIDE} x {_SIDE} pixels.",
    ]
    report.misses = [
        f"{row['model']}: {row['share']:.2f} of the loop" for row in report.rows if row["share"] < LEAST_SHARE
    ]
    return report


def _implementation(cluster: ClusterFile) -> tuple[type, tuple[Any, ...]]:
    from deployments.video_classifier.replica import VideoClassifierReplica

    return VideoClassifierReplica, (_KIND, cluster.models[_KIND], cluster.limits.max_body_bytes)


async def _measure(
    name: str,
    setting: Setting,
    handle: DeploymentHandle[Any],
    videos: Sequence[bytes],
    rounds: int,
    progress: Console,
) -> dict[str, Any]:
    loop, handle = Loop(setting), pickled(handle)

    async def served(some: Sequence[bytes]) -> None:
        async def ask(video: bytes) -> None:
            result: ClassifiedClips = await handle.classify_clips.remote(
                ClassifyClips((video,)), Call("bench", TIMEOUT_S)
            )
            if isinstance(result.videos[0], Exception):
                raise ModelFailed(f"a request failed: {result.videos[0]}")

        await all_of(some, setting.callers, ask)

    warm = videos[: 2 * setting.batch]
    loop.run(warm)
    await served(warm)
    return await compared(
        setting, len(videos), rounds, lambda: loop.run(videos), lambda: served(videos), name, progress
    )
