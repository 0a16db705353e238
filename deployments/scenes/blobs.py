"""Files known by their content: in a local folder, or anywhere that fsspec reaches (object stores among them).

The scene store alone writes and deletes; renderers read. A file is never changed, so a reader needs no lock: it finds
what it asked for, or nothing.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from serve.errors import ArgusError, ConfigError, Conflict, NotFound, OutOfCapacity, Unavailable

if TYPE_CHECKING:  # the store's workers do without the cluster file
    from serve.config.scene_models import SceneStoreModel

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_ADDRESS: Final = re.compile(r"[a-z0-9+.-]+://")
_UNFINISHED: Final = ".new-"
_OWNER: Final = "owner"


def blobs_of(model: SceneStoreModel) -> Blobs:
    """Where a store's scenes lie."""
    return Blobs(model.blobs or str(Path(model.path) / "blobs"))


class Blobs:
    """All methods block and may be called from any thread.

    Args:
        location: a folder, made by the first write, or an address of fsspec (`s3://bucket/prefix`, `memory://x`).

    Raises:
        ConfigError: fsspec does not know the address, or its driver is not installed.
        NotFound: `scene_gone`: there is no such file; so do all methods that take a digest, also one that is none.
        Unavailable: `store_io`: the place cannot be reached; so do all methods.
    """

    def __init__(self, location: str) -> None:
        # fsspec's own way with local files is not durable.
        folder = location.removeprefix("file://")
        self._place: _Place = _Address(folder) if _ADDRESS.match(folder) else _Folder(Path(folder))

    @staticmethod
    def is_digest(text: str) -> bool:
        """Whether a text is of the form of a digest."""
        return _DIGEST.fullmatch(text) is not None

    @staticmethod
    def digest(data: bytes) -> str:
        """SHA-256 in hexadecimal."""
        return sha256(data).hexdigest()

    def write(self, data: bytes) -> str:
        """Stores a file; its SHA-256 in hexadecimal. Durable when this returns.

        Raises:
            OutOfCapacity: `disk_full`.
        """
        digest = self.digest(data)
        with _errors():
            self._place.write(digest, data)
        return digest

    def take(self, path: Path, digest: str) -> None:
        """Stores a file that lies on this machine, and whose digest is known; the file at `path` is gone afterwards.

        Raises:
            OutOfCapacity: `disk_full`.
        """
        _check(digest)
        with _errors():
            self._place.take(path, digest)

    def read(self, digest: str) -> bytes:
        """The whole file.

        Raises:
            Unavailable: `scene_damaged`: its content is not what its digest says.
        """
        data = self._read(digest, 0, None)
        if self.digest(data) != digest:
            raise Unavailable(f"The stored file {digest} is damaged.", code="scene_damaged")
        return data

    def read_range(self, digest: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on; its content is not checked."""
        return self._read(digest, offset, offset + length)

    def path(self, digest: str) -> Path | None:
        """Where the file lies on this machine, for mapping it into memory; None when it lies elsewhere."""
        _check(digest)
        with _errors():
            return self._place.path(digest)

    def size(self, digest: str) -> int:
        """Bytes of the file."""
        _check(digest)
        with _errors():
            return self._place.size(digest)

    def delete(self, digest: str) -> None:
        """Deletes the file; nothing happens when it is not there."""
        _check(digest)
        with _errors():
            self._place.delete(digest)

    def list(self) -> dict[str, int]:
        """Bytes of every file by its digest."""
        with _errors():
            return {name: size for name, size in self._place.names() if _DIGEST.fullmatch(name)}

    def claim(self, owner: str) -> None:
        """Notes who alone writes and deletes here, and deletes what writes that were cut short have left.

        Without it, two stores that were given one place would each delete the other's files as nobody's.

        Raises:
            Conflict: `store_locked`; the place belongs to another store.
        """
        with _errors():
            try:
                found = self._place.read(_OWNER, 0, None).decode()
            except (FileNotFoundError, NotADirectoryError):
                self._place.write(_OWNER, owner.encode())
                found = owner
            if found != owner:
                raise Conflict(
                    f"The files there belong to the scene store {found}, not to this one ({owner}). If that one is "
                    f"gone for good, delete the file `{_OWNER}` there: what is not of this store is then deleted.",
                    code="store_locked",
                    param="blobs",
                )
            self._place.drop_unfinished()

    def _read(self, digest: str, start: int, end: int | None) -> bytes:
        _check(digest)
        with _errors():
            return self._place.read(digest, start, end)


class _Place(Protocol):
    """Somewhere to keep files by name. Methods raise `FileNotFoundError` for a file that is not there."""

    def write(self, name: str, data: bytes) -> None: ...

    def take(self, path: Path, name: str) -> None: ...

    def read(self, name: str, start: int, end: int | None) -> bytes: ...

    def path(self, name: str) -> Path | None: ...

    def size(self, name: str) -> int: ...

    def delete(self, name: str) -> None: ...

    def names(self) -> Iterator[tuple[str, int]]: ...

    def drop_unfinished(self) -> None: ...


class _Folder:
    """A local folder. A name appears only once its content is on the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, name: str, data: bytes) -> None:
        with self._unfinished() as path:
            path.write_bytes(data)
            self._finish(path, name)

    def take(self, path: Path, name: str) -> None:
        with self._unfinished() as own:
            shutil.move(path, own)  # a rename, or a copy from another disk
            self._finish(own, name)

    def read(self, name: str, start: int, end: int | None) -> bytes:
        with self._see(name).open("rb") as file:
            file.seek(start)
            return file.read() if end is None else file.read(end - start)

    def path(self, name: str) -> Path:
        return self._see(name)

    def size(self, name: str) -> int:
        return self._see(name).stat().st_size

    def delete(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def names(self) -> Iterator[tuple[str, int]]:
        if self._root.is_dir():
            with os.scandir(self._root) as entries:
                yield from ((entry.name, entry.stat().st_size) for entry in entries if entry.is_file())

    def drop_unfinished(self) -> None:
        for path in self._root.glob(f"{_UNFINISHED}*"):
            path.unlink(missing_ok=True)

    def _see(self, name: str) -> Path:
        path = self._root / name
        if not path.is_file():
            # A folder that is not there at all is a disk that is not mounted, not a file that was deleted.
            raise FileNotFoundError(path) if self._root.is_dir() else NotADirectoryError(self._root)
        return path

    @contextmanager
    def _unfinished(self) -> Iterator[Path]:
        self._root.mkdir(parents=True, exist_ok=True)
        path = self._root / f"{_UNFINISHED}{secrets.token_hex(8)}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _finish(self, path: Path, name: str) -> None:
        _sync(path)
        # Also when the name is there already: what damaged the file is healed by storing it again.
        path.rename(self._root / name)
        _sync(self._root)


class _Address:
    """A place that fsspec reaches; such stores show a file whole or not at all."""

    def __init__(self, location: str) -> None:
        import fsspec

        try:
            self._system: Any
            self._system, root = fsspec.core.url_to_fs(location)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{location}: {error}", param="blobs") from error
        self._root = str(root).rstrip("/")

    def write(self, name: str, data: bytes) -> None:
        self._system.pipe_file(self._at(name), data)

    def take(self, path: Path, name: str) -> None:
        self._system.put_file(str(path), self._at(name))
        path.unlink()

    def read(self, name: str, start: int, end: int | None) -> bytes:
        if end is None and start == 0:  # an object store refuses any range of an empty file
            return bytes(self._system.cat_file(self._at(name)))
        try:
            return bytes(self._system.cat_file(self._at(name), start=start, end=end))
        except FileNotFoundError:
            raise
        except Exception:
            if start < self.size(name):
                raise
            return b""  # and one that begins beyond the end

    def path(self, name: str) -> None:
        return None

    def size(self, name: str) -> int:
        self._system.invalidate_cache()
        return int(self._system.size(self._at(name)))

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._system.rm_file(self._at(name))

    def names(self) -> Iterator[tuple[str, int]]:
        self._system.invalidate_cache()
        try:
            entries = self._system.ls(self._root, detail=True)
        except FileNotFoundError:
            return
        yield from ((Path(entry["name"]).name, int(entry["size"] or 0)) for entry in entries)

    def drop_unfinished(self) -> None:
        """Nothing: see the class's text."""

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"


def _check(digest: str) -> None:
    if not Blobs.is_digest(digest):
        raise _gone()


def _gone() -> NotFound:
    return NotFound("There is no such file in the scene store, or it is gone.", code="scene_gone", param="scene")


@contextmanager
def _errors() -> Iterator[None]:
    """What a file system or a client of an object store raises, as ours; their own errors have no common root."""
    try:
        yield
    except ArgusError:
        raise
    except FileNotFoundError as error:
        raise _gone() from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OutOfCapacity("The disk that holds the scenes is full.", code="disk_full") from error
        raise Unavailable(
            f"The scenes' files cannot be reached: {type(error).__name__}: {error}", code="store_io"
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
