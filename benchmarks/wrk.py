"""Driving HTTP with wrk (https://github.com/wg/wrk): a closed loop in C, cheap enough not to be what is measured."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serve.errors import Unavailable

_SCRIPT = Path(__file__).with_name("wrk.lua")
_MARK = "RESULT "


@dataclass(frozen=True, slots=True)
class Load:
    """What a load generator saw. `failed` counts answers that were no success and broken connections."""

    per_s: float
    p50_s: float
    p99_s: float
    requests: int
    failed: int


def wrk_path() -> str:
    """Where wrk is.

    Raises:
        Unavailable: it is not installed.
    """
    path = shutil.which("wrk")
    if path is None:
        raise Unavailable("wrk is not installed; on Debian and Ubuntu: apt-get install wrk")
    return path


def post(
    url: str,
    files: Sequence[Path],
    headers: Mapping[str, str],
    *,
    connections: int,
    seconds: float,
    warm_up_s: float = 0.0,
) -> Load:
    """POSTs `files` in turn over `connections` connections from one thread.

    Args:
        warm_up_s: at the beginning of `seconds`, left out of the rate.

    Raises:
        Unavailable: wrk is missing or failed.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listing:
        listing.write("\n".join(str(path) for path in files))
        listing.flush()
        command = [
            *(wrk_path(), "-t", "1", "-c", str(connections), "-d", f"{max(1, round(seconds))}s", "--timeout", "60s"),
            *("-s", str(_SCRIPT), url, "--", str(warm_up_s), listing.name),
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    return parse(done.stdout)


def parse(stdout: str) -> Load:
    """Reads the line that `wrk.lua` writes at the end."""
    line = next(line for line in stdout.splitlines() if line.startswith(_MARK))
    return Load(**json.loads(line.removeprefix(_MARK)))
