"""A bucket in memory, for fsspec under `bucket://`, that differs from a folder where S3 does.

Keys without folders, objects that are put whole, ranges beyond an object's end refused (HTTP 416), deleting what is not
there, and listings that are remembered until they are told to be forgotten.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec import AbstractFileSystem


class Bucket(AbstractFileSystem):
    """See the module's text. One for the whole process, as a bucket is for everybody who has its address."""

    protocol = "bucket"
    objects: ClassVar[dict[str, bytes]] = {}

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._listings: dict[str, list[dict[str, Any]]] = {}

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        """Puts an object."""
        self.objects[self._strip_protocol(path)] = bytes(value)

    def put_file(self, lpath: str, rpath: str, *args: Any, **options: Any) -> None:
        """Puts an object from a local file."""
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """An object, or a range of it; that of an empty one is refused whatever it is."""
        found = self.objects.get(self._strip_protocol(path))
        if found is None:
            raise FileNotFoundError(path)
        if (start is not None or end is not None) and (start or 0) >= len(found):
            raise OSError(errno.EINVAL, "The requested range is not satisfiable")
        return found[start:end]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Of an object, never of a folder."""
        key = self._strip_protocol(path)
        if key not in self.objects:
            raise FileNotFoundError(path)
        return {"name": key, "size": len(self.objects[key]), "type": "file"}

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """Objects under a prefix, as they were when they were listed first."""
        prefix = self._strip_protocol(path) + "/"
        if prefix not in self._listings:
            self._listings[prefix] = [self.info(key) for key in self.objects if key.startswith(prefix)]
        listed = self._listings[prefix]
        if not listed:
            raise FileNotFoundError(path)
        return listed if detail else [entry["name"] for entry in listed]

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forgets listings."""
        self._listings.clear()

    def rm_file(self, path: str) -> None:
        """Without a word when it is not there."""
        self.objects.pop(self._strip_protocol(path), None)


fsspec.register_implementation("bucket", Bucket, clobber=True)
