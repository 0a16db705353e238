"""`argus bench perception`: what the demo Florence-2 and the demo video classifiers know, asked through the served API.

Every task of Florence-2 is asked about held-out scenes, the classifiers about held-out clips and long generated videos.
Cases and scores are those of demo/; the answers come from a running cluster over HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import httpx
import numpy as np
from rich.console import Console

from benchmarks.perception_client import IN_PROGRESS, TIMEOUT_S, classified, vision, watched
from benchmarks.report import Column, Report, this_command
from benchmarks.servers import argus
from demo import florence2_cases, video_classifier_scores
from demo.evaluate_video_classifier import HeldOut, draw_held_out
from demo.florence2_cases import Case, Outcome
from demo.scenes import MOTIONS, Difficulty

T = TypeVar("T")
Row = dict[str, Any]

LEVELS: tuple[Difficulty, ...] = ("easy", "medium")
CLASSIFIERS = ("videomae", "timesformer")
GOAL = (
    "Florence-2: mAP@0.5 of objects >= 0.80, >= 85% of captions name every object, >= 80% of printed words are read "
    "exactly, >= 80% of phrases are grounded (IoU > 0.5); each video classifier: >= 90% of clips are named right, "
    "temporal mAP >= 0.7 at a tIoU of 0.5"
)
_LEAST_TOP1, _LEAST_TEMPORAL_MAP = 0.90, 0.70
_STORY_S = 120.0
_SMALL = {"num_cpus": 0.2}
_CLUSTER: dict[str, Any] = {
    "node_pools": {"local": {"cpus": 2, "memory_gb": 16}},
    "models": {
        "florence2": {"kind": "florence2", "checkpoint": "demo:florence2", "placement": _SMALL},
        **{
            name: {
                "kind": "video_classifier",
                "checkpoint": f"demo:{name}",
                "background": ["still"],
                "placement": _SMALL,
            }
            for name in CLASSIFIERS
        },
        "video_reader": {"kind": "video_reader", "placement": _SMALL},
        # Never asked here: without someone to describe videos there is no section `videos`, and without that section
        # long videos are not cut into chunks, as they are where they are served.
        "video_llava": {
            "kind": "video_llava",
            "checkpoint": "demo:video_llava",
            "engine": "transformers",
            "placement": _SMALL,
        },
    },
    "videos": {"reader": "video_reader", "backends": ["video_llava"]},
    "router": {"num_cpus": 0.2},
    "limits": {"default_timeout_s": TIMEOUT_S, "max_timeout_s": TIMEOUT_S},
    # What is measured is whether answers are right: a busy machine may take its time, and turns nobody away.
    "overload": {"target_queue_wait_ms": 1000 * TIMEOUT_S},
    "resilience": {
        "cache": {"enabled": False},
        "targets": {name: {"attempt_timeout_s": TIMEOUT_S} for name in ("florence2", *CLASSIFIERS)},
    },
}
_COLUMNS = (
    Column("model", "model"),
    Column("measure", "measure"),
    Column("asked", "asked", "d"),
    *(Column(level, level, ".1%") for level in LEVELS),
    Column("both", "both", ".1%"),
    Column("wanted", "wanted", ".0%"),
)


def run(*, scenes: int, clips: int, videos: int, progress: Console) -> Report:
    """The benchmark.

    Args:
        scenes: of each difficulty, easy and medium; Florence-2 is asked all its tasks about each.
        clips: of each difficulty, for each classifier.
        videos: of two minutes, easy and medium in turn, for each classifier.
    """
    report = Report(
        this_command(),
        f"Perception, served: {scenes} held-out scenes and {clips} clips of each difficulty, {videos} videos",
        GOAL,
        _COLUMNS,
        {
            "scenes": scenes,
            "clips": clips,
            "videos": videos,
            "video_s": _STORY_S,
            "seed": 0,
            "in_progress": IN_PROGRESS,
        },
    )
    progress.print("  drawing clips and videos", highlight=False)
    with ThreadPoolExecutor(1) as executor:
        held_out = draw_held_out(executor, clips=clips, stories=videos, story_s=_STORY_S)
    with (
        argus("bench-perception", _CLUSTER) as (http, _),
        httpx.Client(base_url=http, timeout=TIMEOUT_S, trust_env=False) as client,
    ):
        cases = [case for level in LEVELS for case in florence2_cases.cases_of(level, scenes, seed=0)]
        progress.print(f"  florence2: {len(cases)} cases", highlight=False)
        report.rows += florence2_rows(florence2_cases.run(cases, vision(client, "florence2")))
        for name in CLASSIFIERS:
            progress.print(f"  {name}: {clips * len(LEVELS)} clips, {videos} videos", highlight=False)
            report.rows += classifier_rows(name, client, held_out)
    report.notes = [
        "both: over all that was asked. Rows of tasks give the mean share right of an answer.",
        "Pictures are sent as PNG, videos as H.264; beams, windows, thresholds and chunks are the defaults.",
    ]
    report.misses += judged(report.rows)
    return report


def florence2_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """The four goals, then each task."""

    def mine(
        measure: str,
        counts: Callable[[Case], bool],
        least: float | None = None,
        score: Callable[[Sequence[Outcome]], float] = _mean_right,
    ) -> Row:
        chosen = [outcome for outcome in outcomes if counts(outcome.case)]
        by_level = {level: [o for o in chosen if o.case.scene.difficulty == level] for level in LEVELS}
        return row("florence2", measure, by_level, score, least)

    return [
        mine("objects, mAP@0.5", lambda case: case.task == "<OD>", 0.80, florence2_cases.mean_average_precision),
        mine("captions that name every object", lambda case: case.task == "<CAPTION>", 0.85),
        mine("printed words read exactly", lambda case: case.task == "<OCR>" and case.scene.word is not None, 0.80),
        mine("phrases grounded, IoU > 0.5", lambda case: case.task == "<CAPTION_TO_PHRASE_GROUNDING>", 0.80),
        *(mine(name, partial(_is_of, name)) for name in sorted({o.case.suite for o in outcomes})),
    ]


def classifier_rows(name: str, client: httpx.Client, held_out: HeldOut) -> list[Row]:
    """Clips that a served classifier names right, and actions that it finds in long videos."""
    clips = {
        level: [
            label == MOTIONS[kind]
            for label, kind in zip(classified(client, name, list(drawn)), kinds.tolist(), strict=True)
        ]
        for level, (drawn, kinds) in held_out.clips.items()
    }
    found = watched(client, name, held_out.stories)
    # As `draw_held_out` draws them.
    videos = {level: found[start :: len(LEVELS)] for start, level in enumerate(LEVELS)}
    return [
        row(name, "clips named right", clips, lambda right: float(np.mean(right)), _LEAST_TOP1),
        row(
            name,
            "actions, temporal mAP@0.5",
            videos,
            video_classifier_scores.mean_average_precision,
            _LEAST_TEMPORAL_MAP,
        ),
    ]


def row(
    model: str,
    measure: str,
    by_level: Mapping[Difficulty, Sequence[T]],
    score: Callable[[Sequence[T]], float],
    least: float | None,
) -> Row:
    """A line of the table; a score of nothing is None."""
    everything = [item for level in LEVELS for item in by_level[level]]
    return {
        "model": model,
        "measure": measure,
        "asked": len(everything),
        **{str(level): score(by_level[level]) if by_level[level] else None for level in LEVELS},
        "both": score(everything) if everything else None,
        "wanted": least,
    }


def judged(rows: Sequence[Row]) -> list[str]:
    """Where the goal is missed."""
    misses = []
    for found in rows:
        both, wanted = found["both"], found["wanted"]
        if wanted is not None and (both is None or both < wanted):
            reached = "nothing was asked" if both is None else f"{both:.1%}"
            misses.append(f"{found['model']}, {found['measure']}: {reached}; {wanted:.0%} is wanted")
    return misses


def _is_of(suite: str, case: Case) -> bool:
    return case.suite == suite


def _mean_right(outcomes: Sequence[Outcome]) -> float:
    return float(np.mean([outcome.right for outcome in outcomes]))
