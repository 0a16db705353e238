"""The scene world: what can be in a picture, and the deterministic draw of one scene.

Positions and lengths are fractions of the image side, x to the right and y downwards, so that a scene has no
resolution of its own. Angles are radians, counted clockwise as seen on the screen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val", "test"]
Difficulty = Literal["easy", "medium", "hard"]
Shape = Literal["circle", "square", "triangle", "star", "cross", "heart", "ring", "crescent"]
Colour = Literal["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white", "black"]
MotionKind = Literal[
    "left", "right", "up", "down", "grow", "shrink", "rotate clockwise", "rotate counter-clockwise", "still"
]
RGB = tuple[float, float, float]

SPLITS: tuple[Split, ...] = get_args(Split)
DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)
SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
MOTIONS: tuple[MotionKind, ...] = get_args(MotionKind)
MAX_OBJECTS = 4
MAX_WORD_LENGTH = 6

#: Shapes that look the same after any turn: they never get a rotating motion.
ROUND_SHAPES: frozenset[Shape] = frozenset({"circle", "ring"})

#: Reference colour of every colour word, RGB in 0..255.
PALETTE: dict[Colour, RGB] = {
    "red": (212, 30, 38),
    "orange": (244, 132, 22),
    "yellow": (250, 222, 44),
    "green": (38, 156, 60),
    "cyan": (56, 208, 218),
    "blue": (34, 72, 208),
    "purple": (124, 42, 164),
    "pink": (248, 142, 188),
    "white": (246, 246, 244),
    "black": (16, 16, 18),
}

#: Muted background colours, RGB in 0..255; none is close to a colour of the palette.
BACKGROUNDS: dict[str, RGB] = {
    "grey": (126, 126, 128),
    "light grey": (176, 178, 182),
    "dark grey": (74, 76, 82),
    "beige": (196, 182, 156),
    "brown": (112, 88, 70),
    "slate": (90, 104, 122),
    "olive": (116, 118, 84),
    "mauve": (148, 126, 144),
    "sage": (140, 158, 138),
}

_WORDS: tuple[str, ...] = (
    "ARGUS", "EYE", "OPEN", "EXIT", "STOP", "GO", "HELLO", "WORLD", "TAXI", "BUS", "CAFE", "BAR", "HOTEL", "PARK",
    "SALE", "NEW", "SHOP", "BOOK", "TEA", "MILK", "BREAD", "FISH", "RICE", "SALT", "SUGAR", "APPLE", "LEMON", "GRAPE",
    "PEACH", "MANGO", "TIGER", "LION", "WOLF", "BEAR", "EAGLE", "HORSE", "SNAKE", "MOUSE", "CLOUD", "RAIN", "SNOW",
    "WIND", "STORM", "RIVER", "LAKE", "OCEAN", "BEACH", "HILL", "ROCK", "SAND", "TREE", "LEAF", "ROSE", "FARM",
    "BARN", "HOUSE", "DOOR", "ROOM", "WALL", "ROOF", "TOWER", "BRIDGE", "ROAD", "LANE", "TRAIN", "PLANE", "BOAT",
    "SHIP", "WHEEL", "MOTOR", "RADIO", "PHONE", "CLOCK", "WATCH", "PAPER", "PEN", "INK", "PAINT", "MUSIC", "PIANO",
    "DRUM", "DANCE", "GAME", "CHESS", "KING", "QUEEN", "JACK", "GOLD", "IRON", "STEEL", "COAL", "GLASS", "WOOD",
    "STONE", "NORTH", "SOUTH", "EAST", "WEST", "LEFT", "RIGHT", "UP", "DOWN", "FAST", "SLOW", "HOT", "COLD", "DAY",
    "NIGHT", "SUN", "MOON", "MARS", "VENUS", "ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT",
    "NINE", "TEN",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One coloured shape; `size` is the side of the square that it roughly fills, a fraction of the image side."""

    shape: Shape
    colour: Colour
    rgb: RGB
    x: float
    y: float
    size: float
    rotation: float
    opacity: float


@dataclass(frozen=True, slots=True)
class Background:
    """A linear gradient between two close colours; `angle` is the direction from `start` to `end`."""

    name: str
    start: RGB
    end: RGB
    angle: float


@dataclass(frozen=True, slots=True)
class Word:
    """A printed word centred on (x, y); `height` is the font size as a fraction of the image side."""

    text: str
    x: float
    y: float
    height: float
    rgb: RGB


@dataclass(frozen=True, slots=True)
class Lighting:
    """Global gain, a linear brightness tilt of +-`tilt` along `angle`, and pixel noise in grey levels of 255."""

    gain: float
    tilt: float
    angle: float
    noise: float
    noise_seed: int


@dataclass(frozen=True, slots=True)
class Motion:
    """How the subject moves in a video; `speed` is in sides, doublings or radians per second, by kind."""

    kind: MotionKind
    speed: float


@dataclass(frozen=True, slots=True)
class Scene:
    """A full description of one picture or clip; `objects` are sorted from the largest to the smallest."""

    index: int
    split: Split
    difficulty: Difficulty
    seed: int
    background: Background
    objects: tuple[SceneObject, ...]
    word: Word | None
    lighting: Lighting
    motion: Motion

    @property
    def subject(self) -> SceneObject:
        """The largest object: the one that a one-object question or a motion is about."""
        return self.objects[0]


@dataclass(frozen=True, slots=True)
class _Level:
    """The ranges that a difficulty draws from."""

    counts: tuple[int, ...]
    sizes: tuple[float, float]
    subject_sizes: tuple[float, float]
    contrast: float
    opacity: tuple[float, float]
    spacing: float
    turn: float
    noise: float
    word_chance: float


_LEVELS: dict[Difficulty, _Level] = {
    "easy": _Level((1,), (0.3, 0.62), (0.3, 0.62), 120.0, (1.0, 1.0), 1.0, 0.25, 4.0, 0.0),
    "medium": _Level((1, 2, 3, 4), (0.18, 0.3), (0.24, 0.38), 100.0, (1.0, 1.0), 1.0, 0.35, 6.0, 0.3),
    "hard": _Level((2, 3, 4), (0.1, 0.16), (0.17, 0.24), 45.0, (0.6, 0.95), 0.8, 0.6, 10.0, 0.3),
}


def sample_scene(
    index: int,
    *,
    split: Split = "train",
    difficulty: Difficulty = "easy",
    seed: int = 0,
    word: bool | None = None,
    motion: MotionKind | None = None,
) -> Scene:
    """Draw scene number `index` of a split; equal arguments give equal scenes, on every machine.

    `word` forces a printed word in or out (by default the difficulty decides: easy has none), and `motion` forces
    the subject's motion; a rotating motion also forces a subject whose turning can be seen.
    """
    level = _LEVELS[difficulty]
    key = [seed, SPLITS.index(split), DIFFICULTIES.index(difficulty), index]
    rng = np.random.default_rng(np.random.SeedSequence(key))
    background = _sample_background(rng)
    wants_word = rng.random() < level.word_chance
    printed = _sample_word(rng, background) if (wants_word if word is None else word) else None
    kind = motion if motion is not None else MOTIONS[int(rng.integers(len(MOTIONS)))]
    objects = _sample_objects(rng, level, background, printed, turning=kind.startswith("rotate"))
    lighting = Lighting(
        gain=float(rng.uniform(0.88, 1.1)),
        tilt=float(rng.uniform(0.0, 0.1)),
        angle=float(rng.uniform(0.0, 2.0 * math.pi)),
        noise=float(rng.uniform(0.0, level.noise)),
        noise_seed=int(rng.integers(2**32)),
    )
    return Scene(index, split, difficulty, seed, background, objects, printed, lighting, _sample_motion(rng, kind))


def contrast(one: RGB, other: RGB) -> float:
    """Perceptual distance of two RGB colours by the "redmean" formula: 0 for equal, about 765 for black and white."""
    red_mean = (one[0] + other[0]) / 2.0
    red, green, blue = (a - b for a, b in zip(one, other, strict=True))
    return math.sqrt((2 + red_mean / 256) * red**2 + 4 * green**2 + (2 + (255 - red_mean) / 256) * blue**2)


def _shifted(rgb: RGB, shift: NDArray[np.float64]) -> RGB:
    red, green, blue = np.clip(np.asarray(rgb) + shift, 0.0, 255.0).tolist()
    return red, green, blue


def _sample_background(rng: np.random.Generator) -> Background:
    names = tuple(BACKGROUNDS)
    name = names[int(rng.integers(len(names)))]
    base = _shifted(BACKGROUNDS[name], rng.uniform(-8.0, 8.0, 3))
    drift = rng.uniform(-16.0, 16.0) + rng.uniform(-4.0, 4.0, 3)
    return Background(name, _shifted(base, drift), _shifted(base, -drift), float(rng.uniform(0.0, 2.0 * math.pi)))


def _sample_word(rng: np.random.Generator, background: Background) -> Word:
    if rng.random() < 0.7:
        text = _WORDS[int(rng.integers(len(_WORDS)))]
    else:
        letters = rng.integers(26, size=int(rng.integers(2, MAX_WORD_LENGTH + 1)))
        text = "".join(chr(ord("A") + int(letter)) for letter in letters)
    height = float(rng.uniform(0.12, 0.17))
    half_width = 0.36 * height * len(text)
    x = float(rng.uniform(half_width + 0.02, 0.98 - half_width))
    y = 0.03 + height / 2
    if rng.random() < 0.5:
        y = 1.0 - y
    dark: RGB = (22.0, 22.0, 26.0)
    light: RGB = (242.0, 242.0, 238.0)
    worst = {ink: min(contrast(ink, background.start), contrast(ink, background.end)) for ink in (dark, light)}
    return Word(text, x, y, height, max(worst, key=lambda ink: worst[ink]))


def _sample_colour(rng: np.random.Generator, background: Background, least: float) -> tuple[Colour, RGB]:
    while True:
        colour = COLOURS[int(rng.integers(len(COLOURS)))]
        rgb = _shifted(PALETTE[colour], rng.uniform(-6.0, 6.0) + rng.uniform(-7.0, 7.0, 3))
        if min(contrast(rgb, background.start), contrast(rgb, background.end)) >= least:
            return colour, rgb


def _sample_objects(
    rng: np.random.Generator, level: _Level, background: Background, word: Word | None, *, turning: bool
) -> tuple[SceneObject, ...]:
    top, bottom = 0.02, 0.98
    if word is not None:
        top, bottom = (2 * word.y, bottom) if word.y < 0.5 else (top, 2 * word.y - 1.0)
    count = level.counts[int(rng.integers(len(level.counts)))]
    objects: list[SceneObject] = []
    for number in range(count):
        smallest, largest = level.subject_sizes if number == 0 else level.sizes
        size = float(rng.uniform(smallest, largest))
        if number > 0:
            size = min(size, 0.85 * objects[0].size)
        shapes = [shape for shape in SHAPES if shape not in ROUND_SHAPES] if turning and number == 0 else SHAPES
        shape = shapes[int(rng.integers(len(shapes)))]
        colour, rgb = _sample_colour(rng, background, level.contrast)
        rotation = float(rng.uniform(-level.turn, level.turn))
        opacity = float(rng.uniform(*level.opacity))
        place = _sample_place(rng, level, objects, size, (top, bottom))
        if place is not None:
            objects.append(SceneObject(shape, colour, rgb, *place, size, rotation, opacity))
    return tuple(sorted(objects, key=lambda item: -item.size))


def _sample_place(
    rng: np.random.Generator, level: _Level, objects: list[SceneObject], size: float, rows: tuple[float, float]
) -> tuple[float, float] | None:
    """A centre inside the frame and far enough from the others, or None when the picture is too full for it."""
    margin = 0.56 * size
    for _ in range(40):
        x = float(rng.uniform(0.02 + margin, 0.98 - margin))
        y = float(rng.uniform(rows[0] + margin, rows[1] - margin))
        if all(math.hypot(x - o.x, y - o.y) >= 0.56 * level.spacing * (size + o.size) for o in objects):
            return x, y
    return None


def _sample_motion(rng: np.random.Generator, kind: MotionKind) -> Motion:
    unit = float(rng.uniform(0.8, 1.2))
    if kind == "still":
        return Motion(kind, 0.0)
    if kind in ("grow", "shrink"):
        return Motion(kind, 0.5 * unit)
    if kind.startswith("rotate"):
        return Motion(kind, 0.7 * unit)
    return Motion(kind, 0.25 * unit)
