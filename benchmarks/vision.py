"""`argus bench vision`: Florence-2 through its deployment beside a loop of plain transformers over equal batches.

Both answer the same requests (a picture each, tasks in turn) from JPEG file to parsed answer, in turns in one run. The
loop takes them in ready batches, as a script over a folder does; the deployment gets single requests from concurrent
callers through a Ray handle and makes its batches from them, at most as large as the loop's.
"""

from __future__ import annotations

import asyncio
import io
import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from rich.console import Console

from benchmarks.report import Column, Report, this_command
from deployments.florence2.messages import Answer, SeenImage, VisionRequest, VisionResult, VisionTask
from deployments.florence2.tasks import TASKS
from deployments.messages import Call, EncodedImage
from serve.config.load import parse
from serve.errors import ModelFailed
from serve.runtime import ingress, state
from serve.runtime.local import LocalCluster, apply_environment

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

LEAST_SHARE = 0.9
MODES = {"beam": 3, "fast": 1}
MIX = ("object-detection", "caption", "ocr", "dense-region-caption")
GOAL = f"the deployment gives >= {LEAST_SHARE:g} of the loop's answers a second, in both modes"
_SIDE = 448
_TIMEOUT_S = 600.0
_GPU_GB = 16.0
_COLUMNS = (
    Column("mode", "mode"),
    Column("beams", "beams", "d"),
    Column("batch", "batch", "d"),
    Column("callers", "callers", "d"),
    Column("loop_per_s", "loop answers/s", ".2f"),
    Column("served_per_s", "served answers/s", ".2f"),
    Column("share", "share", ".2f"),
    Column("lowest", "lowest round", ".2f"),
    Column("highest", "highest round", ".2f"),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same for both sides."""

    checkpoint: str
    device: str
    dtype: str
    batch: int
    callers: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A JPEG file and the task about it."""

    jpeg: bytes
    task: str


class Loop:
    """Plain transformers over ready batches."""

    def __init__(self, setting: Setting) -> None:
        from transformers import AutoProcessor, Florence2ForConditionalGeneration

        torch.set_num_threads(1)
        self._setting = setting
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
                max_new_tokens=self._setting.max_tokens,
                do_sample=False,
            )
        texts = self._processor.batch_decode(ids, skip_special_tokens=False)
        for text, token, image in zip(texts, tokens, images, strict=True):
            self._processor.post_process_generation(text, task=token, image_size=image.size)


class Served:
    """The deployment, asked by concurrent callers, one picture a request."""

    def __init__(self, setting: Setting, handle: DeploymentHandle[Any]) -> None:
        self._setting = setting
        self._handle = handle.options(request_serialization="pickle", response_serialization="pickle")

    async def run(self, asked: Sequence[Asked], beams: int) -> None:
        """Answers everything."""
        waiting = iter(asked)

        async def caller() -> None:
            for one in waiting:
                await self._ask(one, beams)

        await asyncio.gather(*(caller() for _ in range(self._setting.callers)))

    async def _ask(self, one: Asked, beams: int) -> None:
        request = VisionRequest((EncodedImage(one.jpeg),), (VisionTask(one.task),), beams, self._setting.max_tokens)
        result: VisionResult = await self._handle.vision.remote(request, Call("bench", _TIMEOUT_S))
        image = result.images[0]
        if not isinstance(image, SeenImage) or not isinstance(image.answers[0], Answer):
            raise ModelFailed(f"a request failed: {image}")


def requests(count: int) -> list[Asked]:
    """Held-out scenes, tasks in turn."""
    from demo.scenes import render, sample_scene

    asked = []
    for i in range(count):
        buffer = io.BytesIO()
        Image.fromarray(render(sample_scene(i, split="test", difficulty="medium"), _SIDE)).save(buffer, "JPEG")
        asked.append(Asked(buffer.getvalue(), MIX[i % len(MIX)]))
    return asked


def run(*, setting: Setting, count: int, rounds: int, progress: Console) -> Report:
    """Measures both in both modes, in turns."""
    report = Report(
        this_command(),
        f"Florence-2, {count} single requests of {setting.callers} callers, batches of at most {setting.batch}",
        GOAL,
        _COLUMNS,
        {
            "checkpoint": setting.checkpoint,
            "device": setting.device,
            "dtype": setting.dtype,
            "requests": count,
            "rounds": rounds,
            "max_tokens": setting.max_tokens,
            "tasks": list(MIX),
        },
    )
    with _deployed(setting) as handle:
        report.rows = asyncio.run(_measure(setting, handle, requests(count), rounds, progress))
    report.notes = [
        "Answers a second are medians over the rounds, and so is the share, which is taken round by round.",
        f"Every request is a JPEG of {_SIDE} x {_SIDE} pixels; tasks are mixed within batches.",
    ]
    if setting.device == "cuda":
        report.settings = {**report.settings, "gpu": torch.cuda.get_device_name()}
    report.misses = [
        f"{row['mode']}: {row['share']:.2f} of the loop" for row in report.rows if row["share"] < LEAST_SHARE
    ]
    return report


async def _measure(
    setting: Setting, handle: DeploymentHandle[Any], asked: Sequence[Asked], rounds: int, progress: Console
) -> list[dict[str, Any]]:
    loop, served = Loop(setting), Served(setting, handle)
    rows = []
    for mode, beams in MODES.items():
        warm = asked[: 2 * setting.batch]
        loop.run(warm, beams)
        await served.run(warm, beams)
        pairs = []
        for number in range(rounds):
            started = time.monotonic()
            loop.run(asked, beams)
            between = time.monotonic()
            await served.run(asked, beams)
            pairs.append((between - started, time.monotonic() - between))
            progress.print(f"  {mode}, round {number + 1}: loop {pairs[-1][0]:.1f} s, served {pairs[-1][1]:.1f} s")
        shares = [looped / through for looped, through in pairs]
        rows.append(
            {
                "mode": mode,
                "beams": beams,
                "batch": setting.batch,
                "callers": setting.callers,
                "loop_per_s": statistics.median(len(asked) / looped for looped, _ in pairs),
                "served_per_s": statistics.median(len(asked) / through for _, through in pairs),
                "share": statistics.median(shares),
                "lowest": min(shares),
                "highest": max(shares),
            }
        )
    return rows


@contextmanager
def _deployed(setting: Setting) -> Iterator[DeploymentHandle[Any]]:
    """The deployment alone in a Ray Serve instance without HTTP."""
    name = "bench-vision"
    folder = state.run_dir(name)
    state.write_token(folder)
    apply_environment(ingress.environment(folder, None))
    on_gpu = setting.device == "cuda"
    model = {
        "kind": "florence2",
        "checkpoint": setting.checkpoint,
        "dtype": setting.dtype,
        "gpu_memory_gb": _GPU_GB if on_gpu else 0,
        "batching": {"max_items": setting.batch, "max_wait_ms": 10},
    }
    pool = {"gpu": "any", "gpus": 1, "gpu_memory_gb": 2 * _GPU_GB} if on_gpu else {}
    metrics_port = ingress.free_ports(1)[0]
    cluster = parse(
        {
            "name": name,
            "node_pools": {"local": pool},
            "models": {"florence2": model},
            "server": {"metrics_port": metrics_port},
        }
    )
    local = LocalCluster(cluster, folder)
    try:
        local.start_ray()
        from ray import serve

        from deployments.florence2.replica import Florence2Replica
        from serve.services import image_limits

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled")
        deployment = serve.deployment(
            name="florence2",
            max_ongoing_requests=4 * setting.callers,
            ray_actor_options={
                "num_cpus": 1,
                "num_gpus": 0.5 if on_gpu else 0,
                "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}},
            },
        )(Florence2Replica)
        bound = deployment.bind("florence2", cluster.models["florence2"], image_limits(cluster))
        yield serve.run(bound, name="florence2", route_prefix=None)
    finally:
        local.stop()
