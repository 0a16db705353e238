"""What a worker process of a `WorkerPool` does first: see that it ends with its parent, and bound its memory."""

from __future__ import annotations

import os
import resource
import signal
import threading
from multiprocessing import parent_process
from pathlib import Path


def end_with_parent() -> None:
    """Ends this process when the replica is gone, however that went, and not by a terminal's Ctrl-C before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def bound_memory(more: int) -> None:
    """Bounds this process's address space to what it has now, with its libraries loaded, and `more` bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    bound = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
