"""Measure the demo Florence-2 on held-out scenes, with the plain classes of transformers.

python -m demo.evaluate_florence2 demo/checkpoints/florence2 --scenes 400 --json results.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from demo import florence2_cases
from demo.florence2_cases import Case, Outcome, Result
from demo.florence2_model import load_checkpoint
from demo.scenes import DIFFICULTIES, SPLITS, Split


class Answerer:
    """An `Answer` by transformers: cases of like prompts together, with so many beams."""

    def __init__(self, folder: Path, device: torch.device, *, beams: int = 3, batch: int = 32) -> None:
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.model, self.processor = load_checkpoint(folder, dtype)
        self.model = self.model.to(device).eval()
        self.beams, self.batch = beams, batch

    def __call__(self, cases: Sequence[Case]) -> list[Result]:
        """What the processor makes of each answer."""
        order = sorted(range(len(cases)), key=lambda place: (cases[place].task, len(cases[place].given)))
        results: dict[int, Result] = {}
        for start in range(0, len(order), self.batch):
            places = order[start : start + self.batch]
            results.update(zip(places, self._batch([cases[place] for place in places]), strict=True))
        return [results[place] for place in range(len(cases))]

    @torch.inference_mode()
    def _batch(self, cases: Sequence[Case]) -> list[Result]:
        inputs = self.processor(
            images=[case.picture for case in cases],
            text=[f"{case.task}{case.given}" for case in cases],
            padding=True,
            return_tensors="pt",
        ).to(self.model.device, self.model.dtype)
        written = self.model.generate(**inputs, num_beams=self.beams)
        texts = self.processor.batch_decode(written, skip_special_tokens=False)
        return [self._read(case, text) for case, text in zip(cases, texts, strict=True)]

    def _read(self, case: Case, text: str) -> Result:
        text = text.replace("<pad>", "").removeprefix("</s>")
        read = self.processor.post_process_generation(text=text, task=case.task, image_size=(case.size, case.size))
        return read[case.task]


def measure(answer: florence2_cases.Answer, scenes: int, seed: int, split: Split = "test") -> list[Outcome]:
    """Every task on so many scenes of each difficulty."""
    cases = [case for level in DIFFICULTIES for case in florence2_cases.cases_of(level, scenes, seed, split)]
    return florence2_cases.run(cases, answer)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--scenes", type=int, default=400, help="scenes of each difficulty")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--wrong", type=int, default=0, help="show so many wrong answers")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    answer = Answerer(arguments.checkpoint, device, beams=arguments.beams, batch=arguments.batch)
    outcomes = measure(answer, arguments.scenes, arguments.seed, arguments.split)
    found = florence2_cases.rows(outcomes)
    print(florence2_cases.table(found))
    for outcome in [outcome for outcome in outcomes if outcome.right < 1.0][: arguments.wrong]:
        case = outcome.case
        print(f"{case.scene.difficulty} {case.scene.index} {case.task} {case.given!r}: {outcome.said!r}")
    if arguments.json is not None:
        results = {"scenes": arguments.scenes, "split": arguments.split, "seed": arguments.seed, "rows": found}
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
