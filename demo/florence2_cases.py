"""What the demo Florence-2 is measured on: every task on held-out scenes, with words kept from training, and scoring.

Nothing here knows a model. A model is an `Answer`: given cases it returns, for each, what the published processor
makes of an answer, with boxes in pixels of the picture. The same cases thus measure a checkpoint in transformers and
an endpoint that serves it.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from demo.florence2_lessons import TASKS, describe, draw_phrase, locations
from demo.florence2_outlines import outline
from demo.florence2_words import is_seen, random_word, reworded, scene_lines
from demo.generative_cases import named
from demo.scenes import (
    COLOURS,
    DIFFICULTIES,
    SHAPES,
    CaptionLevel,
    Difficulty,
    Scene,
    Split,
    grounded_caption,
    label,
    object_box,
    render,
    sample_scene,
)

#: What `Florence2Processor.post_process_generation` returns for a task: a text, or boxes or polygons with labels.
Result = Any
Points = Sequence[float]
NATIVE_SIZE = 224
_OBJECT_TASKS = ("<OD>", "<DENSE_REGION_CAPTION>", "<REGION_PROPOSAL>")


@dataclass(frozen=True, slots=True)
class Case:
    """A task on a scene: what follows the task in the prompt, and the numbers of the objects that it is about."""

    suite: str
    scene: Scene
    task: str
    given: str
    numbers: tuple[int, ...]
    size: int = NATIVE_SIZE

    @property
    def picture(self) -> Image.Image:
        """The scene's picture, `size` pixels wide and high."""
        return _picture(self.scene, self.size)


#: Answers some cases, in their order.
Answer = Callable[[Sequence[Case]], Sequence[Result]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A case, what was answered, and how much of it is right, in 0..1."""

    case: Case
    said: Result
    right: float


def cases_of(difficulty: Difficulty, count: int, seed: int, split: Split = "test") -> list[Case]:
    """All tasks on the first scenes of a split; a word is printed in every second one.

    Half of the words are random letters that training never showed.
    """
    rng = random.Random(seed)
    cases = []
    for index in range(count):
        scene = sample_scene(index, split=split, difficulty=difficulty, seed=seed, word=index % 2 == 0)
        if scene.word is not None and index % 4 == 0:
            scene = reworded(scene, random_word(rng, len(scene.word.text), seen=False))
        cases += [_case(scene, task, rng) for task in TASKS if scene.word is not None or task != "<OCR_WITH_REGION>"]
    return cases


def run(cases: Sequence[Case], answer: Answer) -> list[Outcome]:
    """Ask everything at once, and score."""
    return [Outcome(case, said, score(case, said)) for case, said in zip(cases, answer(cases), strict=True)]


def score(case: Case, said: Result) -> float:
    """How much of an answer is right, in 0..1; what counts depends on the task.

    A caption names every object with colour and shape, and no other; a text is exact; of boxes and polygons, the share
    of what there is that one with the right label covers at an intersection over union above a half.
    """
    scene, size = case.scene, case.size
    wanted = [scene.objects[number] for number in case.numbers]
    match case.task:
        case "<CAPTION>":
            return float(named(said) == Counter(label(item) for item in scene.objects))
        case "<DETAILED_CAPTION>" | "<MORE_DETAILED_CAPTION>":
            return float(mentioned(said) == {label(item) for item in scene.objects})
        case "<OCR>":
            return float(said == ("" if scene.word is None else scene.word.text))
        case "<OCR_WITH_REGION>":
            lines = scene_lines(scene, size)
            boxes = [_corners(quad) for quad in said["quad_boxes"]]
            return _found(
                [(line.text, _edges(line.box)) for line in lines], list(zip(said["labels"], boxes, strict=True))
            )
        case "<REGION_TO_CATEGORY>":
            return float(said == label(wanted[0]))
        case "<REGION_TO_DESCRIPTION>":
            return float(said == describe(wanted[0]))
        case "<REGION_TO_OCR>":
            return float(said == (scene.word.text if scene.word is not None and not wanted else ""))
        case "<REFERRING_EXPRESSION_SEGMENTATION>" | "<REGION_TO_SEGMENTATION>":
            masks = [_mask(polygon, size) for instance in said["polygons"] for polygon in instance]
            shapes = [_mask((outline(item) * size).ravel().tolist(), size) for item in wanted]
            if not shapes:
                return float(not masks)
            return sum(any(_mask_overlap(shape, mask) > 0.5 for mask in masks) for shape in shapes) / len(shapes)
        case "<CAPTION_TO_PHRASE_GROUNDING>":
            phrases = grounded_caption(scene, size, "detailed" if case.given.startswith("There") else "brief").phrases
            truth = [(phrase.phrase, _edges(box)) for phrase in phrases for box in phrase.boxes]
            return _found(truth, list(zip(said["labels"], said["bboxes"], strict=True)))
        case "<OPEN_VOCABULARY_DETECTION>":
            truth = [(case.given, _edges(object_box(item, size))) for item in wanted]
            return _found(truth, list(zip(said["bboxes_labels"], said["bboxes"], strict=True)))
        case "<REGION_PROPOSAL>":
            truth = [("", _edges(object_box(item, size))) for item in wanted]
            truth += [("", _edges(line.box)) for line in scene_lines(scene, size)]
            return _found(truth, [("", box) for box in said["bboxes"]])
        case _:
            name = label if case.task == "<OD>" else describe
            truth = [(name(item), _edges(object_box(item, size))) for item in wanted]
            return _found(truth, list(zip(said["labels"], said["bboxes"], strict=True)))


def mentioned(text: str) -> set[str]:
    """The pairs of a colour and a shape, such as "red star", that a text names."""
    return {f"{colour} {shape}" for colour in COLOURS for shape in SHAPES if f"{colour} {shape}" in text}


def mean_average_precision(outcomes: Iterable[Outcome], least: float = 0.5) -> float:
    """mAP of the <OD> outcomes: mean over the labels that occur of the area under precision over recall.

    Florence-2 gives its boxes no scores, so they rank by their order in an answer, earlier pictures first.
    """
    truths: Counter[str] = Counter()
    hits: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.case.task != "<OD>":
            continue
        scene, size = outcome.case.scene, outcome.case.size
        left = [(label(item), _edges(object_box(item, size))) for item in scene.objects]
        truths.update(name for name, _ in left)
        for rank, (name, box) in enumerate(zip(outcome.said["labels"], outcome.said["bboxes"], strict=True)):
            matches = [item for item in left if item[0] == name and overlap(item[1], box) > least]
            if matches:
                left.remove(max(matches, key=lambda item: overlap(item[1], box)))
            hits[name].append((rank, bool(matches)))
    return sum(_average_precision(hits[name], count) for name, count in truths.items()) / max(len(truths), 1)


def overlap(one: Points, other: Points) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """One row for each suite and difficulty: how many were asked, and the mean share right; mAP has a row too."""
    found: dict[tuple[str, Difficulty], list[float]] = defaultdict(list)
    for outcome in outcomes:
        found[outcome.case.suite, outcome.case.scene.difficulty].append(outcome.right)
    table: list[dict[str, object]] = [
        {"suite": suite, "difficulty": difficulty, "asked": len(shares), "share": float(np.mean(shares))}
        for (suite, difficulty), shares in found.items()
    ]
    for difficulty in DIFFICULTIES:
        here = [o for o in outcomes if o.case.task == "<OD>" and o.case.scene.difficulty == difficulty]
        if here:
            share = mean_average_precision(here)
            table.append({"suite": "<OD> mAP@0.5", "difficulty": difficulty, "asked": len(here), "share": share})
    return table


def table(found: Sequence[dict[str, object]]) -> str:
    """The rows as a Markdown table, one column a difficulty, in per cent with the number asked."""
    columns = list(dict.fromkeys(str(row["difficulty"]) for row in found))
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    for row in found:
        cells[str(row["suite"])][str(row["difficulty"])] = f"{100.0 * float(str(row['share'])):.1f} ({row['asked']})"
    lines = [f"| task | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    lines += [f"| {suite} | {' | '.join(shown.get(c, '') for c in columns)} |" for suite, shown in cells.items()]
    return "\n".join(lines)


@lru_cache(maxsize=1024)
def _picture(scene: Scene, size: int) -> Image.Image:
    return Image.fromarray(render(scene, size))


def _case(scene: Scene, task: str, rng: random.Random) -> Case:
    """What a task leaves open is drawn here; captions to ground are brief or detailed by turns."""
    everything = tuple(range(len(scene.objects)))
    one = rng.choice(everything)
    region = locations(object_box(scene.objects[one], NATIVE_SIZE), NATIVE_SIZE)
    match task:
        case "<CAPTION_TO_PHRASE_GROUNDING>":
            level: CaptionLevel = "detailed" if scene.index % 3 == 0 else "brief"
            return Case(task, scene, task, grounded_caption(scene, NATIVE_SIZE, level).text, everything)
        case "<REFERRING_EXPRESSION_SEGMENTATION>" | "<OPEN_VOCABULARY_DETECTION>":
            phrase = draw_phrase(scene, rng)
            suite = task if phrase.numbers else f"{task} of what is not there"
            return Case(suite, scene, task, phrase.text, phrase.numbers)
        case "<REGION_TO_OCR>" if scene.word is not None:
            return Case(
                _word_suite(scene, task),
                scene,
                task,
                locations(scene_lines(scene, NATIVE_SIZE)[0].box, NATIVE_SIZE),
                (),
            )
        case "<REGION_TO_CATEGORY>" | "<REGION_TO_DESCRIPTION>" | "<REGION_TO_OCR>" | "<REGION_TO_SEGMENTATION>":
            return Case(_word_suite(scene, task), scene, task, region, (one,))
        case _:
            return Case(_word_suite(scene, task), scene, task, "", everything)


def _word_suite(scene: Scene, task: str) -> str:
    """Reading is measured apart for words that training could show, for others and where there is nothing to read."""
    if "OCR" not in task:
        return task
    if scene.word is None:
        return f"{task} of nothing"
    return f"{task}, {'a word' if is_seen(scene.word.text) else 'letters never seen'}"


def _found(truth: Sequence[tuple[str, Points]], said: Sequence[tuple[str, Points]]) -> float:
    """Share of the true boxes that a box of the same label covers; of nothing, whether nothing was said."""
    if not truth:
        return float(not said)
    return sum(any(name == other and overlap(box, place) > 0.5 for other, place in said) for name, box in truth) / len(
        truth
    )


def _average_precision(hits: Sequence[tuple[int, bool]], truths: int) -> float:
    """Area under the falling envelope of precision over recall."""
    ranked = np.array([hit for _, hit in sorted(hits, key=lambda item: item[0])], np.float64)
    if not len(ranked):
        return 0.0
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * ranked).sum() / truths)


def _edges(box: Any) -> Points:
    return (box.left, box.top, box.right, box.bottom)


def _corners(quad: Points) -> Points:
    """The box around a quadrilateral x1, y1 to x4, y4."""
    return (min(quad[0::2]), min(quad[1::2]), max(quad[0::2]), max(quad[1::2]))


def _mask(polygon: Points, size: int) -> NDArray[np.bool_]:
    """A polygon x1, y1, x2, y2 and so on in pixels as a (size, size) mask; fewer than three corners cover nothing."""
    image = Image.new("1", (size, size))
    if len(polygon) >= 6:
        ImageDraw.Draw(image).polygon(list(polygon), fill=1)
    return np.asarray(image)


def _mask_overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))
