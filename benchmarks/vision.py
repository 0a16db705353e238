"""`argus bench vision`: Florence-2 through its deployment beside a loop of plain transformers over equal batches.

Both go from JPEG file to parsed answer, a picture a request, tasks in turn; see `benchmarks.beside_loop`.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from rich.console import Console

from benchmarks.beside_loop import COLUMNS, LEAST_SHARE, TIMEOUT_S, Setting, all_of, compared, deployed, pickled
from benchmarks.report import Column, Report, this_command
from deployments.florence2.messages import Answer, SeenImage, VisionRequest, VisionResult, VisionTask
from deployments.florence2.tasks import TASKS
from deployments.messages import Call, EncodedImage
from serve.config.cluster import ClusterFile
from serve.config.load import checkpoint_label
from serve.errors import ModelFailed

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

MODES = {"beam": 3, "fast": 1}
MIX = ("object-detection", "caption", "ocr", "dense-region-caption")
GOAL = f"the deployment gives >= {LEAST_SHARE:g} of the loop's answers a second, in both modes"
_SIDE = 448
_COLUMNS = (Column("mode", "mode"), Column("beams", "beams", "d"), *COLUMNS)


@dataclass(frozen=True, slots=True)
class Asked:
    """A JPEG file and the task about it."""

    jpeg: bytes
    task: str


class Loop:
    """Plain transformers over ready batches."""

    def __init__(self, setting: Setting, max_tokens: int) -> None:
        from transformers import AutoProcessor, Florence2ForConditionalGeneration

        torch.set_num_threads(1)
        self._setting, self._max_tokens = setting, max_tokens
        self._dtype = getattr(torch, setting.dtype)
        model: Any = Florence2ForConditionalGeneration.from_pretrained(
            setting.checkpoint, dtype=self._dtype, use_safetensors=True
        )
        self._model = model.to(setting.device).eval()
        self._processor: Any = AutoProcessor.from_pretrained(setting.checkpoint, backend="pil")

    def run(self, asked: Sequence[Asked], beams: int) -> None:
        """Answers everything."""
        for first in range(0, len(asked), self._setting.batch):
            self._batch(asked[first : first + self._setting.batch], beams)

    def _batch(self, asked: Sequence[Asked], beams: int) -> None:
        images = [Image.open(io.BytesIO(one.jpeg)).convert("RGB") for one in asked]
        tokens = [TASKS[one.task].token for one in asked]
        inputs = self._processor(text=tokens, images=images, return_tensors="pt", padding=True)
        with torch.inference_mode():
            ids = self._model.generate(
                **inputs.to(self._setting.device, self._dtype),
                num_beams=beams,
                max_new_tokens=self._max_tokens,
                do_sample=False,
            )
        texts = self._processor.batch_decode(ids, skip_special_tokens=False)
        for text, token, image in zip(texts, tokens, images, strict=True):
            self._processor.post_process_generation(text, task=token, image_size=image.size)


def requests(count: int) -> list[Asked]:
    """Held-out scenes, tasks in turn."""
    from demo.scenes import render, sample_scene

    asked = []
    for i in range(count):
        buffer = io.BytesIO()
        Image.fromarray(render(sample_scene(i, split="test", difficulty="medium"), _SIDE)).save(buffer, "JPEG")
        asked.append(Asked(buffer.getvalue(), MIX[i % len(MIX)]))
    return asked


def run(*, setting: Setting, max_tokens: int, count: int, rounds: int, progress: Console) -> Report:
    """Measures both in both modes, in turns."""
    report = Report(
        this_command(),
        f"Florence-2, {count} single requests of {setting.callers} callers, batches of at most {setting.batch}",
        GOAL,
        _COLUMNS,
        {
            "checkpoint": checkpoint_label(setting.checkpoint),
            "device": setting.device,
            "dtype": setting.dtype,
            "requests": count,
            "rounds": rounds,
            "max_tokens": max_tokens,
            "tasks": list(MIX),
        },
    )
    with deployed(setting, "florence2", _implementation) as handle:
        report.rows = asyncio.run(_measure(setting, max_tokens, handle, requests(count), rounds, progress))
    report.notes = [
        "Answers a second are medians over the rounds, and so is the share, which is taken round by round.",
        f"Every request is a JPEG of {_SIDE} x {_SIDE} pixels; tasks are mixed within the loop's batches, while the "
        "deployment keeps those with long answers apart from the others.",
    ]
    if setting.device == "cuda":
        report.settings = {**report.settings, "gpu": torch.cuda.get_device_name()}
    report.misses = [
        f"{row['mode']}: {row['share']:.2f} of the loop" for row in report.rows if row["share"] < LEAST_SHARE
    ]
    return report


def _implementation(cluster: ClusterFile) -> tuple[type, tuple[Any, ...]]:
    from deployments.florence2.replica import Florence2Replica
    from serve.services import image_limits

    return Florence2Replica, ("florence2", cluster.models["florence2"], image_limits(cluster))


async def _measure(
    setting: Setting,
    max_tokens: int,
    handle: DeploymentHandle[Any],
    asked: Sequence[Asked],
    rounds: int,
    progress: Console,
) -> list[dict[str, Any]]:
    loop, handle = Loop(setting, max_tokens), pickled(handle)

    async def served(some: Sequence[Asked], beams: int) -> None:
        async def ask(one: Asked) -> None:
            request = VisionRequest((EncodedImage(one.jpeg),), (VisionTask(one.task),), beams, max_tokens)
            result: VisionResult = await handle.vision.remote(request, Call("bench", TIMEOUT_S))
            image = result.images[0]
            if not isinstance(image, SeenImage) or not isinstance(image.answers[0], Answer):
                raise ModelFailed(f"a request failed: {image}")

        await all_of(some, setting.callers, ask)

    rows = []
    for mode, beams in MODES.items():
        warm = asked[: 2 * setting.batch]
        loop.run(warm, beams)
        await served(warm, beams)
        row = await compared(
            setting,
            len(asked),
            rounds,
            lambda beams=beams: loop.run(asked, beams),  # type: ignore[misc]
            lambda beams=beams: served(asked, beams),  # type: ignore[misc]
            mode,
            progress,
        )
        rows.append({"mode": mode, "beams": beams, **row})
    return rows
