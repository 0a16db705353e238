"""How pictures of a video are shown: turned, mirrored, with square pixels."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest

from deployments.video.decode import open_video
from deployments.video.geometry import shown_size
from tests.unit.video_files import encode

# (a, b, c, d) of the display matrix, where the upper left of what is decoded is shown, and the rotation told.
SHOWN = {
    "as it is": ((1, 0, 0, 1), "upper left", 0),
    "mirrored": ((-1, 0, 0, 1), "upper right", 0),
    "upside down and mirrored": ((1, 0, 0, -1), "lower left", 180),
    "half a turn": ((-1, 0, 0, -1), "lower right", 180),
    "a quarter clockwise": ((0, 1, -1, 0), "upper right", 270),
    "a quarter counter-clockwise": ((0, -1, 1, 0), "lower left", 90),
    "transposed": ((0, 1, 1, 0), "upper left", 270),
    "transposed, half a turn": ((0, -1, -1, 0), "lower right", 90),
}


@pytest.mark.parametrize("shown", sorted(SHOWN))
def test_pictures_are_turned_and_mirrored_as_the_file_says(shown: str) -> None:
    matrix, corner, rotation = SHOWN[shown]
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:16, :16] = 255
    with open_video(_with_matrix(encode([pixels]), matrix)) as video:
        ((_, picture),) = video.frames([0], 64)
        assert video.rotation() == rotation
    assert picture.shape == ((48, 64, 3) if matrix[0] else (64, 48, 3))
    assert _brightest_corner(picture) == corner


def _with_matrix(mp4: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """With another matrix in the track's header (ISO 14496-12 section 8.3.2)."""
    a, b, c, d = (value << 16 for value in matrix)
    at = mp4.index(b"tkhd") + 4 + 4 + 20 + 16
    return mp4[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + mp4[at + 36 :]


def _brightest_corner(picture: np.ndarray) -> str:  # type: ignore[type-arg]
    corners = {"upper left": (0, 0), "upper right": (0, -1), "lower left": (-1, 0), "lower right": (-1, -1)}
    return max(corners, key=lambda name: float(picture[corners[name]].sum()))


@pytest.mark.parametrize(
    ("size", "aspect", "side", "expected"),
    [
        ((1440, 1080), Fraction(4, 3), 4000, (1920, 1080)),
        ((720, 576), Fraction(16, 15), 384, (384, 288)),
        ((64, 48), Fraction(1, 2), 4000, (64, 96)),
        ((64, 48), Fraction(1000), 4000, (64, 48)),  # damage
        ((64, 1), Fraction(1), 16, (16, 1)),
    ],
)
def test_the_size_that_is_shown(size: tuple[int, int], aspect: Fraction, side: int, expected: tuple[int, int]) -> None:
    assert shown_size(*size, aspect, side) == expected
