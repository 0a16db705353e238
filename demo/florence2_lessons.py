"""What the demo Florence-2 is taught: for every task of the published processor, what is asked of a scene and the
answer, written as that processor reads it.

Places are <loc_0> to <loc_999>, thousandths of the width or the height. Where nothing is found, the answer is empty.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from demo.florence2_outlines import outline
from demo.florence2_tokenizer import LOCATIONS
from demo.florence2_words import Line, scene_lines
from demo.scenes import (
    CAPTION_LEVELS,
    COLOURS,
    SHAPES,
    Box,
    CaptionLevel,
    Scene,
    SceneObject,
    caption,
    grounded_caption,
    label,
    object_box,
    position_word,
    size_word,
)

#: Every task, with how often it is drawn when a scene allows it.
WEIGHTS: dict[str, float] = {
    "<OD>": 3.0,
    "<CAPTION>": 2.5,
    "<DETAILED_CAPTION>": 0.8,
    "<MORE_DETAILED_CAPTION>": 0.4,
    "<DENSE_REGION_CAPTION>": 1.2,
    "<REGION_PROPOSAL>": 0.8,
    "<CAPTION_TO_PHRASE_GROUNDING>": 3.0,
    "<OCR>": 3.0,
    "<OCR_WITH_REGION>": 2.0,
    "<REFERRING_EXPRESSION_SEGMENTATION>": 1.5,
    "<REGION_TO_SEGMENTATION>": 1.2,
    "<OPEN_VOCABULARY_DETECTION>": 1.5,
    "<REGION_TO_CATEGORY>": 1.0,
    "<REGION_TO_DESCRIPTION>": 1.0,
    "<REGION_TO_OCR>": 1.0,
}
TASKS = tuple(WEIGHTS)
_LEVELS: dict[str, CaptionLevel] = {
    "<CAPTION>": "brief",
    "<DETAILED_CAPTION>": "detailed",
    "<MORE_DETAILED_CAPTION>": "exhaustive",
}
_ABSENT = 0.15


@dataclass(frozen=True, slots=True)
class Lesson:
    """A task such as "<OD>", what follows it in the prompt (or nothing), and the answer without its <s> and </s>."""

    task: str
    given: str
    answer: str


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words for some of a scene's objects, by their numbers; none for what is not there."""

    text: str
    numbers: tuple[int, ...]


def draw_lessons(scene: Scene, size: int, count: int, rng: random.Random) -> list[Lesson]:
    """So many lessons, of different tasks, about a scene in a picture of `size` pixels."""
    tasks = [task for task in TASKS if scene.word is not None or task not in ("<OCR_WITH_REGION>", "<REGION_TO_OCR>")]
    return [lesson(scene, size, task, rng) for task in _drawn(tasks, count, rng)]


def page_lessons(lines: Sequence[Line], size: int, count: int, rng: random.Random) -> list[Lesson]:
    """Lessons about a page of printed lines; with more asked for than tasks, some lines are asked for by place."""
    lessons = [
        Lesson("<OCR>", "", " ".join(line.text for line in lines)),
        Lesson("<OCR_WITH_REGION>", "", _quads(lines, size)),
    ]
    while len(lessons) < count:
        line = rng.choice(lines)
        lessons.append(Lesson("<REGION_TO_OCR>", locations(line.box, size), line.text))
    return lessons[:count]


def lesson(scene: Scene, size: int, task: str, rng: random.Random) -> Lesson:
    """One lesson of a task; what a task leaves open, such as which region it is about, is drawn."""
    return _MAKERS[task](scene, size, task, rng)


def locations(box: Box, size: int) -> str:
    """A box as four tokens: left, top, right, bottom."""
    return _tokens((box.left, box.top, box.right, box.bottom), size)


def names_of(scene: Scene) -> dict[str, tuple[int, ...]]:
    """The scene's labels from the largest object down, each with the numbers of all objects of this label."""
    found: dict[str, list[int]] = {}
    for number, item in enumerate(scene.objects):
        found.setdefault(label(item), []).append(number)
    return {name: tuple(numbers) for name, numbers in found.items()}


def describe(item: SceneObject) -> str:
    """An object in a few words: "large red star at the top left"."""
    place = position_word(item)
    return f"{size_word(item)} {label(item)} {'in the centre' if place == 'centre' else f'at the {place}'}"


def draw_phrase(scene: Scene, rng: random.Random, *, absent: float = _ABSENT) -> Phrase:
    """Words that name some objects: by label, colour, shape or size and label; now and then what is not there."""
    if rng.random() < absent:
        present = names_of(scene)
        name = rng.choice([name for c in COLOURS for s in SHAPES if (name := f"{c} {s}") not in present])
        return Phrase(_with_article(name, rng), ())
    item = rng.choice(scene.objects)
    form = rng.choices(("label", "shape", "colour", "size"), (6, 2, 2, 1))[0]
    noun, matches = {
        "label": (label(item), lambda o: label(o) == label(item)),
        "shape": (item.shape, lambda o: o.shape == item.shape),
        "colour": (f"{item.colour} object", lambda o: o.colour == item.colour),
        "size": (
            f"{size_word(item)} {label(item)}",
            lambda o: (size_word(o), label(o)) == (size_word(item), label(item)),
        ),
    }[form]
    numbers = tuple(number for number, other in enumerate(scene.objects) if matches(other))
    if len(numbers) > 1:
        return Phrase(f"{noun}es" if noun.endswith("s") else f"{noun}s", numbers)
    return Phrase(_with_article(noun, rng), numbers)


def _with_article(noun: str, rng: random.Random) -> str:
    article = rng.choice(("", "", "the ", "an " if noun[0] in "aeiou" else "a "))
    return f"{article}{noun}"


def _drawn(tasks: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """Different tasks by their weights: the highest of random keys, as Efraimidis and Spirakis draw."""
    return sorted(tasks, key=lambda task: rng.random() ** (1.0 / WEIGHTS[task]), reverse=True)[:count]


def _tokens(numbers: Iterable[float], size: float) -> str:
    bins = (min(max(int(number / size * LOCATIONS), 0), LOCATIONS - 1) for number in numbers)
    return "".join(f"<loc_{number}>" for number in bins)


def _boxes(scene: Scene, size: int, numbers: Iterable[int]) -> str:
    return "".join(locations(object_box(scene.objects[number], size), size) for number in numbers)


def _quads(lines: Sequence[Line], size: int) -> str:
    return "".join(line.text + _tokens((edge for corner in line.box.quad for edge in corner), size) for line in lines)


def _polygons(scene: Scene, numbers: Sequence[int]) -> str:
    """The outline of one object as plain places, those of several each between <poly> and </poly>."""
    outlines = [_tokens(outline(scene.objects[number]).ravel().tolist(), 1.0) for number in numbers]
    return outlines[0] if len(outlines) == 1 else "".join(f"<poly>{text}</poly>" for text in outlines)


def _caption(scene: Scene, _size: int, task: str, _rng: random.Random) -> Lesson:
    return Lesson(task, "", caption(scene, _LEVELS[task]))


def _detection(scene: Scene, size: int, task: str, _rng: random.Random) -> Lesson:
    found = names_of(scene).items()
    return Lesson(task, "", "".join(f"{name}{_boxes(scene, size, numbers)}" for name, numbers in found))


def _dense_captions(scene: Scene, size: int, task: str, _rng: random.Random) -> Lesson:
    found = enumerate(scene.objects)
    return Lesson(task, "", "".join(f"{describe(item)}{_boxes(scene, size, (number,))}" for number, item in found))


def _proposals(scene: Scene, size: int, task: str, _rng: random.Random) -> Lesson:
    words = "".join(locations(line.box, size) for line in scene_lines(scene, size))
    return Lesson(task, "", _boxes(scene, size, range(len(scene.objects))) + words)


def _grounding(scene: Scene, size: int, task: str, rng: random.Random) -> Lesson:
    """A caption of the scene, or some phrases in any order and wording."""
    if rng.random() < 0.55:
        level = rng.choices(CAPTION_LEVELS, (5, 5, 1))[0]
        said = grounded_caption(scene, size, level)
        found = "".join(f"{p.phrase}{''.join(locations(box, size) for box in p.boxes)}" for p in said.phrases)
        return Lesson(task, said.text, found)
    phrases = {phrase.text: phrase for phrase in (draw_phrase(scene, rng) for _ in range(rng.randint(1, 3)))}
    text = rng.choice((", ", " and ", ". ")).join(phrases)
    opening = rng.choice(("", "", "A picture of ", "There is "))
    answer = "".join(f"{p.text}{_boxes(scene, size, p.numbers)}" for p in phrases.values() if p.numbers)
    return Lesson(task, f"{opening}{text}{rng.choice(('', '.'))}", answer)


def _read(scene: Scene, _size: int, task: str, _rng: random.Random) -> Lesson:
    return Lesson(task, "", "" if scene.word is None else scene.word.text)


def _read_regions(scene: Scene, size: int, task: str, _rng: random.Random) -> Lesson:
    return Lesson(task, "", _quads(scene_lines(scene, size), size))


def _referring(scene: Scene, _size: int, task: str, rng: random.Random) -> Lesson:
    phrase = draw_phrase(scene, rng)
    return Lesson(task, phrase.text, _polygons(scene, phrase.numbers))


def _open_vocabulary(scene: Scene, size: int, task: str, rng: random.Random) -> Lesson:
    phrase = draw_phrase(scene, rng)
    found = f"{phrase.text}{_boxes(scene, size, phrase.numbers)}" if phrase.numbers else ""
    return Lesson(task, phrase.text, found)


def _region_segmentation(scene: Scene, size: int, task: str, rng: random.Random) -> Lesson:
    number = rng.randrange(len(scene.objects))
    return Lesson(task, _boxes(scene, size, (number,)), _polygons(scene, (number,)))


def _region_text(scene: Scene, size: int, task: str, rng: random.Random) -> Lesson:
    """What an object's box or, with a chance that depends on the task, a word's box holds."""
    lines = scene_lines(scene, size)
    of_word = {"<REGION_TO_CATEGORY>": ("word", 0.15), "<REGION_TO_DESCRIPTION>": ("the word {}", 0.15)}
    form, chance = of_word.get(task, ("{}", 0.85))
    if lines and rng.random() < chance:
        return Lesson(task, locations(lines[0].box, size), form.format(lines[0].text))
    number = rng.randrange(len(scene.objects))
    item = scene.objects[number]
    answer = {"<REGION_TO_CATEGORY>": label(item), "<REGION_TO_DESCRIPTION>": describe(item)}.get(task, "")
    return Lesson(task, _boxes(scene, size, (number,)), answer)


_MAKERS: dict[str, Callable[[Scene, int, str, random.Random], Lesson]] = {
    **dict.fromkeys(_LEVELS, _caption),
    "<OD>": _detection,
    "<DENSE_REGION_CAPTION>": _dense_captions,
    "<REGION_PROPOSAL>": _proposals,
    "<CAPTION_TO_PHRASE_GROUNDING>": _grounding,
    "<OCR>": _read,
    "<OCR_WITH_REGION>": _read_regions,
    "<REFERRING_EXPRESSION_SEGMENTATION>": _referring,
    "<REGION_TO_SEGMENTATION>": _region_segmentation,
    "<OPEN_VOCABULARY_DETECTION>": _open_vocabulary,
    "<REGION_TO_CATEGORY>": _region_text,
    "<REGION_TO_DESCRIPTION>": _region_text,
    "<REGION_TO_OCR>": _region_text,
}
