"""Prompts for the demo CLIP: templates to train on, templates kept back for evaluation, and random rewordings.

A template has the slot {a} for a noun phrase with its article ("a red star") or {n} for the bare one ("red star").
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from itertools import product
from typing import TypeVar

from demo.scenes import COLOURS, SHAPES

_Class = TypeVar("_Class")

PAIRS: tuple[tuple[str, str], ...] = tuple(product(COLOURS, SHAPES))

TRAIN_TEMPLATES: tuple[str, ...] = (
    "{n}", "the {n}", "one {n}", "a single {n}", "this is {a}", "it is {a}", "that is {a}", "here is {a}",
    "there is {a} here", "i see {a}", "you can see {a}", "an image showing {a}", "an image with {a}",
    "the image contains {a}", "image: {n}", "the image of one {n}", "a picture of {a}", "a picture with {a} in it",
    "picture of the {n}", "the picture shows {a}", "in this picture we see {a}", "a small picture of one {n}",
    "a drawing of {a}", "a simple drawing of {a}", "a drawing that shows {a}", "a painting of {a}",
    "a computer graphic of {a}", "a rendering of {a}", "a 3d render of the {n}", "an illustration of {a}",
    "a sketch of {a}", "a poster with {a}", "a sign with {a} on it", "an icon of {a}", "a logo with {a}",
    "a blurry photo of {a}", "a bright photo of {a}", "a dark photo of the {n}", "a close-up photo of {a}",
    "a good photo of the {n}", "a bad photo of {a}", "a cropped photo of the {n}", "a low resolution photo of {a}",
    "the photo shows {a}", "a photo of one {n}", "a photo of the large {n}", "a photo of my {n}",
    "a photograph of {a}", "a snapshot of {a}", "a shot of {a}",
    "a scene with {a}", "the scene contains {a}", "a scene showing one {n} and nothing else", "a frame with {a}",
    "{a} in a picture", "{a} in the middle of the picture", "{a} at the left", "{a} at the top right",
    "{a} in front of a wall", "{a} on a grey background", "{a} on a beige background", "{a} in the foreground",
    "{a} can be seen", "{a} is visible", "{a} appears here", "{a} is shown", "{a} seen from above",
    "{a} with some noise", "{a}, nothing more", "just {a}", "only {a}", "simply {a}", "a large {n}", "a small {n}",
    "a big {n}", "a tiny {n}", "a nice {n}", "a flat {n}", "some {n}", "an object: {n}", "the object is {a}",
    "the main object is {a}", "the answer is {a}", "what we have is {a}", "a caption that says {n}", "find the {n}",
    "show me {a}", "a close view of {a}", "a view of the {n}", "an example of {a}", "art of the {n}",
)  # fmt: skip

HELD_OUT_TEMPLATES: tuple[str, ...] = (
    "a photo of {a}", "a photo of {a}.", "an image of {a}", "there is {a} in the picture", "a picture of one {n}.",
    "this photograph contains {a}", "look, {a}!", "can you spot {a} somewhere?", "my favourite drawing of {a}",
    "{a} on a plain background", "we saw {a} yesterday", "a rough sketch with {a}", "itap of the {n}.",
)  # fmt: skip

TRAIN_COLOUR_PHRASES: tuple[str, ...] = (
    "{c} object", "{c} shape", "{c} thing", "{c} item", "{c} figure", "{c} one", "{c} colour", "{c} form",
    "object in {c}", "object that is {c}", "{c}-coloured object", "{c} colored thing",
)  # fmt: skip
TRAIN_COLOUR_TEMPLATES: tuple[str, ...] = (
    "{c}", "something {c}", "the colour {c}", "the color is {c}", "it is {c}", "everything {c}", "a picture in {c}",
    "the object is {c}", "an image showing something {c}", "there is something {c}", "colour: {c}", "a {c} picture",
    "a photo in {c}", "painted in {c}", "a drawing of something {c}", "something that is {c}",
)  # fmt: skip
HELD_OUT_COLOUR_TEMPLATES: tuple[str, ...] = (
    "a picture of something {c}", "a photo of something {c}", "an image where the object is {c}",
    "the thing in this picture is {c}", "a photo of a {c} object.", "a {c} object somewhere in the picture",
    "we see a {c} shape here", "a photo of a {c} thing",
)  # fmt: skip

TRAIN_SHAPE_PHRASES: tuple[str, ...] = (
    "{s}", "{s}", "{s}", "{s}", "{s} shape", "{s}-shaped object", "shape of a {s}", "object shaped like a {s}",
    "{s} of some colour", "coloured {s}", "figure of a {s}",
)  # fmt: skip

TRAIN_PAIR_PHRASES: tuple[str, ...] = (
    "{c} {s}", "{c} {s}", "{c} {s}", "{c} {s}", "{s} that is {c}", "{s} in {c}", "{c}-coloured {s}", "{c} colored {s}",
    "{s} painted {c}", "{s} of {c} colour", "{c} object shaped like a {s}", "{c} {s} shape",
)  # fmt: skip

_SYNONYMS: dict[str, tuple[str, ...]] = {
    "circle": ("disc", "disk", "dot", "round spot"),
    "square": ("box", "rectangle", "block"),
    "triangle": ("three-cornered shape", "pyramid"),
    "star": ("five-pointed star", "starfish"),
    "cross": ("plus sign", "plus"),
    "heart": ("love heart", "valentine"),
    "ring": ("donut", "hoop", "doughnut"),
    "crescent": ("moon", "crescent moon", "half moon"),
    "red": ("crimson", "scarlet", "bright red"),
    "orange": ("tangerine", "bright orange"),
    "yellow": ("golden", "lemon yellow"),
    "green": ("emerald", "dark green"),
    "cyan": ("turquoise", "aqua", "light blue-green"),
    "blue": ("navy blue", "deep blue", "royal blue"),
    "purple": ("violet", "dark purple"),
    "pink": ("rose pink", "light pink"),
    "white": ("snow white", "pure white"),
    "black": ("jet black", "pitch black"),
}

#: Words that say nothing about colour or shape; random ones are woven into training prompts.
FILLERS: tuple[str, ...] = (
    "a", "an", "the", "this", "that", "these", "those", "some", "any", "one", "of", "in", "on", "at", "by", "for",
    "from", "with", "without", "near", "under", "over", "into", "about", "and", "or", "but", "so", "very", "quite",
    "rather", "really", "just", "only", "also", "too", "still", "now", "then", "here", "there", "where", "when",
    "how", "what", "which", "who", "we", "you", "they", "it", "he", "she", "my", "your", "our", "their", "its", "is",
    "are", "was", "be", "been", "being", "has", "have", "had", "do", "does", "did", "can", "could", "may", "might",
    "must", "shall", "should", "will", "would", "not", "no", "yes", "please", "thanks", "photo", "photograph",
    "picture", "image", "snapshot", "shot", "drawing", "painting", "sketch", "illustration", "render", "rendering",
    "graphic", "poster", "print", "scene", "frame", "view", "close", "up", "blurry", "sharp", "clear", "bright",
    "dark", "dim", "noisy", "clean", "plain", "simple", "rough", "nice", "good", "bad", "great", "beautiful", "ugly",
    "old", "new", "young", "big", "large", "small", "tiny", "huge", "little", "medium", "wide", "tall", "short",
    "long", "high", "low", "left", "right", "top", "bottom", "middle", "centre", "center", "corner", "side", "edge",
    "front", "back", "background", "foreground", "wall", "floor", "table", "paper", "canvas", "screen", "page",
    "card", "sign", "object", "thing", "item", "shape", "figure", "form", "symbol", "element", "detail", "part",
    "area", "color", "colour", "coloured", "colored", "painted", "shown", "seen", "visible", "displayed", "found",
    "placed", "drawn", "made", "taken", "printed", "captured", "looks", "like", "appears", "contains", "shows",
    "depicts", "presents", "displays", "featuring", "showing", "containing", "depicting", "look", "see", "find",
    "show", "tell", "spot", "notice", "imagine", "today", "yesterday", "tomorrow", "morning", "evening", "night",
    "day", "year", "time", "world", "house", "home", "street", "city", "garden", "water", "light", "shadow", "camera",
    "phone", "computer", "digital", "art", "artist", "child", "teacher", "friend", "favourite", "favorite", "best",
    "first", "second", "last", "next", "every", "each", "all", "many", "few", "several", "most", "more", "less",
    "somewhere", "anywhere", "everything", "nothing", "something", "someone", "people", "person", "man", "woman",
    "dog", "cat", "bird", "car", "tree", "flower", "food", "apple", "bread", "cup", "chair", "door", "window", "book",
    "minimal", "abstract", "geometric", "solid", "filled", "flat", "two", "three", "four", "five", "synthetic",
    "real", "toy", "model", "sample", "example", "test",
)  # fmt: skip

_SLOT = re.compile(r"\{[acns]\}")
_WRONG_ARTICLE = re.compile(r"\ba (?=[aeiou])")
_KEPT_BACK = frozenset(
    template.strip(" .?!") for template in (*HELD_OUT_TEMPLATES, *HELD_OUT_COLOUR_TEMPLATES, "a photo of {c}")
)


def with_article(noun: str) -> str:
    """The noun phrase with "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def fill(template: str, noun: str) -> str:
    """A template with its slot filled by a noun phrase."""
    return template.replace("{a}", with_article(noun)).replace("{n}", noun)


def pair_prompts(template: str) -> list[str]:
    """One prompt for each of the 80 pairs, in the order of `PAIRS`."""
    return [fill(template, f"{colour} {shape}") for colour, shape in PAIRS]


def shape_prompts(template: str) -> list[str]:
    """One prompt for each shape, in the order of `SHAPES`."""
    return [fill(template, shape) for shape in SHAPES]


def colour_prompts(template: str) -> list[str]:
    """One prompt for each colour, in the order of `COLOURS`, for a template with the slot {c}."""
    return [template.replace("{c}", colour) for colour in COLOURS]


def random_colour_prompts(rng: random.Random) -> list[str]:
    """A training prompt for each colour, sharing one template or with a template each."""

    def draw() -> str:
        if rng.random() < 0.5:
            return reworded(rng.choice(TRAIN_COLOUR_TEMPLATES), rng)
        return _nested(rng, TRAIN_COLOUR_PHRASES)

    chosen = _templates(COLOURS, draw, rng)
    return [_spoken(template.replace("{c}", _named(colour, rng)), rng) for colour, template in chosen]


def random_shape_prompts(rng: random.Random) -> list[str]:
    """A training prompt for each shape, sharing one template or with a template each."""
    chosen = _templates(SHAPES, lambda: _nested(rng, TRAIN_SHAPE_PHRASES), rng)
    return [_spoken(template.replace("{s}", _named(shape, rng)), rng) for shape, template in chosen]


def random_pair_prompts(rng: random.Random) -> list[str]:
    """A training prompt for each pair, sharing one template or with a template each."""
    chosen = _templates(PAIRS, lambda: _nested(rng, TRAIN_PAIR_PHRASES), rng)
    return [
        _spoken(template.replace("{c}", _named(colour, rng)).replace("{s}", _named(shape, rng)), rng)
        for (colour, shape), template in chosen
    ]


def random_caption(caption: str, rng: random.Random) -> str:
    """A brief caption inside a random training template."""
    return reworded(rng.choice(TRAIN_TEMPLATES), rng).replace("{a}", caption).replace("{n}", caption)


def reworded(template: str, rng: random.Random) -> str:
    """The template, half of the time with filler words dropped, added or misspelt; never one that is kept back."""
    while True:
        words = template.split()
        while rng.random() < 0.35:
            place = rng.randrange(len(words) + 1)
            action = rng.random()
            if action < 0.35 and place < len(words) and not _SLOT.search(words[place]) and len(words) > 1:
                del words[place]
            elif action < 0.9:
                words.insert(place, rng.choice(FILLERS))
            else:
                words.insert(place, "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=rng.randint(1, 6))))
        text = " ".join(words)
        if rng.random() < 0.3:
            text += rng.choice((".", "!", "?", "..", ","))
        if text.strip(" .?!,").replace(" a {n}", " {a}") not in _KEPT_BACK:
            return text


def _templates(classes: Sequence[_Class], draw: Callable[[], str], rng: random.Random) -> list[tuple[_Class, str]]:
    if rng.random() < 0.5:
        shared = draw()
        return [(item, shared) for item in classes]
    return [(item, draw()) for item in classes]


def _nested(rng: random.Random, phrases: Sequence[str]) -> str:
    """A reworded template around a phrase; what remains open are the phrase's own slots."""
    return fill(reworded(rng.choice(TRAIN_TEMPLATES), rng), rng.choice(phrases))


def _spoken(prompt: str, rng: random.Random) -> str:
    """The prompt with "an" before vowels, half of the time: templates of others may not care."""
    return _WRONG_ARTICLE.sub("an ", prompt) if rng.random() < 0.5 else prompt


def _named(word: str, rng: random.Random) -> str:
    return rng.choice(_SYNONYMS[word]) if rng.random() < 0.06 else word
