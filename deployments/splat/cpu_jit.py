"""Kernels for the CPU: compiled by numba when first called, kept on disk, and run outside the GIL.

Threads are our own (`Threads`): numba's `parallel=True` ends the process when two threads of ours enter it at once with
the one threading layer that its wheels always have.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])

# Everything of fast-math but the promise that there are no infinities and no NaNs.
_FAST = {"reassoc", "contract", "arcp", "nsz", "afn"}


def _cache_folder() -> Path:
    """Where compiled kernels are kept.

    A folder for each state of the sources: numba compiles a kernel again when its own file changes, not when a constant
    or function does that it takes from another one.
    """
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("cpu*.py")):
        digest.update(source.read_bytes())
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "argus"
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or own) / f"kernels-{digest.hexdigest()[:16]}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        # A container whose root cannot be written: compiled for this process alone.
        return Path(tempfile.mkdtemp(prefix="argus-kernels-"))
    return folder


numba.config.CACHE_DIR = str(_cache_folder())


def kernel(function: Function) -> Function:
    """Compiles a function for this CPU."""
    compiled: Function = numba.njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")(function)
    return compiled


def part(function: Function) -> Function:
    """A function that kernels of the same file take in."""
    compiled: Function = numba.njit(nogil=True, fastmath=_FAST, error_model="numpy", inline="always")(function)
    return compiled


class Threads:
    """A few threads for kernels, whose work is a range that can be cut anywhere."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="splat") if count > 1 else None

    def over(self, total: int, work: Callable[[int, int], Any]) -> list[Any]:
        """`work(begin, end)` over 0..total, one even piece a thread."""
        cuts = np.linspace(0, total, self.count + 1).astype(np.int64)
        return self.each([(int(begin), int(end)) for begin, end in pairwise(cuts)], work)

    def each(self, ranges: list[tuple[int, int]], work: Callable[[int, int], Any]) -> list[Any]:
        """`work` on each range, in order where there is one thread."""
        if self._pool is None or len(ranges) < 2:
            return [work(begin, end) for begin, end in ranges]
        return list(self._pool.map(lambda bounds: work(*bounds), ranges))
