"""Files beside a job's request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from serve.errors import InvalidRequest
from serve.media.source import MediaBytes

Files = Sequence[tuple[str, MediaBytes]]


def accepted(files: Files, names: Sequence[str]) -> Iterator[tuple[str, MediaBytes]]:
    """The files, if their fields have the names that an operation knows."""
    for name, file in files:
        if name not in names:
            raise InvalidRequest(
                f"File field {name[:80]!r} is not known here; known are {', '.join(names)}.",
                code="unknown_field",
                param=name[:80],
            )
        yield name, file
