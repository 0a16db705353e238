"""`argus bench parity`: do both engines choose the same tokens?

The same rendered prompts and media go to the vLLM and the transformers engine, greedily, in float32. Sums of floats in
another order differ in the last bits, so where two candidates are all but equal the engines may part; the gap between
the two at the first token that differs is therefore reported.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.report import Column, Report, this_command
from benchmarks.servers import ROOT
from deployments.generation.engine import Engine, Prompt
from deployments.generation.messages import ChatEvent, ImagePart, Message, Sampling, Text, VideoPart
from deployments.generation.prompts import load_style, render
from deployments.messages import RawImage
from serve.config.models import GenerativeModel

KINDS = ("llava", "blip2", "video_llava")
# Two candidates this close in log probability are equal within float32's error through a whole model.
EQUAL = 1e-3
GOAL = (
    "both engines choose the same tokens for every prompt, but for ties: candidates within "
    f"{EQUAL:g} of each other in log probability where they first differ"
)
_MOST_TOKENS = 48
_COLUMNS = (
    Column("model", "model"),
    Column("prompts", "prompts", "d"),
    Column("same", "same tokens", "d"),
    Column("share", "share", ".1%"),
    Column("ties", "part at a tie", "d"),
    Column("apart", "part otherwise", "d"),
    Column("largest_gap", "largest gap", ".2g"),
    Column("logprob_error", "largest logprob difference", ".2g"),
    Column("tokens", "tokens", "d"),
    Column("vllm_s", "vLLM s", ".1f"),
    Column("transformers_s", "transformers s", ".1f"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """Tokens chosen, and the log probabilities of the likeliest two at each."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    gaps: tuple[float, ...]


def run(*, kinds: Sequence[str], prompts: int, progress: Console) -> Report:
    """Compares the engines on `prompts` prompts of each kind."""
    report = Report(
        this_command(),
        f"Greedy tokens of vLLM and transformers, {prompts} held-out prompts",
        GOAL,
        _COLUMNS,
        {
            "prompts": prompts,
            "most_tokens": _MOST_TOKENS,
            "dtype": "float32",
        },
    )
    for kind in kinds:
        asked = prompts_of(kind, prompts)
        answers: dict[str, list[Answer]] = {}
        seconds: dict[str, float] = {}
        for engine in ("vllm", "transformers"):
            progress.print(f"  {kind}: {engine}", highlight=False)
            answers[engine], seconds[engine] = asyncio.run(_answers(kind, engine, asked))
        row = compared(kind, answers["vllm"], answers["transformers"])
        row |= {"vllm_s": seconds["vllm"], "transformers_s": seconds["transformers"]}
        report.rows.append(row)
        if row["apart"]:
            report.misses.append(f"{kind}: {row['apart']} of {row['prompts']} prompts are answered differently")
    report.notes = ["Prompts in flight together, so both engines batch; seconds include that, and not the start."]
    return report


def compared(kind: str, ours: Sequence[Answer], theirs: Sequence[Answer]) -> dict[str, Any]:
    """One row of the table."""
    gaps: list[float] = []
    error = 0.0
    for one, other in zip(ours, theirs, strict=True):
        at = _first_difference(one.tokens, other.tokens)
        until = len(one.tokens) if at is None else at
        error = max([error, *(abs(a - b) for a, b in zip(one.logprobs[:until], other.logprobs[:until], strict=True))])
        if at is not None:
            gaps.append(min(one.gaps[at : at + 1] + other.gaps[at : at + 1], default=float("inf")))
    ties = sum(gap <= EQUAL for gap in gaps)
    return {
        "model": kind,
        "prompts": len(ours),
        "same": len(ours) - len(gaps),
        "share": 1 - len(gaps) / len(ours),
        "ties": ties,
        "apart": len(gaps) - ties,
        "largest_gap": max(gaps, default=0.0),
        "logprob_error": error,
        "tokens": sum(len(one.tokens) for one in ours),
    }


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return None if len(one) == len(other) else min(len(one), len(other))


async def _answers(kind: str, name: str, asked: Sequence[Prompt]) -> tuple[list[Answer], float]:
    engine = _engine(kind, name)
    await engine.start()
    try:
        began = time.perf_counter()
        answers = await asyncio.gather(*(_answer(engine, prompt, i) for i, prompt in enumerate(asked)))
        return list(answers), time.perf_counter() - began
    finally:
        await engine.close()


def _engine(kind: str, name: str) -> Engine:
    from deployments.generation.engines import make_engine

    model = {
        "kind": kind,
        "engine": name,
        "checkpoint": str(ROOT / "demo" / "checkpoints" / kind),
        "dtype": "float32",
        "batching": {"max_items": 16, "max_queue": 4096},
    }
    return make_engine(GenerativeModel.model_validate(model))


async def _answer(engine: Engine, prompt: Prompt, number: int) -> Answer:
    sampling = Sampling(max_tokens=_MOST_TOKENS, temperature=0.0, logprobs=2)
    events: list[ChatEvent] = []
    async for event in engine.generate(prompt, sampling, f"parity-{number}", float("inf")):
        events.append(event)
    chosen = [logprob for event in events for logprob in event.logprobs]
    return Answer(
        tuple(token for event in events for token in event.token_ids),
        tuple(token.logprob for token in chosen),
        tuple(token.top[0].logprob - token.top[1].logprob for token in chosen),
    )


def prompts_of(kind: str, count: int) -> list[Prompt]:
    """Rendered prompts about held-out scenes: the questions on which the checkpoints are measured."""
    from demo import evaluate_generative, generative_cases

    style = load_style(str(ROOT / "demo" / "checkpoints" / kind))
    cases = {
        "llava": evaluate_generative.llava_cases,
        "blip2": evaluate_generative.blip2_cases,
        "video_llava": evaluate_generative.video_llava_cases,
    }[kind](max(20, count // 4), seed=11)
    chosen = [cases[i * len(cases) // count] for i in range(count)]
    prompts = []
    for case in chosen:
        seen = generative_cases.shown(case)
        parts = [
            ImagePart(RawImage(np.asarray(one))) if isinstance(one, Image.Image) else VideoPart(b"") for one in seen
        ]
        question = (Text(case.turns[0].question),) if case.turns[0].question else ()
        text = render([Message("user", (*parts, *question))], style).text
        images = tuple(one for one in seen if isinstance(one, Image.Image))
        videos = tuple(one for one in seen if not isinstance(one, Image.Image))
        prompts.append(Prompt(text, images, _ids(images), videos, _ids(videos)))
    return prompts


def _part(shown: Any) -> ImagePart | VideoPart:
    """What `render` needs to place it; the media themselves go to the engine decoded."""
    return ImagePart(RawImage(np.asarray(shown))) if isinstance(shown, Image.Image) else VideoPart(b"")


def _ids(media: Sequence[Any]) -> tuple[str, ...]:
    return tuple(hashlib.blake2b(np.asarray(one).tobytes(), digest_size=16).hexdigest() for one in media)
