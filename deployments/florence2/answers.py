"""What Florence-2 wrote, as texts and places.

The published processor takes an answer apart; three things it does are set right around it:

* It keeps only ASCII of a label, and its patterns stop at line ends. So text goes through it as JSON escapes, which
  are ASCII on one line, and is unescaped in the labels. A "<" that the model wrote as text is escaped too, so that no
  text is taken for a place.
* It rounds places down to whole pixels, by which small pictures lose much. So it is told that the picture has one pixel
  for each of the model's thousand bins, and the bins' centres are scaled here.
* Left-over places before a line of text become part of the line. They are taken out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Literal

from deployments.florence2.items import Written
from deployments.florence2.messages import Answer, LabelledBox, Point, Polygons, Quad
from deployments.florence2.tasks import Task

_BINS = 1000
_TOKEN = re.compile(r"<[^>]*>")


class AnswerReader:
    """Reads answers of one checkpoint.

    Args:
        processor: its `Florence2Processor`.
    """

    def __init__(self, processor: Any) -> None:
        self._processor, self._tokenizer = processor, processor.tokenizer
        self._added = frozenset(self._tokenizer.get_added_vocab().values()) | set(self._tokenizer.all_special_ids)

    def read(self, task: Task, text: str | None, written: Written, size: tuple[int, int]) -> Answer:
        """The answer, its places in pixels of the picture.

        What is degenerate (no width or height, fewer than three corners, no area) is left out; the order is the
        model's.

        Args:
            text: what the request gave; it labels what a referring expression found, which the model does not repeat.
            size: width and height of the picture.
        """
        ending: Literal["stop", "length"] = "length" if written.cut else "stop"
        found = self._parsed(task, written)
        boxes: tuple[LabelledBox, ...] = ()
        quads: tuple[Quad, ...] = ()
        polygons: tuple[Polygons, ...] = ()
        if task.answers == "text":
            return Answer(text=found, finish_reason=ending, tokens=len(written.ids))
        if task.answers == "boxes":
            boxes = _boxes(found["bboxes"], _labels(found["labels"]), size)
        elif task.answers == "quads":
            quads = _quads(found["quad_boxes"], _labels(found["labels"]), size)
        elif task.answers == "polygons":
            polygons = _polygons(found["polygons"], [text or ""] * len(found["polygons"]), size)
        else:
            boxes = _boxes(found["bboxes"], _labels(found["bboxes_labels"]), size)
            polygons = _polygons(found["polygons"], _labels(found["polygons_labels"]), size)
        return Answer("", boxes, quads, polygons, finish_reason=ending, tokens=len(written.ids))

    def _parsed(self, task: Task, written: Written) -> Any:
        if task.answers == "text":
            said = self._tokenizer.decode(written.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            return said.strip()
        escaped = self._escaped(written.ids)
        parsed = self._processor.post_process_generation(escaped, task=task.token, image_size=(_BINS, _BINS))
        return parsed[task.token]

    def _escaped(self, ids: Sequence[int]) -> str:
        """The text with added tokens as they are and all else escaped."""
        parts: list[str] = []
        for is_added, run in groupby(ids, self._added.__contains__):
            if is_added:
                parts += self._tokenizer.convert_ids_to_tokens(list(run))
            else:
                text = self._tokenizer.decode(list(run), clean_up_tokenization_spaces=False)
                parts.append(json.dumps(text)[1:-1].replace("<", "\\u003c"))
        return "".join(parts)


def _labels(escaped: Iterable[str]) -> list[str]:
    return [str(json.loads(f'"{_TOKEN.sub("", label)}"')).strip() for label in escaped]


def _boxes(found: Iterable[Sequence[int]], labels: Iterable[str], size: tuple[int, int]) -> tuple[LabelledBox, ...]:
    boxes = []
    for corners, label in zip(found, labels, strict=True):
        (left, top), (right, bottom) = _points(corners, size)
        if left < right and top < bottom:
            boxes.append(LabelledBox((left, top, right, bottom), label))
    return tuple(boxes)


def _quads(found: Iterable[Sequence[int]], labels: Iterable[str], size: tuple[int, int]) -> tuple[Quad, ...]:
    quads = []
    for corners, label in zip(found, labels, strict=True):
        points = _points(corners, size)
        if label and _area(points):
            quads.append(Quad((points[0], points[1], points[2], points[3]), label))
    return tuple(quads)


def _polygons(
    found: Iterable[Sequence[Sequence[int]]], labels: Iterable[str], size: tuple[int, int]
) -> tuple[Polygons, ...]:
    polygons = []
    for outlines, label in zip(found, labels, strict=True):
        rings = tuple(ring for outline in outlines if _area(ring := tuple(_points(outline, size))))
        if rings:
            polygons.append(Polygons(rings, label))
    return tuple(polygons)


def _points(numbers: Sequence[int], size: tuple[int, int]) -> list[Point]:
    """Bins in pairs, x and y, as the pixels of their centres. Text may spell a bin that does not exist."""
    scale = [side / _BINS for side in size]
    pixels = [(min(number, _BINS - 1) + 0.5) * scale[i % 2] for i, number in enumerate(numbers)]
    return list(zip(pixels[::2], pixels[1::2], strict=True))


def _area(points: Sequence[Point]) -> float:
    """Of a ring, in square pixels, by the shoelace formula; 0 for points on a line."""
    following = [*points[1:], *points[:1]]
    twice = sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in zip(points, following, strict=True))
    # Below what two bins can make: rounding, not a shape.
    return abs(twice) / 2 if abs(twice) > 1e-9 else 0.0
