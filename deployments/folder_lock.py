"""One process for each folder: what a store that has a single writer holds while it is open."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path
from typing import ClassVar, Final

from serve.errors import Conflict, Unavailable

# A replica that was told to end has ended by then, unless it has requests that take longer.
_PREDECESSOR_S: Final = 10.0
_AGAIN_S: Final = 0.1


def wait_for_predecessor(root: Path, longest_s: float = _PREDECESSOR_S) -> None:
    """Waits until no other process holds the folder, or for so long. Blocks.

    On a node that is drained, Ray Serve starts a store's next replica before the old one has ended. Without a wait it
    would fail, be started anew, and the store be away until that was done.
    """
    ends = time.monotonic() + longest_s
    while FolderLock.is_held_elsewhere(root) and time.monotonic() < ends:
        time.sleep(_AGAIN_S)


class FolderLock:
    """Holds a folder for this process until `release` or the process's end, however it ends.

    A POSIX record lock: the kernel drops it with the process, and a forked child does not keep it alive. Such locks do
    not exclude a second opener within one process, so a set of open folders does.

    Raises:
        Conflict: `store_locked`; the folder is open, here or in another process.
    """

    _open: ClassVar[set[Path]] = set()
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        with self._guard:
            # First, and before the file is opened: closing any descriptor of it would drop this process's lock.
            if self._root in self._open:
                raise Conflict(f"{root} is already open in this process", code="store_locked", param="root")
            self._descriptor = self._acquire()
            self._open.add(self._root)

    @classmethod
    def is_held_elsewhere(cls, root: Path) -> bool:
        """Whether another process holds the folder."""
        with cls._guard:
            if root.resolve() in cls._open:
                return False
        try:
            cls(root).release()
        except Conflict:
            return True
        except OSError:
            pass  # There is no such folder, or whoever opens it will say better what is wrong.
        return False

    def check(self) -> None:
        """Sees that the folder is still the one that was locked.

        Raises:
            Unavailable: the folder or its lock file is gone, for example because a volume was unmounted.
        """
        try:
            same = os.path.samestat(os.fstat(self._descriptor), (self._root / ".lock").stat())
        except OSError:
            same = False
        if not same:
            raise Unavailable(f"{self._root} is not there any more", code="store_gone")

    def release(self) -> None:
        """Lets the next opener in. May be called again."""
        with self._guard:
            if self._root in self._open:
                self._open.remove(self._root)
                os.close(self._descriptor)

    def _acquire(self) -> int:
        descriptor = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace")
            os.close(descriptor)
            if isinstance(error, BlockingIOError | PermissionError):  # POSIX allows EAGAIN and EACCES.
                raise Conflict(
                    f"{self._root} is open in process {holder}; one process owns a store",
                    code="store_locked",
                    param="root",
                ) from None
            raise
        return descriptor
