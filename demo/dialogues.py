"""Questions with their answers about scenes, as the turns of a dialogue: for training and for measuring.

Everything follows from the scene and a `random.Random`. Training takes scenes of the split "train" with the training
wordings; measurements take the splits "val" and "test", with either kind of wordings.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from demo.clip_prompts import with_article
from demo.dialogue_phrases import CHATS, HELD_OUT, NO_PICTURE, TRAIN, lowered, reworded
from demo.scenes import COLOURS, MOTIONS, SHAPES, Scene, SceneObject, caption, label, position_word, questions

#: How often each form is drawn in training, where a scene allows it.
WEIGHTS: dict[str, float] = {
    "colour of the object": 1.0,
    "shape of the object": 1.5,
    "the object": 0.7,
    "colour of a shape": 1.8,
    "shape of a colour": 1.8,
    "how many": 0.9,
    "how many of a shape": 0.8,
    "how many of a colour": 0.6,
    "left or right": 1.2,
    "above or below": 0.8,
    "place": 0.5,
    "is there": 1.4,
    "is anything": 0.5,
    "one of two colours": 0.7,
    "one of two shapes": 0.7,
    "text": 0.3,
    "background": 0.25,
    "caption": 0.6,
    "detailed caption": 0.06,
    "json of the object": 0.3,
    "json of the objects": 0.12,
    "json of the count": 0.1,
}
#: The same with more of what is hard to learn.
HARDER = WEIGHTS | {"how many": 2.0, "left or right": 3.0, "above or below": 1.6, "is there": 2.0}
#: Mostly what names an attribute or compares two things: the weights of a LLaVA, which has little room for more.
ATTRIBUTES_FIRST: dict[str, float] = {
    "colour of the object": 1.0,
    "shape of the object": 2.0,
    "the object": 1.2,
    "colour of a shape": 1.2,
    "shape of a colour": 2.0,
    "how many": 3.0,
    "how many of a shape": 1.5,
    "how many of a colour": 1.2,
    "left or right": 5.0,
    "above or below": 2.5,
    "place": 0.05,
    "is there": 1.2,
    "is anything": 0.3,
    "one of two colours": 0.3,
    "one of two shapes": 0.5,
    "text": 0.15,
    "background": 0.05,
    "caption": 0.5,
    "detailed caption": 0.01,
    "json of the object": 0.15,
    "json of the objects": 0.04,
    "json of the count": 0.1,
}
#: The same for one of several pictures.
OF_SEVERAL = ATTRIBUTES_FIRST | {"colour of the object": 6.0, "shape of the object": 6.0, "left or right": 2.0}
_LONG = frozenset(("video caption", *(form for form in WEIGHTS if "caption" in form or "json" in form)))
_YES_NO = frozenset(("is there", "is anything", "text", "same shape", "same colour", "does it"))
_ORDINALS = ("first", "second", "third")


@dataclass(frozen=True, slots=True)
class Turn:
    """One question of a form (a key of the wordings) and its one right answer.

    `image` is the picture that it is about, None where it is about several or says which one only at its end.
    """

    form: str
    question: str
    answer: str
    image: int | None = 0


@dataclass(frozen=True, slots=True)
class Fact:
    """Something true of a scene that a wording of its form can ask for."""

    form: str
    slots: dict[str, str]
    answer: str


def mirrored(scene: Scene) -> Scene:
    """The scene as its mirrored picture shows it, as far as words can tell."""
    objects = tuple(replace(item, x=1.0 - item.x, rotation=-item.rotation) for item in scene.objects)
    return replace(scene, objects=objects)


def draw_fact(scene: Scene, form: str, rng: random.Random) -> Fact | None:
    """A fact of this form, or None where the scene has none."""
    return _DRAWERS[form](scene, form, rng)


def say(fact: Fact, rng: random.Random, *, held_out: bool = False, plain: bool = False) -> Turn:
    """Ask for a fact in a random wording; `plain` takes the first training wording."""
    if held_out:
        wording = rng.choice(HELD_OUT[fact.form])
    elif plain or rng.random() < 0.25:
        wording = TRAIN[fact.form][0]
    else:
        wording = rng.choice(TRAIN[fact.form])
    text = _filled(wording, fact.slots)
    if not (held_out or plain):
        text = reworded(text, rng, short=fact.form not in _LONG, yes_no=fact.form in _YES_NO)
    return Turn(fact.form, text, fact.answer)


def draw_turn(scene: Scene, rng: random.Random, weights: dict[str, float] = WEIGHTS) -> Turn:
    """A random training turn about a scene."""
    forms, shares = tuple(weights), tuple(weights.values())
    while True:
        fact = draw_fact(scene, rng.choices(forms, shares)[0], rng)
        if fact is not None:
            return say(fact, rng)


def draw_chat(rng: random.Random) -> Turn:
    """A turn without a picture: small talk, or a question that cannot be answered."""
    if rng.random() < 0.3:
        form = rng.choice(("colour of the object", "shape of the object", "how many", "caption"))
        return Turn("chat", reworded(rng.choice(TRAIN[form]), rng, short=False), NO_PICTURE)
    asked, answer = rng.choice(CHATS)
    return Turn("chat", rng.choice(asked), answer)


def draw_pair_fact(scenes: Sequence[Scene], form: str, rng: random.Random) -> Fact | None:
    """A fact about two pictures together: one of the forms "same shape", "same colour" and "which image"."""
    first, second = scenes[0], scenes[1]
    if form == "same shape":
        return Fact(form, {}, _yes_no(first.subject.shape == second.subject.shape))
    if form == "same colour":
        return Fact(form, {}, _yes_no(first.subject.colour == second.subject.colour))
    labels = [{label(item) for item in scene.objects} for scene in (first, second)]
    only = [(name, place) for place in (0, 1) for name in sorted(labels[place] - labels[1 - place])]
    if not only:
        return None
    name, place = rng.choice(only)
    return Fact(form, {"p": name, "a": with_article(name)}, _ORDINALS[place])


def about_image(turn: Turn, number: int, rng: random.Random | None = None) -> Turn:
    """The turn asked about one of several pictures: "In the second image, what colour is the star?"."""
    noun = "picture" if rng is not None and rng.random() < 0.2 else "image"
    text = turn.question
    if rng is not None and rng.random() < 0.2 and text.endswith("?") and "picture" not in text and "image" not in text:
        return replace(turn, question=f"{text[:-1]} in the {_ORDINALS[number]} {noun}?", image=None)
    return replace(turn, question=f"In the {_ORDINALS[number]} {noun}, {lowered(text)}", image=number)


def draw_images_turn(scenes: Sequence[Scene], rng: random.Random, weights: dict[str, float] = WEIGHTS) -> Turn:
    """A random training turn about two or more pictures in one prompt."""
    if len(scenes) == 2 and rng.random() < 0.35:
        fact = draw_pair_fact(scenes, rng.choice(PAIR_FORMS), rng)
        if fact is not None:
            return replace(say(fact, rng), image=None)
    number = rng.randrange(len(scenes))
    short = {form: weight for form, weight in weights.items() if form not in _LONG or form == "caption"}
    return about_image(draw_turn(scenes[number], rng, short), number, rng)


def draw_motion_turn(scene: Scene, rng: random.Random) -> Turn:
    """A random training turn about the motion of a clip's subject."""
    return say(motion_fact(scene, rng.choices(MOTION_FORMS, (0.6, 0.2, 0.2))[0], rng), rng)


def motion_fact(scene: Scene, form: str, rng: random.Random) -> Fact:
    """What the subject of a clip does, whether it does that, or the clip's caption; yes and no come alike."""
    kind = scene.motion.kind
    if form == "motion":
        return Fact(form, {}, kind)
    if form == "video caption":
        return Fact(form, {}, f"{with_article(label(scene.subject))} {_VERBS[kind][1]}")
    wanted = rng.random() < 0.5
    asked = kind if wanted else rng.choice([other for other in MOTIONS if other != kind])
    return Fact(form, {"m2": _VERBS[asked][1], "m": _VERBS[asked][0]}, _yes_no(wanted))


MOTION_FORMS = ("motion", "does it", "video caption")
_VERBS: dict[str, tuple[str, str]] = {
    "left": ("move left", "moves left"),
    "right": ("move right", "moves right"),
    "up": ("move up", "moves up"),
    "down": ("move down", "moves down"),
    "grow": ("grow", "grows"),
    "shrink": ("shrink", "shrinks"),
    "rotate clockwise": ("rotate clockwise", "rotates clockwise"),
    "rotate counter-clockwise": ("rotate counter-clockwise", "rotates counter-clockwise"),
    "still": ("stand still", "stands still"),
}
PAIR_FORMS = ("same shape", "same colour", "which image")


def _filled(wording: str, slots: dict[str, str]) -> str:
    text = wording
    for name, value in slots.items():
        text = text.replace(f"{{{name}}}", value)
    return text[:1].upper() + text[1:]


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def _subject(scene: Scene, form: str, rng: random.Random) -> Fact:
    item = scene.subject
    answers = {"colour of the object": item.colour, "shape of the object": item.shape}
    return Fact(form, {}, answers.get(form) or with_article(label(item)))


def _alone(scene: Scene, attribute: str, rng: random.Random) -> SceneObject | None:
    """An object that its shape or its colour alone points out."""
    counts = Counter(getattr(item, attribute) for item in scene.objects)
    found = [item for item in scene.objects if counts[getattr(item, attribute)] == 1]
    return rng.choice(found) if found else None


def _colour_of_shape(scene: Scene, form: str, rng: random.Random) -> Fact | None:
    item = _alone(scene, "shape", rng)
    return None if item is None else Fact(form, {"s": item.shape}, item.colour)


def _shape_of_colour(scene: Scene, form: str, rng: random.Random) -> Fact | None:
    item = _alone(scene, "colour", rng)
    return None if item is None else Fact(form, {"c": item.colour}, item.shape)


def _two_colours(scene: Scene, form: str, rng: random.Random) -> Fact | None:
    item = _alone(scene, "shape", rng)
    if item is None:
        return None
    pair = [item.colour, rng.choice([colour for colour in COLOURS if colour != item.colour])]
    rng.shuffle(pair)
    return Fact(form, {"s": item.shape, "c": pair[0], "cc": pair[1]}, item.colour)


def _two_shapes(scene: Scene, form: str, rng: random.Random) -> Fact | None:
    item = _alone(scene, "colour", rng)
    if item is None:
        return None
    pair = [item.shape, rng.choice([shape for shape in SHAPES if shape != item.shape])]
    rng.shuffle(pair)
    return Fact(form, {"c": item.colour, "s": pair[0], "s2": pair[1]}, item.shape)


def _how_many(scene: Scene, form: str, rng: random.Random) -> Fact:
    if form == "how many":
        return Fact(form, {}, str(len(scene.objects)))
    if form == "how many of a shape":
        present, every = [item.shape for item in scene.objects], SHAPES
    else:
        present, every = [item.colour for item in scene.objects], COLOURS
    name = rng.choice(every) if rng.random() < 0.2 else rng.choice(present)
    return Fact(form, {"c": name, "ss": _plural(name)}, str(present.count(name)))


def _relation(scene: Scene, form: str, rng: random.Random) -> Fact | None:
    found = [question for question in questions(scene) if question.kind == form]
    if not found:
        return None
    question = rng.choice(found)
    # Both orders of the two objects are asked alike, whatever order the scene lists them in.
    words = question.question.rstrip("?").split()
    first, second = " ".join(words[2:4]), " ".join(words[-2:])
    answer = question.answer
    if rng.random() < 0.5:
        first, second, answer = second, first, _OPPOSITE[answer]
    return Fact(form, {"p": first, "q": second}, answer)


_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def _place(scene: Scene, form: str, rng: random.Random) -> Fact | None:
    counts = Counter(label(item) for item in scene.objects)
    found = [item for item in scene.objects if counts[label(item)] == 1]
    if not found:
        return None
    item = rng.choice(found)
    return Fact(form, {"p": label(item)}, position_word(item))


def _is_there(scene: Scene, form: str, rng: random.Random) -> Fact:
    """Yes and no alike; half of the wrong ones share a colour or a shape with something shown."""
    labels = {label(item) for item in scene.objects}
    shapes = {item.shape for item in scene.objects}
    wanted = rng.random() < 0.5
    item = rng.choice(scene.objects)
    if rng.random() < 0.3:
        name = item.shape if wanted else rng.choice([shape for shape in SHAPES if shape not in shapes])
    elif wanted:
        name = label(item)
    else:
        near = rng.random() < 0.6
        while True:
            colour, shape = rng.choice(COLOURS), rng.choice(SHAPES)
            if near:
                colour, shape = (item.colour, shape) if rng.random() < 0.5 else (colour, item.shape)
            name = f"{colour} {shape}"
            if name not in labels:
                break
    return Fact(form, {"a": with_article(name)}, _yes_no(wanted))


def _is_anything(scene: Scene, form: str, rng: random.Random) -> Fact:
    present = sorted({item.colour for item in scene.objects})
    wanted = rng.random() < 0.5
    name = rng.choice(present if wanted else [colour for colour in COLOURS if colour not in present])
    return Fact(form, {"c": name}, _yes_no(wanted))


def _text(scene: Scene, form: str, rng: random.Random) -> Fact:
    return Fact(form, {}, _yes_no(scene.word is not None))


def _background(scene: Scene, form: str, rng: random.Random) -> Fact:
    return Fact(form, {}, scene.background.name)


def _caption(scene: Scene, form: str, rng: random.Random) -> Fact:
    if form == "caption":
        return Fact(form, {}, caption(scene, "brief"))
    return Fact(form, {}, caption(replace(scene, word=None), "detailed"))


def _json(scene: Scene, form: str, rng: random.Random) -> Fact:
    if form == "json of the count":
        return Fact(form, {}, json.dumps({"count": len(scene.objects)}))
    found = [{"colour": item.colour, "shape": item.shape} for item in scene.objects]
    return Fact(form, {}, json.dumps(found[0] if form == "json of the object" else found))


_Drawer = Callable[[Scene, str, random.Random], Fact | None]
_DRAWERS: dict[str, _Drawer] = {
    "colour of the object": _subject,
    "shape of the object": _subject,
    "the object": _subject,
    "colour of a shape": _colour_of_shape,
    "shape of a colour": _shape_of_colour,
    "how many": _how_many,
    "how many of a shape": _how_many,
    "how many of a colour": _how_many,
    "left or right": _relation,
    "above or below": _relation,
    "place": _place,
    "is there": _is_there,
    "is anything": _is_anything,
    "one of two colours": _two_colours,
    "one of two shapes": _two_shapes,
    "text": _text,
    "background": _background,
    "caption": _caption,
    "detailed caption": _caption,
    "json of the object": _json,
    "json of the objects": _json,
    "json of the count": _json,
}
