"""What goes through the model: a picture with its questions, their prompts, and the tokens that answer them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from deployments.florence2.messages import Box
from deployments.florence2.tasks import Task

if TYPE_CHECKING:
    import torch


class Watch:
    """Whether someone still waits for an answer.

    Attributes:
        deadline: on `time.monotonic()`.
        given_up: set by whoever asked, once it no longer listens.
    """

    __slots__ = ("deadline", "given_up")

    def __init__(self, deadline: float) -> None:
        self.deadline, self.given_up = deadline, False

    @property
    def over(self) -> bool:
        """Whether the answer would come to nobody."""
        return self.given_up or time.monotonic() >= self.deadline


@dataclass(slots=True, eq=False)
class Picture:
    """An image, decoded once for all its tasks.

    Attributes:
        shaped: the model's input: (side, side, 3) uint8, or (3, side, side) float32 where only the checkpoint's own
            processor knows how.
        size: width and height as displayed, in pixels.
        image: as displayed, RGB, where it is drawn on later; no larger than the drawing (`MOST_SIDE`), since many
            photos in a queue would fill the memory.
        features: (image tokens, hidden) on the model's device, once it has been encoded.
    """

    shaped: npt.NDArray[Any]
    size: tuple[int, int]
    image: Image.Image | None = None
    features: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One task about one picture; see `deployments.florence2.messages.VisionRequest`."""

    picture: Picture
    task: Task
    text: str | None
    region: Box | None
    beams: int
    max_new_tokens: int
    watch: Watch


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question with its prompt's tokens: (length,) int64, without those that stand for the image."""

    picture: Picture
    task: str
    prompt: npt.NDArray[np.int64]
    beams: int
    max_new_tokens: int
    watch: Watch


@dataclass(frozen=True, slots=True)
class Written:
    """An answer's tokens without the one that starts the decoder and those that pad.

    Attributes:
        cut: the token limit ended it.
    """

    ids: tuple[int, ...]
    cut: bool
