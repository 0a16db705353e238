"""What is asked of Florence-2 and what it answers; see `deployments.messages.TaskRequest`.

All places are pixels of the picture as displayed (EXIF orientation applied), x to the right and y down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from deployments.messages import EncodedImage, RawImage, TaskRequest

# As published: beam search over three beams.
BEAMS = 3
MAX_NEW_TOKENS = 1024
# Longer side of a drawing, in pixels: large enough to read, small enough to send.
LEAST_SIDE, MOST_SIDE = 640, 2048

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True, slots=True)
class VisionTask:
    """One question about every image of a request.

    Attributes:
        name: a key of `deployments.florence2.tasks.TASKS`.
        text, region: what the task needs beside the image, and no more.
    """

    name: str
    text: str | None = None
    region: Box | None = None


@dataclass(frozen=True, slots=True)
class LabelledBox:
    """A box; the label is empty where the task gives none."""

    box: Box
    label: str


@dataclass(frozen=True, slots=True)
class Quad:
    """A line of text and its corners: top left, top right, bottom right, bottom left as the text is read."""

    points: tuple[Point, Point, Point, Point]
    text: str


@dataclass(frozen=True, slots=True)
class Polygons:
    """The outline of one object: rings of at least three points each, several where something hides its middle."""

    rings: tuple[tuple[Point, ...], ...]
    label: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one task about one image; which field is filled, the task's `answers` says.

    Attributes:
        annotated: with `VisionRequest.render`, a PNG of the image with the answer drawn on it.
        finish_reason: `length` when the token limit cut it.
        tokens: written, those that open and end an answer included.
    """

    text: str = ""
    boxes: tuple[LabelledBox, ...] = ()
    quads: tuple[Quad, ...] = ()
    polygons: tuple[Polygons, ...] = ()
    annotated: bytes | None = None
    finish_reason: Literal["stop", "length"] = "stop"
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class SeenImage:
    """One image with the answers to all tasks, in their order; an entry is the error that this task alone met here.

    Attributes:
        width, height: of the image as displayed, in pixels.
    """

    width: int
    height: int
    answers: tuple[Answer | Exception, ...]


@dataclass(frozen=True, slots=True)
class VisionResult:
    """An entry of `images` is the error that this image alone met.

    Attributes:
        queue_wait_s: see `deployments.messages.ClassifyResult`.
    """

    images: tuple[SeenImage | Exception, ...]
    queue_wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class VisionRequest(TaskRequest[VisionResult]):
    """Every task about every image.

    Attributes:
        images: at least one; each is decoded and encoded once for all tasks.
        tasks: at least one.
        beams: of the beam search; 1 is greedy and faster.
        max_new_tokens: most tokens of an answer; the checkpoint's own bound holds as well.
        render: draw each answer onto its image.
    """

    method: ClassVar[str] = "vision"

    images: tuple[EncodedImage | RawImage, ...]
    tasks: tuple[VisionTask, ...]
    beams: int = BEAMS
    max_new_tokens: int = MAX_NEW_TOKENS
    render: bool = False
