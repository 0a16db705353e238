"""How the pictures of a video are shown: pixels made square, turned and mirrored as the file says."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame

Picture = npt.NDArray[np.uint8]
# Films have pixels up to twice as wide as high; what is far from that is damage.
_MAX_ASPECT = Fraction(4)


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a decoded picture lies: a point (x, y) of it is shown at (a x + c y, b x + d y), with y downward.

    This is the upper left of the display matrix (ISO 14496-12 section 6.2.2), rounded to quarter turns: each is -1, 0
    or 1.
    """

    a: int = 1
    b: int = 0
    c: int = 0
    d: int = 1

    @classmethod
    def of(cls, frame: VideoFrame) -> Orientation:
        """A frame's; one that says nothing lies as it is shown."""
        known: Any = frame.side_data  # declared as if its keys were texts
        matrix = known.get(Type.DISPLAYMATRIX)
        if matrix is None:
            return cls()
        a, b, _, c, d, *_ = struct.unpack_from("=9i", bytes(matrix))
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(-1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1)
        return cls(0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0)

    @property
    def rotation(self) -> int:
        """Degrees that it is turned by, counter-clockwise: 0, 90, 180 or 270; before it is mirrored, if it is."""
        mirrored = self.a * self.d - self.b * self.c < 0
        return round(math.degrees(math.atan2(-self.b, -self.a if mirrored else self.a))) % 360

    def upright(self, pixels: Picture) -> Picture:
        """A (height, width, 3) picture as it is shown."""
        shown = pixels if self.a else pixels.transpose(1, 0, 2)
        shown = shown[:, ::-1] if self.a + self.c < 0 else shown
        shown = shown[::-1] if self.b + self.d < 0 else shown
        return np.ascontiguousarray(shown)


def shown_size(width: int, height: int, aspect: Fraction, side: int) -> tuple[int, int]:
    """Width and height of a picture whose pixels are made square, its longer side `side` at most.

    Wide pixels make it wider and high ones higher, as players do, so that no detail is lost to that.

    Args:
        aspect: width of a pixel, by its height.
    """
    known = aspect if 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT else Fraction(1)
    wide, high = width * max(Fraction(1), known), height * max(Fraction(1), 1 / known)
    scale = min(Fraction(1), side / max(wide, high))
    return max(1, round(wide * scale)), max(1, round(high * scale))
