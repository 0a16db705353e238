"""`argus bench accuracy`: what the generative demo checkpoints know, asked through the served API.

The cases are those of demo/generative_cases.py, on scenes and wordings that no training has seen; the answers come
from a running cluster over HTTP, so that rendering, decoding and batching are part of what is measured.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av
import httpx
import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.report import Column, Report, this_command
from benchmarks.servers import argus
from demo import evaluate_generative, generative_cases
from demo.generative_cases import Case, Message, Outcome, Shown

KINDS = ("llava", "blip2", "video_llava")
# Answers to these name an attribute: colour, shape, count up to four, left or right.
ATTRIBUTES = (
    "colour of the object",
    "shape of the object",
    "colour of a shape",
    "shape of a colour",
    "how many",
    "how many of a shape",
    "how many of a colour",
    "left or right",
)
GOAL = (
    "LLaVA answers >= 90% of attribute questions about one picture (easy and medium scenes), BLIP-2 names every object "
    "in >= 85% of its captions (easy and medium), Video-LLaVA >= 85% of motion questions (easy), and LLaVA names "
    "the pair of colour and shape on hard scenes more often than the demo CLIP"
)
_LEAST = {"llava": 0.90, "blip2": 0.85, "video_llava": 0.85}
_IN_PROGRESS = 16
_COLUMNS = (
    Column("model", "model"),
    Column("suite", "suite"),
    Column("form", "form"),
    Column("difficulty", "scenes"),
    Column("asked", "asked", "d"),
    Column("share", "right", ".1%"),
)


def run(*, kinds: Sequence[str], scenes: int, progress: Console) -> Report:
    """Asks every kind's cases on `scenes` scenes of each difficulty."""
    report = Report(
        this_command(),
        f"Accuracy of the served demo checkpoints, {scenes} held-out scenes of each difficulty",
        GOAL,
        _COLUMNS,
        {"scenes": scenes, "seed": 0, "temperature": 0},
    )
    models = {kind: {"kind": kind, "checkpoint": f"demo:{kind}", "placement": {"num_cpus": 0.3}} for kind in kinds}
    cluster = {
        "node_pools": {"local": {"cpus": 2}},
        "models": models,
        "router": {"num_cpus": 0.3},
        "limits": {"default_timeout_s": 120},
    }
    with argus("bench-accuracy", cluster) as (http, _):
        for kind in kinds:
            cases = _CASES[kind](scenes, 0)
            progress.print(f"  {kind}: {len(cases)} cases", highlight=False)
            outcomes = ask_all(cases, http, kind)
            report.rows += [{"model": kind, **row} for row in generative_cases.shares(outcomes)]
            report.misses += judged(kind, outcomes, scenes)
    return report


_CASES: dict[str, Callable[[int, int], list[Case]]] = {
    "llava": evaluate_generative.llava_cases,
    "blip2": evaluate_generative.blip2_cases,
    "video_llava": evaluate_generative.video_llava_cases,
}


def judged(kind: str, outcomes: Sequence[Outcome], scenes: int) -> list[str]:
    """Where the goal is missed."""
    levels = ("easy",) if kind == "video_llava" else ("easy", "medium")
    counted = [o for o in outcomes if o.case.difficulty in levels and _counts(kind, o)]
    share = sum(o.right for o in counted) / max(1, len(counted))
    found = []
    if share < _LEAST[kind]:
        found.append(f"{kind}: {share:.1%} of {len(counted)} answers are right; {_LEAST[kind]:.0%} are wanted")
    if kind == "llava":
        clip = evaluate_generative.measure(
            evaluate_generative.ZeroShot(evaluate_generative.CLIP),
            generative_cases.scenes_of("hard", scenes, 0),
            generative_cases.NATIVE_SIZE,
        )
        hard = [o.right for o in outcomes if o.case.suite == "largest object" and _is(o, "hard", "the object")]
        ours = sum(hard) / max(1, len(hard))
        if ours <= clip.pair:
            found.append(f"llava: {ours:.1%} of the pairs on hard scenes; the demo CLIP has {clip.pair:.1%}")
    return found


def _is(outcome: Outcome, difficulty: str, form: str) -> bool:
    return outcome.case.difficulty == difficulty and outcome.turn.form == form


def _counts(kind: str, outcome: Outcome) -> bool:
    if kind == "llava":
        return outcome.case.suite.startswith("questions") and outcome.turn.form in ATTRIBUTES
    if kind == "blip2":
        return outcome.case.suite == "caption without a prompt"
    return outcome.turn.form.startswith("motion")


def ask_all(cases: Sequence[Case], http: str, model: str) -> list[Outcome]:
    """Holds the dialogues over HTTP, several at once."""
    with httpx.Client(base_url=http, timeout=180, trust_env=False) as client:

        def answer(messages: Sequence[Message], seen: Sequence[Shown]) -> str:
            body = {"model": model, "messages": sent(messages, seen), "temperature": 0, "max_tokens": 160}
            response = client.post("/v1/chat/completions", json=body).raise_for_status()
            text: str = response.json()["choices"][0]["message"]["content"]
            return text.strip()

        with ThreadPoolExecutor(_IN_PROGRESS) as pool:
            found = pool.map(lambda case: generative_cases.run([case], answer), cases)
            return [outcome for outcomes in found for outcome in outcomes]


def sent(messages: Sequence[Message], seen: Sequence[Shown]) -> list[dict[str, Any]]:
    """OpenAI's messages, media as data URIs without loss: PNG, and FFV1 in Matroska."""
    media = iter(seen)
    return [
        {"role": message["role"], "content": [_part(part, media) for part in message["content"]]}
        for message in messages
    ]


def _part(part: dict[str, Any], media: Any) -> dict[str, Any]:
    if part["type"] == "text":
        return part
    shown = next(media)
    if isinstance(shown, Image.Image):
        buffer = io.BytesIO()
        shown.save(buffer, "PNG")
        return {"type": "image_url", "image_url": {"url": _uri("image/png", buffer.getvalue())}}
    return {"type": "video_url", "video_url": {"url": _uri("video/x-matroska", lossless_video(shown))}}


def _uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def lossless_video(frames: np.ndarray[Any, np.dtype[np.uint8]], fps: int = 4) -> bytes:
    """(frames, height, width, 3) uint8 RGB as FFV1 in a Matroska file."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream: Any = container.add_stream("ffv1", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
