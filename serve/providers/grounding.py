"""Boxes in images and times in videos as Gemini gives them, turned into pixels and seconds.

Gemini is trained to give boxes as [ymin, xmin, ymax, xmax], normalised to 0 to 1000
(https://ai.google.dev/gemini-api/docs/image-understanding#object-detection), and times as MM:SS
(https://ai.google.dev/gemini-api/docs/video-understanding#refer-timestamps).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from serve.errors import InvalidOutput

_SCALE = 1000
_MOST = 1000
_TIME = re.compile(r"(?:(\d{1,2}):)?(\d{1,3}):(\d{1,2})(?:\.(\d{1,3}))?")

BOX_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "box_2d": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
            "label": {"type": "string"},
        },
        "required": ["box_2d", "label"],
    },
}
MOMENT_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"time": {"type": "string"}, "description": {"type": "string"}},
        "required": ["time", "description"],
    },
}


@dataclass(frozen=True, slots=True)
class Box:
    """A box in an image: its corners in pixels, the origin at the top left."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happens in a video, in seconds from its start."""

    seconds: float
    description: str


def detection_prompt(what: str) -> str:
    """What Gemini is asked for boxes."""
    return (
        f"Detect {what}. Answer with a JSON array with one entry for each: `box_2d` is [ymin, xmin, ymax, xmax], "
        f"normalised to 0-{_SCALE}, `label` names it. Answer with an empty array when there is none."
    )


def moments_prompt(what: str) -> str:
    """What Gemini is asked for times."""
    return (
        f"When does this happen in the video: {what}? Answer with a JSON array with one entry for each time: `time` is "
        "MM:SS from the start of the video, `description` says what happens. Answer with an empty array if it does not."
    )


def boxes(text: str, size: tuple[int, int]) -> tuple[Box, ...]:
    """The boxes of an answer, in pixels.

    Args:
        text: the answer, JSON that fits `BOX_SCHEMA`.
        size: (width, height) of the image, in pixels.

    Raises:
        InvalidOutput: `invalid_box`.
    """
    return tuple(to_pixels(item.get("box_2d"), str(item.get("label", "")), size) for item in _items(text))


def to_pixels(box: Any, label: str, size: tuple[int, int]) -> Box:
    """One box. Corners beyond the image are put on its edge, corners in the wrong order are exchanged.

    Raises:
        InvalidOutput: `invalid_box`: not four numbers, or an empty box.
    """
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise InvalidOutput("A box is not four numbers.", code="invalid_box")
    y0, x0, y1, x1 = (min(1.0, max(0.0, value / _SCALE)) for value in box)
    width, height = size
    left, right = sorted((x0 * width, x1 * width))
    top, bottom = sorted((y0 * height, y1 * height))
    if left == right or top == bottom:
        raise InvalidOutput("A box has no area.", code="invalid_box")
    return Box(label, left, top, right, bottom)


def moments(text: str) -> tuple[Moment, ...]:
    """The times of an answer, JSON that fits `MOMENT_SCHEMA`, in seconds.

    Raises:
        InvalidOutput: `invalid_time`.
    """
    return tuple(Moment(seconds_of(str(item.get("time"))), str(item.get("description", ""))) for item in _items(text))


def seconds_of(time: str) -> float:
    """Seconds of `MM:SS` or `HH:MM:SS`, with decimals or without.

    Raises:
        InvalidOutput: `invalid_time`.
    """
    found = _TIME.fullmatch(time.strip())
    if found is None:
        raise InvalidOutput("A time is not MM:SS.", code="invalid_time")
    hours, minutes, seconds, decimals = found.groups()
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{decimals or 0}")


def _items(text: str) -> list[dict[str, Any]]:
    try:
        items = orjson.loads(text)
    except orjson.JSONDecodeError:
        items = None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InvalidOutput("The model answered with something that is no list.", code="not_json")
    return items[:_MOST]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
