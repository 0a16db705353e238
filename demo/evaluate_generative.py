"""Measure the generative demo checkpoints on held-out scenes with greedy decoding in float32.

python -m demo.evaluate_generative demo/checkpoints/llava --scenes 400 --json results.json
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch

from demo import generative_cases as cases
from demo.evaluate_clip import ZeroShot, measure
from demo.generative_answers import load_answerer
from demo.generative_cases import Case
from demo.scenes import DIFFICULTIES, Difficulty

CLIP = Path(__file__).parent / "checkpoints" / "clip"


def llava_cases(count: int, seed: int) -> list[Case]:
    """All that a LLaVA is measured on."""
    chosen: list[Case] = []
    for difficulty in DIFFICULTIES:
        scenes = cases.scenes_of(difficulty, count, seed)
        chosen += cases.subject_cases(scenes)
        for held_out in (False, True):
            chosen += cases.question_cases(scenes[: count // 2], seed, held_out=held_out)
        chosen += cases.images_cases(scenes[: count // 2], seed)
        chosen += cases.images_cases(scenes[: count // 4], seed, pictures=3)
        chosen += cases.chat_cases(scenes[: count // 5], seed)
    return chosen


def blip2_cases(count: int, seed: int) -> list[Case]:
    """All that a BLIP-2 is measured on."""
    chosen: list[Case] = []
    for difficulty in DIFFICULTIES:
        scenes = cases.scenes_of(difficulty, count, seed)
        chosen += cases.caption_cases(scenes)
        chosen += cases.subject_cases(scenes[: count // 2])
        for held_out in (False, True):
            chosen += cases.question_cases(scenes[: count // 2], seed, held_out=held_out)
        chosen += cases.chat_cases(scenes[: count // 5], seed)
    return chosen


def video_llava_cases(count: int, seed: int) -> list[Case]:
    """All that a Video-LLaVA is measured on."""
    chosen: list[Case] = []
    levels: tuple[Difficulty, ...] = ("easy", "medium")
    for difficulty in levels:
        for held_out in (False, True):
            chosen += cases.motion_cases(difficulty, count // 2, seed, held_out=held_out)
        chosen += cases.subject_cases(cases.scenes_of(difficulty, count // 2, seed))
    return chosen


_CASES = {"llava": llava_cases, "blip-2": blip2_cases, "video_llava": video_llava_cases}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--scenes", type=int, default=400, help="scenes of each difficulty")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--wrong", type=int, default=0, help="show so many wrong answers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.nice(10)
    answerer = load_answerer(arguments.checkpoint)
    kind = json.loads((arguments.checkpoint / "config.json").read_text())["model_type"]
    outcomes = cases.run(_CASES[kind](arguments.scenes, arguments.seed), answerer)
    rows = cases.shares(outcomes)
    print(cases.table(rows))
    for outcome in [outcome for outcome in outcomes if not outcome.right][: arguments.wrong]:
        print(f"{outcome.case.difficulty}: {outcome.turn.question!r} {outcome.turn.answer!r}, not {outcome.said!r}")
    results: dict[str, object] = {"scenes": arguments.scenes, "seed": arguments.seed, "rows": rows}
    if kind == "llava":
        clip = ZeroShot(CLIP)
        compared = [
            measure(clip, cases.scenes_of(difficulty, arguments.scenes, arguments.seed), cases.NATIVE_SIZE)
            for difficulty in DIFFICULTIES
        ]
        for row in compared:
            print(f"CLIP, {row.difficulty}: colour {row.colour:.3f}, shape {row.shape:.3f}, pair {row.pair:.3f}")
        results["clip on the same scenes"] = [asdict(row) for row in compared]
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
