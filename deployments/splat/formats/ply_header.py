"""Headers of PLY files (Turk 1994), read strictly: what is not understood is refused, not guessed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

import numpy as np

from deployments.splat.formats.checks import refuse

Form = Literal["binary_little_endian", "binary_big_endian", "ascii"]

# Scenes have about 60 lines.
_MOST_BYTES: Final = 65_536
_MOST_PROPERTIES: Final = 512
_TYPES: Final = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "<i2",
    "int16": "<i2",
    "ushort": "<u2",
    "uint16": "<u2",
    "int": "<i4",
    "int32": "<i4",
    "uint": "<u4",
    "uint32": "<u4",
    "float": "<f4",
    "float32": "<f4",
    "double": "<f8",
    "float64": "<f8",
}


@dataclass(frozen=True, slots=True)
class Element:
    """One table of the file.

    Attributes:
        properties: names and numpy types, in order.
    """

    name: str
    count: int
    properties: tuple[tuple[str, str], ...]

    @property
    def record(self) -> np.dtype[Any]:
        """One row, packed."""
        return np.dtype(list(self.properties))


@dataclass(frozen=True, slots=True)
class Header:
    """Of a file whose first table are its vertices.

    Attributes:
        count: vertices.
        record: one vertex, as it stands in a little-endian file.
        form: how numbers are written.
        nbytes: of the header; the vertices begin there.
    """

    count: int
    record: np.dtype[Any]
    form: Form
    nbytes: int


def parse(data: bytes) -> Header:
    """The header of a file of vertices; tables after them are left alone.

    Raises:
        InvalidMedia: it is no PLY, or its vertices are not its first table, or have lists.
    """
    elements, form, nbytes = parse_elements(data)
    if not elements or elements[0].name != "vertex":
        raise refuse("The PLY file's first element must be its vertices.")
    return Header(elements[0].count, elements[0].record, form, nbytes)


def parse_elements(data: bytes) -> tuple[list[Element], Form, int]:
    """All tables up to the first that has lists, how numbers are written, and the header's length in bytes.

    Raises:
        InvalidMedia: see `parse`.
    """
    end = data.find(b"end_header", 0, _MOST_BYTES)
    after = data[end + 10 : end + 12]
    newline = 2 if after == b"\r\n" else 1
    if not data.startswith(b"ply") or end < 0 or after[newline - 1 : newline] != b"\n":
        raise refuse(f"The PLY file's header does not end within its first {_MOST_BYTES:,} bytes.")
    try:
        lines = [line.split() for line in data[:end].decode("ascii").splitlines()]
    except UnicodeDecodeError as error:
        raise refuse(f"Byte {error.start} of the PLY file's header is not ASCII.") from None
    elements: list[Element] = []
    properties: list[tuple[str, str]] = []
    form = ""
    for number, words in enumerate(lines[1:], 2):
        match words:
            case [] | ["comment" | "obj_info", *_]:
                continue
            case ["format", form, _]:
                continue
            case ["element", name, count] if count.isdecimal() and len(count) <= 18:
                _close(elements, properties)
                elements.append(Element(name, int(count), ()))
                properties = []
            case ["property", "list", *_] if len(elements) > 1:
                elements.pop()  # of faces, say; nothing behind it is looked for
                properties = list(elements[-1].properties)
                break
            case ["property", "list", *_]:
                raise refuse(f"Line {number} of the PLY file's header: vertices of a scene have no lists.")
            case ["property", kind, name] if kind in _TYPES and elements:
                properties.append((name, _TYPES[kind]))
            case _:
                raise refuse(f"Line {number} of the PLY file's header is not understood: {' '.join(words)[:80]!r}.")
        if len(properties) > _MOST_PROPERTIES or len(elements) > _MOST_PROPERTIES:
            raise refuse(f"The PLY file has more than {_MOST_PROPERTIES} properties or elements.")
    if form not in get_args(Form):
        known = ", ".join(get_args(Form))
        raise refuse(f"The PLY file is {form[:80] or 'of no stated format'}; there are {known}.")
    _close(elements, properties)
    return elements, cast(Form, form), end + 10 + newline


def _close(elements: list[Element], properties: list[tuple[str, str]]) -> None:
    """Gives the last element its properties."""
    if not elements:
        return
    names = [name for name, _ in properties]
    twice = {name for name in names if names.count(name) > 1}
    if twice or not names:
        what = f"has {min(twice)} twice" if twice else "has no properties"
        raise refuse(f"Element {elements[-1].name} of the PLY file {what}.")
    elements[-1] = Element(elements[-1].name, elements[-1].count, tuple(properties))
