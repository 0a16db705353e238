"""What can be said about a scene: captions, labelled boxes, grounded phrases, questions, attributes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypedDict, get_args

import numpy as np

from demo.scenes.render import Box, object_box, word_box
from demo.scenes.world import COLOURS, DIFFICULTIES, SHAPES, SPLITS, Scene, SceneObject, Word

CaptionLevel = Literal["brief", "detailed", "exhaustive"]
QuestionKind = Literal["colour", "shape", "count", "left or right", "above or below", "existence", "word"]

CAPTION_LEVELS: tuple[CaptionLevel, ...] = get_args(CaptionLevel)
QUESTION_KINDS: tuple[QuestionKind, ...] = get_args(QuestionKind)

_NUMBERS = ("no", "a", "two", "three", "four")
#: Two centres nearer than this (a fraction of the image side) are neither left nor right, above nor below.
_CLEARLY_APART = 0.12


@dataclass(frozen=True, slots=True)
class Detection:
    """An object's label, such as "red star", its box in pixels, and its place in `Scene.objects`."""

    label: str
    box: Box
    number: int


@dataclass(frozen=True, slots=True)
class GroundedPhrase:
    """A phrase of a caption, text[start:end], and the boxes in pixels of everything that it names."""

    phrase: str
    start: int
    end: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class GroundedCaption:
    """A caption and those of its phrases that name objects."""

    text: str
    phrases: tuple[GroundedPhrase, ...]


@dataclass(frozen=True, slots=True)
class PrintedText:
    """The printed word and its box in pixels; `box.quad` has the four corners."""

    text: str
    box: Box


@dataclass(frozen=True, slots=True)
class Question:
    """A question with one right answer of one word."""

    kind: QuestionKind
    question: str
    answer: str


class ObjectAttributes(TypedDict):
    """One object; x, y and size are fractions of the image side, rotation is in degrees clockwise."""

    shape: str
    colour: str
    size_word: str
    position: str
    x: float
    y: float
    size: float
    rotation: float


class SceneAttributes(TypedDict):
    """Everything nameable about a scene, ready for JSON."""

    count: int
    objects: list[ObjectAttributes]
    background: str
    word: str | None
    motion: str


def label(item: SceneObject) -> str:
    """The short name of an object: "red star"."""
    return f"{item.colour} {item.shape}"


def size_word(item: SceneObject) -> str:
    """One of the words "large", "medium-sized" and "small"."""
    if item.size >= 0.4:
        return "large"
    return "medium-sized" if item.size >= 0.2 else "small"


def position_word(item: SceneObject | Word) -> str:
    """The cell of a three by three grid that holds the centre: "top left", "bottom", "centre" and so on."""
    row = ("top", "", "bottom")[min(int(item.y * 3), 2)]
    column = ("left", "", "right")[min(int(item.x * 3), 2)]
    return f"{row} {column}".strip() or "centre"


def detections(scene: Scene, size: int) -> tuple[Detection, ...]:
    """Every object's label and box for a picture of `size` pixels, from the largest object to the smallest."""
    return tuple(Detection(label(o), object_box(o, size), n) for n, o in enumerate(scene.objects))


def printed_text(scene: Scene, size: int) -> PrintedText | None:
    """The printed word with its box for a picture of `size` pixels, or None."""
    return None if scene.word is None else PrintedText(scene.word.text, word_box(scene.word, size))


def caption(scene: Scene, level: CaptionLevel = "brief") -> str:
    """A caption: the objects alone, a sentence with places and sizes, or everything with relations."""
    return _compose(scene, level)[0]


def grounded_caption(scene: Scene, size: int, level: CaptionLevel = "brief") -> GroundedCaption:
    """A caption whose object phrases carry the boxes of a picture of `size` pixels."""
    text, mentions = _compose(scene, level)
    phrases: list[GroundedPhrase] = []
    cursor = 0
    for phrase, numbers in mentions:
        start = text.index(phrase, cursor)
        cursor = start + len(phrase)
        boxes = tuple(object_box(scene.objects[number], size) for number in numbers)
        phrases.append(GroundedPhrase(phrase, start, cursor, boxes))
    return GroundedCaption(text, tuple(phrases))


def attributes(scene: Scene) -> SceneAttributes:
    """The scene as plain structured data."""
    return {
        "count": len(scene.objects),
        "objects": [
            {
                "shape": o.shape,
                "colour": o.colour,
                "size_word": size_word(o),
                "position": position_word(o),
                "x": round(o.x, 4),
                "y": round(o.y, 4),
                "size": round(o.size, 4),
                "rotation": round(float(np.degrees(o.rotation)), 1),
            }
            for o in scene.objects
        ],
        "background": scene.background.name,
        "word": None if scene.word is None else scene.word.text,
        "motion": scene.motion.kind,
    }


def questions(scene: Scene) -> tuple[Question, ...]:
    """Every question of every kind that has exactly one right answer; the same scene always asks the same ones."""
    return (
        *_naming_questions(scene),
        *_counting_questions(scene),
        *_relation_questions(scene),
        *_existence_questions(scene),
        *_word_questions(scene),
    )


_Mentions = list[tuple[str, tuple[int, ...]]]


def _compose(scene: Scene, level: CaptionLevel) -> tuple[str, _Mentions]:
    """The caption, and in order of appearance its object phrases with the numbers of their objects."""
    if level == "brief":
        groups: dict[str, list[int]] = {}
        for number, item in enumerate(scene.objects):
            groups.setdefault(label(item), []).append(number)
        mentions = [(_counted(name, len(numbers)), tuple(numbers)) for name, numbers in groups.items()]
        return _listed([phrase for phrase, _ in mentions]), mentions
    mentions = [(f"a {size_word(o)} {label(o)}", (n,)) for n, o in enumerate(scene.objects)]
    placed = [f"{phrase} {_place(scene.objects[n])}" for phrase, (n, *_) in mentions]
    if level == "detailed":
        return f"There is {_listed(placed)}, on a {scene.background.name} background.{_word_sentence(scene)}", mentions
    count = len(scene.objects)
    opening = f"The picture shows {_objects(count)} on a {scene.background.name} background."
    sentences = [opening, *(f"There is {text}." for text in placed)]
    for first, second, side in _relations(scene):
        names = tuple(f"the {label(scene.objects[n])}" for n in (first, second))
        capital = f"T{names[0][1:]}"
        sentences.append(f"{capital} is {side} {names[1]}.")
        mentions += [(capital, (first,)), (names[1], (second,))]
    return " ".join(sentences) + _word_sentence(scene), mentions


def _word_sentence(scene: Scene) -> str:
    if scene.word is None:
        return ""
    return f" The word {scene.word.text} is printed {_place(scene.word)}."


def _place(item: SceneObject | Word) -> str:
    position = position_word(item)
    return "in the centre" if position == "centre" else f"at the {position}"


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def _counted(name: str, count: int) -> str:
    if count > 1:
        return f"{_NUMBERS[count]} {_plural(name)}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _objects(count: int) -> str:
    return "one object" if count == 1 else f"{_NUMBERS[count]} objects"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _unique(scene: Scene) -> list[int]:
    """The objects that their label alone points out."""
    counts = Counter(label(o) for o in scene.objects)
    return [n for n, o in enumerate(scene.objects) if counts[label(o)] == 1]


def _relations(scene: Scene) -> list[tuple[int, int, str]]:
    """(first, second, how first lies to second) for each neighbouring pair of objects that labels tell apart."""
    numbers = _unique(scene)
    relations: list[tuple[int, int, str]] = []
    for first, second in pairwise(numbers):
        one, other = scene.objects[first], scene.objects[second]
        if abs(one.x - other.x) >= _CLEARLY_APART:
            relations.append((first, second, "to the left of" if one.x < other.x else "to the right of"))
        if abs(one.y - other.y) >= _CLEARLY_APART:
            relations.append((first, second, "above" if one.y < other.y else "below"))
    return relations


def _naming_questions(scene: Scene) -> list[Question]:
    if len(scene.objects) == 1:
        item = scene.subject
        return [
            Question("colour", "What colour is the object?", item.colour),
            Question("shape", "What shape is the object?", item.shape),
        ]
    shapes = Counter(o.shape for o in scene.objects)
    colours = Counter(o.colour for o in scene.objects)
    asked = [
        Question("colour", f"What colour is the {o.shape}?", o.colour) for o in scene.objects if shapes[o.shape] == 1
    ]
    asked += [
        Question("shape", f"What shape is the {o.colour} object?", o.shape)
        for o in scene.objects
        if colours[o.colour] == 1
    ]
    return asked


def _counting_questions(scene: Scene) -> list[Question]:
    shapes = Counter(o.shape for o in scene.objects)
    colours = Counter(o.colour for o in scene.objects)
    asked = [Question("count", "How many objects are there?", str(len(scene.objects)))]
    asked += [Question("count", f"How many {_plural(name)} are there?", str(n)) for name, n in shapes.items()]
    asked += [Question("count", f"How many {name} objects are there?", str(n)) for name, n in colours.items()]
    return asked


def _relation_questions(scene: Scene) -> list[Question]:
    asked: list[Question] = []
    for first, second, side in _relations(scene):
        one, other = label(scene.objects[first]), label(scene.objects[second])
        if side in ("above", "below"):
            asked.append(Question("above or below", f"Is the {one} above or below the {other}?", side))
        else:
            text = f"Is the {one} to the left or to the right of the {other}?"
            asked.append(Question("left or right", text, "left" if "left" in side else "right"))
    return asked


def _existence_questions(scene: Scene) -> list[Question]:
    """As many questions whose answer is yes as questions whose answer is no, half of these nearly right."""
    present = sorted({label(o) for o in scene.objects})
    colours, shapes = {o.colour for o in scene.objects}, {o.shape for o in scene.objects}
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES if f"{colour} {shape}" not in present]
    near = [pair for pair in pairs if pair[0] in colours or pair[1] in shapes]
    key = [scene.seed, SPLITS.index(scene.split), DIFFICULTIES.index(scene.difficulty), scene.index, 1]
    rng = np.random.default_rng(np.random.SeedSequence(key))
    asked: list[Question] = []
    for number, name in enumerate(present):
        choices = near if number % 2 == 0 else pairs
        colour, shape = choices[int(rng.integers(len(choices)))]
        for text, answer in ((name, "yes"), (f"{colour} {shape}", "no")):
            asked.append(Question("existence", f"Is there {_counted(text, 1)}?", answer))
    return asked


def _word_questions(scene: Scene) -> list[Question]:
    if scene.word is None:
        return []
    return [Question("word", "What word is printed in the picture?", scene.word.text)]
