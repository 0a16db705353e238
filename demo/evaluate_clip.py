"""Measure a demo CLIP on held-out scenes with held-out prompts, and fit its temperature.

python -m demo.evaluate_clip demo/checkpoints/clip --json results.json
python -m demo.evaluate_clip demo/checkpoints/clip --calibrate
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from demo import clip_prompts as prompts
from demo.scenes import COLOURS, DIFFICULTIES, SHAPES, Difficulty, Scene, Split, render, sample_scene

CALIBRATION_FILE = "argus.json"
_BATCH = 128
_BINS = 15


@dataclass(frozen=True, slots=True)
class Row:
    """Top-1 accuracies over one set of scenes at one native size, in 0..1: means over all held-out templates, and
    for the pairs also the worst template."""

    difficulty: Difficulty
    native_size: int
    scenes: int
    colour: float
    shape: float
    pair: float
    worst_pair_template: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a temperature was fitted on, and what it changed.

    Attributes:
        temperature: what is left to divide logits by when serving: 1, since the fitted one is in the logit scale.
        folded_temperature: the fitted one, that the logit scale was divided by.
    """

    temperature: float
    folded_temperature: float
    fitted_on: str
    samples: int
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float


class ZeroShot:
    """A checkpoint used as a zero-shot classifier, by nothing but transformers' public interface."""

    def __init__(self, folder: Path) -> None:
        self.model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = CLIPProcessor.from_pretrained(folder)

    @torch.inference_mode()
    def images(self, scenes: Sequence[Scene], size: int) -> Tensor:
        """Unit embeddings (scenes, projection) of pictures rendered at `size` pixels."""
        parts = []
        for start in range(0, len(scenes), _BATCH):
            pictures = [Image.fromarray(render(scene, size)) for scene in scenes[start : start + _BATCH]]
            inputs = self.processor(images=pictures, return_tensors="pt")
            pooled = self.model.vision_model(**inputs).pooler_output
            parts.append(F.normalize(self.model.visual_projection(pooled), dim=-1))
        return torch.cat(parts)

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> Tensor:
        """Unit embeddings (texts, projection)."""
        inputs = self.processor(text=texts, padding=True, truncation=True, return_tensors="pt")
        return F.normalize(self.model.text_projection(self.model.text_model(**inputs).pooler_output), dim=-1)

    def logits(self, images: Tensor, texts: list[str]) -> Tensor:
        """Scaled cosines (images, texts)."""
        logits: Tensor = self.model.logit_scale.detach().exp() * images @ self.texts(texts).T
        return logits


def subjects(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Colour and shape numbers of each scene's largest object, int64."""
    colours = torch.tensor([COLOURS.index(scene.subject.colour) for scene in scenes])
    return colours, torch.tensor([SHAPES.index(scene.subject.shape) for scene in scenes])


def draw(split: Split, difficulty: Difficulty, count: int, seed: int) -> list[Scene]:
    """The first scenes of a split."""
    return [sample_scene(index, split=split, difficulty=difficulty, seed=seed) for index in range(count)]


def measure(classifier: ZeroShot, scenes: Sequence[Scene], size: int) -> Row:
    """Accuracies with every held-out template in turn."""
    images = classifier.images(scenes, size)
    colours, shapes = subjects(scenes)
    pairs = colours * len(SHAPES) + shapes

    def accuracies(sets: Iterator[list[str]], wanted: Tensor) -> list[float]:
        return [(classifier.logits(images, texts).argmax(1) == wanted).double().mean().item() for texts in sets]

    by_colour = accuracies(map(prompts.colour_prompts, prompts.HELD_OUT_COLOUR_TEMPLATES), colours)
    by_shape = accuracies(map(prompts.shape_prompts, prompts.HELD_OUT_TEMPLATES), shapes)
    by_pair = accuracies(map(prompts.pair_prompts, prompts.HELD_OUT_TEMPLATES), pairs)
    colour, shape, pair = (float(np.mean(values)) for values in (by_colour, by_shape, by_pair))
    return Row(scenes[0].difficulty, size, len(scenes), colour, shape, pair, min(by_pair))


def calibrate(classifier: ZeroShot, count: int, seed: int) -> Calibration:
    """Fit one temperature by likelihood, over all 80 pairs, to as many scenes of each difficulty of the split "val".

    The largest object's pair is the right answer. Easy scenes alone would not do: where every answer is right, the
    likelihood has no best temperature.
    """
    template = prompts.HELD_OUT_TEMPLATES[0]
    scenes = [scene for difficulty in DIFFICULTIES for scene in draw("val", difficulty, count, seed)]
    colours, shapes = subjects(scenes)
    wanted = colours * len(SHAPES) + shapes
    logits = classifier.logits(classifier.images(scenes, 224), prompts.pair_prompts(template)).double()
    candidates = np.geomspace(0.05, 20.0, 2400)
    losses = [F.cross_entropy(logits / temperature, wanted).item() for temperature in candidates]
    place = int(np.argmin(losses))
    if place in (0, len(candidates) - 1):
        raise ValueError(f"the likelihood has no best temperature between {candidates[0]} and {candidates[-1]}")
    best = float(candidates[place])
    return Calibration(
        1.0,
        round(best, 4),
        f'scene world, split "val", easy, medium and hard alike, seed {seed}, rendered at 224, the largest object '
        f'among all 80 pairs, "{prompts.fill(template, "red star")}" and so on',
        len(scenes),
        F.cross_entropy(logits, wanted).item(),
        F.cross_entropy(logits / best, wanted).item(),
        calibration_error(logits, wanted),
        calibration_error(logits / best, wanted),
    )


def fold(folder: Path, temperature: float) -> None:
    """Move a temperature into the checkpoint's own logit scale: softmax(scale / T * cosine) needs none beside it.

    Plain transformers then gives calibrated probabilities too, the very ones that are served.
    """
    path = folder / "model.safetensors"
    tensors = load_file(path)
    scale = tensors["logit_scale"]
    tensors["logit_scale"] = (scale.double() - math.log(temperature)).to(scale.dtype)
    save_file(tensors, path, metadata={"format": "pt"})


def calibration_error(logits: Tensor, wanted: Tensor) -> float:
    """Expected calibration error over 15 bins of equal width of the highest probability."""
    sure, chosen = logits.softmax(1).max(1)
    right = (chosen == wanted).double()
    bins = (sure * _BINS).long().clamp(max=_BINS - 1)
    error = 0.0
    for number in range(_BINS):
        members = bins == number
        if members.any():
            error += (right[members].mean() - sure[members].mean()).abs().item() * members.double().mean().item()
    return error


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, in per cent."""
    lines = [
        "| scenes | native size | number | colour (10) | shape (8) | pair (80) | pair, worst template |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = " | ".join(
            f"{100.0 * value:.1f}" for value in (row.colour, row.shape, row.pair, row.worst_pair_template)
        )
        lines.append(f"| {row.difficulty} | {row.native_size} | {row.scenes} | {shares} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--scenes", type=int, default=2000, help="scenes per row")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224], help="native sizes of the easy scenes")
    parser.add_argument("--json", type=Path, help="write the rows and the calibration here")
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help=f"fit and fold a temperature, write {CALIBRATION_FILE}",
    )
    arguments = parser.parse_args()
    classifier = ZeroShot(arguments.checkpoint)
    results: dict[str, object] = {}
    if arguments.calibrate:
        calibration = calibrate(classifier, arguments.scenes, arguments.seed)
        fold(arguments.checkpoint, calibration.folded_temperature)
        fitted = {"calibration": asdict(calibration)}
        (arguments.checkpoint / CALIBRATION_FILE).write_text(json.dumps(fitted, indent=2) + "\n")
        print(json.dumps(fitted, indent=2))
        results |= fitted
    easy = draw("test", "easy", arguments.scenes, arguments.seed)
    rows = [measure(classifier, easy, size) for size in arguments.sizes]
    for difficulty in DIFFICULTIES[1:]:
        rows.append(measure(classifier, draw("test", difficulty, arguments.scenes, arguments.seed), 224))
    print(table(rows))
    results["rows"] = [asdict(row) for row in rows]
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
