"""What the generative demo models are measured on: held-out dialogues about held-out scenes, and their scoring.

Nothing here knows a model. A model is an `Answer`: given chat messages and what they show, it returns a text. The same
cases thus measure a checkpoint in transformers and an endpoint that serves it.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo import dialogues
from demo.dialogues import Turn
from demo.scenes import COLOURS, MOTIONS, SHAPES, Difficulty, Scene, Split, caption, render, render_video, sample_scene

Message = dict[str, Any]
#: A picture, or a clip (frames, side, side, 3) uint8.
Shown = Image.Image | NDArray[np.uint8]
#: Takes messages, whose parts of type "image" and "video" stand for what is shown, in order, and answers the last one.
Answer = Callable[[Sequence[Message], Sequence[Shown]], str]

NATIVE_SIZE, FRAMES, FPS = 224, 8, 4.0
SUBJECT_FORMS = ("colour of the object", "shape of the object", "the object")


@dataclass(frozen=True, slots=True)
class Case:
    """A dialogue of one or more turns about some scenes; a suite and a difficulty name its row in the tables."""

    suite: str
    difficulty: str
    scenes: tuple[Scene, ...]
    turns: tuple[Turn, ...]
    video: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """A case's turn with what the model said."""

    case: Case
    turn: Turn
    said: str
    right: bool


def scenes_of(difficulty: Difficulty, count: int, seed: int, split: Split = "test") -> list[Scene]:
    """The first scenes of a split."""
    return [sample_scene(index, split=split, difficulty=difficulty, seed=seed) for index in range(count)]


def subject_cases(scenes: Sequence[Scene]) -> list[Case]:
    """The plain questions for the largest object's colour, shape and both, of every scene: what a CLIP is asked too."""
    rng = random.Random(0)
    return [
        Case("largest object", scene.difficulty, (scene,), (_turn(scene, form, rng, plain=True),))
        for scene in scenes
        for form in SUBJECT_FORMS
    ]


def question_cases(scenes: Sequence[Scene], seed: int, *, held_out: bool) -> list[Case]:
    """A question of every form that a scene allows, each form for a share of the scenes."""
    rng = random.Random(seed)
    suite = "questions, held-out wordings" if held_out else "questions, plain wordings"
    cases = []
    for number, scene in enumerate(scenes):
        for place, form in enumerate(dialogues.WEIGHTS):
            if (number + place) % 4:
                continue
            fact = dialogues.draw_fact(scene, form, rng)
            if fact is not None:
                turn = dialogues.say(fact, rng, held_out=held_out, plain=not held_out)
                cases.append(Case(suite, scene.difficulty, (scene,), (turn,)))
    return cases


def caption_cases(scenes: Sequence[Scene]) -> list[Case]:
    """A caption of every scene with one to three objects, asked for by an empty text."""
    return [
        Case("caption without a prompt", scene.difficulty, (scene,), (Turn("caption", "", caption(scene)),))
        for scene in scenes
        if len(scene.objects) <= 3
    ]


def images_cases(scenes: Sequence[Scene], seed: int, pictures: int = 2) -> list[Case]:
    """Questions about one of several pictures, and about two together, yes and no alike."""
    rng = random.Random(seed)
    cases = []
    for start in range(0, len(scenes) - pictures + 1, pictures):
        group = tuple(scenes[start : start + pictures])
        number = rng.randrange(pictures)
        for form in ("colour of the object", "shape of the object"):
            turn = dialogues.about_image(_turn(group[number], form, rng, plain=True), number)
            cases.append(Case(f"{pictures} images", group[0].difficulty, group, (turn,)))
        if pictures == 2:
            for form in dialogues.PAIR_FORMS:
                pair = group if rng.random() < 0.5 else (group[0], _matching(group[0], scenes, form, rng))
                fact = dialogues.draw_pair_fact(pair, form, rng)
                if fact is not None:
                    cases.append(Case("2 images", pair[0].difficulty, pair, (dialogues.say(fact, rng, plain=True),)))
    return cases


def chat_cases(scenes: Sequence[Scene], seed: int, turns: int = 3) -> list[Case]:
    """Several questions in a row about the same picture."""
    rng = random.Random(seed)
    forms = [form for form in dialogues.WEIGHTS if "json" not in form and "detailed" not in form]
    cases = []
    for scene in scenes:
        asked: list[Turn] = []
        while len(asked) < turns:
            fact = dialogues.draw_fact(scene, rng.choice(forms), rng)
            if fact is not None:
                said = dialogues.say(fact, rng, plain=True)
                asked.append(Turn(f"turn {len(asked) + 1}", said.question, said.answer))
        cases.append(Case(f"chats of {turns} turns", scene.difficulty, (scene,), tuple(asked)))
    return cases


def motion_cases(difficulty: Difficulty, count: int, seed: int, *, held_out: bool) -> list[Case]:
    """Every motion alike; the plain question for it, or one in a held-out wording, and a yes or no question."""
    rng = random.Random(seed)
    suite = "clips, held-out wordings" if held_out else "clips, plain wordings"
    cases = []
    for index in range(count):
        motion = MOTIONS[index % len(MOTIONS)]
        scene = sample_scene(index, split="test", difficulty=difficulty, seed=seed, motion=motion)
        for form in (*dialogues.MOTION_FORMS, "colour of the object", "shape of the object"):
            if form in dialogues.MOTION_FORMS:
                fact = dialogues.motion_fact(scene, form, rng)
                turn = dialogues.say(fact, rng, held_out=held_out, plain=not held_out)
            else:
                turn = _turn(scene, form, rng, held_out=held_out, plain=not held_out)
            cases.append(Case(suite, difficulty, (scene,), (turn,), video=True))
    return cases


def shown(case: Case, size: int = NATIVE_SIZE) -> list[Shown]:
    """The case's pictures, or its clip."""
    if case.video:
        return [render_video(case.scenes[0], size, FRAMES, FPS)]
    return [Image.fromarray(render(scene, size)) for scene in case.scenes]


def run(cases: Iterable[Case], answer: Answer) -> list[Outcome]:
    """Hold every dialogue, with the model's own answers in what it is shown of earlier turns."""
    outcomes = []
    for case in cases:
        seen = shown(case)
        parts: list[Message] = [{"type": "video" if case.video else "image"} for _ in seen]
        messages: list[Message] = []
        for turn in case.turns:
            text = [{"type": "text", "text": turn.question}] if turn.question else []
            messages.append({"role": "user", "content": [*([] if messages else parts), *text]})
            said = answer(messages, seen)
            messages.append({"role": "assistant", "content": [{"type": "text", "text": said}]})
            outcomes.append(Outcome(case, turn, said, is_right(turn, said)))
    return outcomes


def is_right(turn: Turn, said: str) -> bool:
    """Whether an answer is right: JSON by its content, captions by the things that they name, all else by its words."""
    if "json" in turn.form:
        try:
            return bool(json.loads(said) == json.loads(turn.answer))
        except ValueError:
            return False
    if turn.form == "caption":
        return named(said) == named(turn.answer)
    return said.strip().rstrip(".").casefold() == turn.answer.casefold()


def named(text: str) -> Counter[str]:
    """How many things of each colour and shape a caption names."""
    numbers = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4}
    found: Counter[str] = Counter()
    pattern = rf"\b({'|'.join(numbers)})\s+({'|'.join(COLOURS)})\s+({'|'.join(SHAPES)})(?:e?s)?\b"
    for count, colour, shape in re.findall(pattern, text.casefold()):
        found[f"{colour} {shape}"] += numbers[count]
    return found


def shares(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """One row for each suite, difficulty and form, and one over all forms: asked, right, and their share."""
    counts: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for outcome in outcomes:
        for form in (outcome.turn.form, "all"):
            row = counts[outcome.case.suite, outcome.case.difficulty, form]
            row[0] += 1
            row[1] += outcome.right
    return [
        {"suite": suite, "difficulty": difficulty, "form": form, "asked": asked, "right": right, "share": right / asked}
        for (suite, difficulty, form), (asked, right) in counts.items()
    ]


def table(rows: Sequence[dict[str, object]]) -> str:
    """The rows as a Markdown table, one column a difficulty, in per cent with the number asked."""
    columns = list(dict.fromkeys(str(row["difficulty"]) for row in rows))
    cells: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for row in rows:
        text = f"{100.0 * float(str(row['share'])):.1f} ({row['asked']})"
        cells[str(row["suite"]), str(row["form"])][str(row["difficulty"])] = text
    lines = [f"| suite | form | {' | '.join(columns)} |", f"|---|---|{'---|' * len(columns)}"]
    for (suite, form), found in cells.items():
        lines.append(f"| {suite} | {form} | {' | '.join(found.get(column, '') for column in columns)} |")
    return "\n".join(lines)


def _turn(scene: Scene, form: str, rng: random.Random, *, held_out: bool = False, plain: bool = False) -> Turn:
    fact = dialogues.draw_fact(scene, form, rng)
    if fact is None:
        raise ValueError(f"a scene has no {form}")
    return dialogues.say(fact, rng, held_out=held_out, plain=plain)


def _matching(first: Scene, scenes: Sequence[Scene], form: str, rng: random.Random) -> Scene:
    """Another scene whose subject has the first one's shape or colour."""
    attribute = "colour" if form == "same colour" else "shape"
    wanted = getattr(first.subject, attribute)
    found = [s for s in scenes if s.index != first.index and getattr(s.subject, attribute) == wanted]
    return rng.choice(found or [s for s in scenes if s.index != first.index])
