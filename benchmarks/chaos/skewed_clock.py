"""A time of day that can be set: in each Python process of a cluster, and in no other of the machine.

A copy of this file, named `sitecustomize.py` and on PYTHONPATH, is what Python imports first. What asks for the time of
day in other ways than `time.time` and `time.time_ns` (Ray's C++, HAProxy) sees the machine's; the monotonic clock stays
as it is, as when a machine's clock is set.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_FILE: Final = "ARGUS_CHAOS_CLOCK"
_SECONDS: Final = struct.Struct("d")


def installed(folder: Path) -> tuple[Path, Mapping[str, str]]:
    """The file that holds the offset, and the environment in which Python's time of day follows it.

    Args:
        folder: for both that file and the module that Python imports first.
    """
    first = folder / "first"
    first.mkdir()
    (first / "sitecustomize.py").write_bytes(Path(__file__).read_bytes())
    offset = folder / "clock"
    offset.write_bytes(_SECONDS.pack(0.0))
    path = os.pathsep.join(filter(None, (str(first), os.environ.get("PYTHONPATH"))))
    return offset, {_FILE: str(offset), "PYTHONPATH": path}


def set_offset(offset: Path, seconds: float) -> None:
    """From now on the time of day is off by so much; in place, since processes have mapped the file."""
    with offset.open("r+b") as file:
        file.write(_SECONDS.pack(seconds))


def _follow(path: str) -> None:
    with Path(path).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), _SECONDS.size, access=mmap.ACCESS_READ)
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + _SECONDS.unpack_from(mapped)[0]
    time.time_ns = lambda: real_ns() + int(1e9 * _SECONDS.unpack_from(mapped)[0])


if __name__ == "sitecustomize" and _FILE in os.environ:
    _follow(os.environ[_FILE])
