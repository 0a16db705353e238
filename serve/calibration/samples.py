"""Labelled images for calibration: a folder with labels.csv, a folder with one sub-folder a label, or JSON lines."""

from __future__ import annotations

import base64
import binascii
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serve.errors import ConfigError

LABELS_FILE = "labels.csv"
MOST_SAMPLES = 200_000
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True, slots=True)
class Sample:
    """One image.

    Attributes:
        where: for messages: its path, or the line it stands in.
        label: what is right; None when the data do not say.
        content: the file's bytes, when they stood in the data.
        path: else where to read them.
    """

    where: str
    label: str | None
    content: bytes | None = None
    path: Path | None = None

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            ConfigError: the file cannot be read.
        """
        if self.content is not None:
            return self.content
        assert self.path is not None
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{self.where}: cannot be read: {error.strerror}", param="data") from None


def read_samples(path: Path) -> list[Sample]:
    """The samples of a folder or a file of JSON lines, in a fixed order.

    Raises:
        ConfigError: it is neither, holds no image, or a line of it is wrong; the message names the place.
    """
    if path.is_file():
        found = list(_bounded(_lines(path)))
    elif not path.is_dir():
        raise ConfigError(f"{path} is neither a folder nor a file of JSON lines", param="data")
    elif (path / LABELS_FILE).is_file():
        found = list(_bounded(_listed(path / LABELS_FILE)))
    else:
        found = list(_bounded(_folders(path)))
    if not found:
        raise ConfigError(
            f"{path} holds no image; it must have {LABELS_FILE} (image,label), one sub-folder a label, or images",
            param="data",
        )
    return found


def _bounded(samples: Iterator[Sample]) -> Iterator[Sample]:
    for number, sample in enumerate(samples):
        if number == MOST_SAMPLES:
            raise ConfigError(f"more than {MOST_SAMPLES} samples; give fewer", param="data")
        yield sample


def _lines(path: Path) -> Iterator[Sample]:
    """{"image": path from this file, or base64 or a data URI, "label": text} in each line."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line)
            except ValueError:
                raise ConfigError(f"{where}: is no JSON", param="data") from None
            if not isinstance(record, dict) or not isinstance(record.get("image"), str):
                raise ConfigError(f"{where}: must be an object with the text `image`", param="data")
            label = record.get("label")
            if label is not None and not isinstance(label, str):
                raise ConfigError(f"{where}: label is {label!r}; it must be a text", param="data")
            yield _referred(where, record["image"], label, path.parent)


def _referred(where: str, image: str, label: str | None, folder: Path) -> Sample:
    encoded = image.partition(",")[2] if image.startswith("data:") else image
    if len(image) < 1024 and not image.startswith("data:"):
        path = folder / image
        if path.is_file():
            return Sample(f"{where} ({image})", label, path=path)
    try:
        return Sample(where, label, content=base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError):
        raise ConfigError(f"{where}: image {image[:80]!r} is neither a file nor base64", param="data") from None


def _listed(path: Path) -> Iterator[Sample]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if not {"image", "label"} <= set(rows.fieldnames or ()):
            raise ConfigError(f"{path}: its first line must name the columns image and label", param="data")
        for number, row in enumerate(rows, 2):
            image = path.parent / (row["image"] or "")
            if not image.is_file():
                raise ConfigError(f"{path}, line {number}: {row['image']!r} does not exist", param="data")
            yield Sample(str(image), row["label"] or None, path=image)


def _folders(path: Path) -> Iterator[Sample]:
    """Images in sub-folders have their folder's name as label; those beside them have none."""
    for image in sorted(path.rglob("*")):
        if image.suffix.lower() in _SUFFIXES and image.is_file():
            inner = image.relative_to(path).parts
            yield Sample(str(image), inner[0] if len(inner) > 1 else None, path=image)
