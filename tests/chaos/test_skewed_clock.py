"""A time of day that can be set, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.chaos.skewed_clock import installed, set_offset

ASK = """
import sys, time
for _ in sys.stdin:
    print(time.time(), time.time_ns() / 1e9, time.monotonic(), flush=True)
"""


def test_the_time_of_day_follows_the_file_and_nothing_else_does(tmp_path: Path) -> None:
    offset, environment = installed(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", ASK],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for seconds in (0.0, 1e6, -1e6):
            set_offset(offset, seconds)
            before, before_monotonic = time.time(), time.monotonic()
            process.stdin.write("\n")
            process.stdin.flush()
            told = [float(text) for text in process.stdout.readline().split()]
            for of_day in told[:2]:
                assert before - 1 <= of_day - seconds <= time.time() + 1
            assert before_monotonic <= told[2] <= time.monotonic()
        process.stdin.close()
