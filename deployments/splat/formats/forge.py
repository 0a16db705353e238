"""SPZ files of version 4, whose streams of Zstandard are left to gaussforge, a converter in C++.

It believes what headers say, so it reads only in a process that can be killed, after our own look at the header. It
converts to PLY, which our own reader checks; of a damaged file it makes an empty one, or none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.splat.formats import ply
from deployments.splat.formats.checks import refuse
from deployments.splat.gaussians import Gaussians


@contextmanager
def _silent() -> Iterator[None]:
    """It writes lines of its own to the process's output for every file."""
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for target, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, target)
            os.close(descriptor)
        os.close(nowhere)


def read_spz(data: bytes, count: int) -> Gaussians:
    """The scene in a file, its axes as they are there.

    Args:
        count: Gaussians, by the header.

    Raises:
        InvalidMedia: `invalid_scene`.
    """
    from gaussforge import GaussForge

    with _silent():
        result = GaussForge().convert(data, "spz", "ply")
    if "error" in result:
        raise refuse(f"The SPZ file cannot be read: {result['error']}.")
    found = ply.read(result["data"], count)
    if len(found) != count:
        raise refuse(f"The SPZ file's header announces {count:,} Gaussians; {len(found):,} were found.")
    return found
