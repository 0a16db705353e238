"""Pictures of known scenes, a new one for each request at the price of joining a few strings.

A scene is drawn once and encoded a few times, each time with noise of its own, as JPEG with a restart marker after each
row of blocks (ITU-T T.81, B.2.1 and E.1.4). What stands between two markers is decoded by itself, so a picture may take
each row from another encoding: four encodings of 28 rows are 4^28 pictures of the same scene. All differ in their bytes
and in their pixels, so no cache (of answers by a file's digest, of an engine by its pixels) has seen any of them.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.servers import cache_dir
from demo.scenes import Difficulty, Scene, Split, render, sample_scene

SIZE = 224
SPLIT: Split = "test"
_VARIANTS = 4
_QUALITY = 90
# Grey levels of 255: what a camera adds; enough to change every row, too little to change what is seen.
_NOISE = 2.5
_FOLDER = "scene-pictures-1"
_RESTART = re.compile(rb"(?<=\xff[\xd0-\xd7])")
_START_OF_SCAN = b"\xff\xda"
_COMMENT = b"\xff\xfe"


@dataclass(frozen=True, slots=True)
class Picture:
    """A scene and all the JPEG files of it.

    Attributes:
        head: of the file, up to the scan's data.
        rows: of the picture, each in `_VARIANTS` encodings; the last one ends the file.
    """

    scene: Scene
    head: bytes
    rows: tuple[tuple[bytes, ...], ...]

    @property
    def colour(self) -> str:
        """Colour of the largest object."""
        return self.scene.subject.colour

    @property
    def shape(self) -> str:
        """Shape of the largest object."""
        return self.scene.subject.shape

    def shot(self, number: int, salt: bytes) -> bytes:
        """One of the files; another one for each number and salt (by 56 bits of their digest)."""
        choice = int.from_bytes(hashlib.blake2b(number.to_bytes(8), digest_size=8, key=salt).digest())
        parts = [self.head]
        for row in self.rows:
            choice, variant = divmod(choice, _VARIANTS)
            parts.append(row[variant])
        return b"".join(parts)


class Pictures:
    """A new picture for each request. Which scene it shows follows from the request's number; which file it is does
    not: no process shows a file twice, and no other process shows it.

    Args:
        scenes: their numbers in the split `test`.
    """

    def __init__(self, difficulty: Difficulty, scenes: Sequence[int]) -> None:
        self._pictures = [picture(number, difficulty) for number in scenes]
        self._salt = os.urandom(16)
        self._taken = count()

    def __len__(self) -> int:
        return len(self._pictures)

    def __iter__(self) -> Iterator[Picture]:
        return iter(self._pictures)

    def take(self, number: int) -> tuple[Picture, bytes]:
        """The scene of a request and its picture as a JPEG file."""
        chosen = self._pictures[int.from_bytes(hashlib.blake2b(number.to_bytes(8), digest_size=4).digest()) % len(self)]
        return chosen, chosen.shot(next(self._taken), self._salt)


def picture(number: int, difficulty: Difficulty) -> Picture:
    """One scene; its encodings are kept in the benchmarks' cache folder, since drawing takes its time."""
    scene = sample_scene(number, split=SPLIT, difficulty=difficulty)
    files = [_file(scene, variant) for variant in range(_VARIANTS)]
    heads, rows = zip(*map(split_rows, files), strict=True)
    assert len(set(heads)) == 1, "the tables do not depend on the picture"
    return Picture(scene, _with_note(heads[0], scene.subject.colour), tuple(zip(*rows, strict=True)))


def note_in(jpeg: bytes) -> str:
    """The comment of a picture's file: its largest object's colour, for stand-ins that see no pixels; empty without."""
    start = jpeg.find(_COMMENT)
    return "" if start < 0 else jpeg[start + 4 : start + 2 + int.from_bytes(jpeg[start + 2 : start + 4])].decode()


def _with_note(head: bytes, note: str) -> bytes:
    """A head with a comment segment (T.81, B.2.4.5) after the start of the image."""
    return head[:2] + _COMMENT + (2 + len(note)).to_bytes(2) + note.encode() + head[2:]


def split_rows(jpeg: bytes) -> tuple[bytes, list[bytes]]:
    """A baseline JPEG's head, and its scan's data after each restart marker."""
    start = jpeg.index(_START_OF_SCAN)
    start += 2 + int.from_bytes(jpeg[start + 2 : start + 4])
    return jpeg[:start], _RESTART.split(jpeg[start:])


def _file(scene: Scene, variant: int) -> bytes:
    path = _folder() / f"{scene.split}-{scene.difficulty}-{scene.index}-{variant}.jpg"
    if not path.is_file():
        for other, data in enumerate(_encodings(scene)):
            _write(path.with_name(f"{scene.split}-{scene.difficulty}-{scene.index}-{other}.jpg"), data)
    return path.read_bytes()


def _encodings(scene: Scene) -> list[bytes]:
    pixels = render(scene, SIZE)
    files = []
    for variant in range(_VARIANTS):
        noise = np.random.default_rng((scene.index, variant)).normal(0, _NOISE, pixels.shape)
        buffer = io.BytesIO()
        # 4:2:2, as many cameras write: rows of 8 pixels. Without `optimize` all files have the same Huffman tables.
        Image.fromarray(np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)).save(
            buffer, "JPEG", quality=_QUALITY, subsampling="4:2:2", restart_marker_rows=1
        )
        files.append(buffer.getvalue())
    return files


def _folder() -> Path:
    folder = cache_dir() / _FOLDER
    folder.mkdir(exist_ok=True)
    return folder


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: several load generators may begin at once."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_bytes(data)
    part.replace(path)
