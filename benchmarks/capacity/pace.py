"""How fast this machine's cores are just now, by a fixed piece of work done over and over beside what is measured.

A virtual machine's cores lend and borrow: on one whose neighbours come and go, the same work takes a quarter more
processor time in one minute than in the next, and no idle time shows it. Durations that were measured at different
times can be compared, or predicted one from the other, once each is divided by the pace it was measured at.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from benchmarks.servers import ROOT
from serve.errors import Unavailable

# Processor seconds of the work at a pace of 1, in which profiles are written. It is a unit, chosen once: about what a
# core of a cloud's small virtual machine takes.
UNIT_S = 0.0025
# Twice 2.5 ms of work eight times a second: four per cent of a core.
_PAUSE_S = 0.12
_LOOPS, _PRODUCTS, _SIDE = 15_000, 12, 192
_FEWEST = 4

Float64 = npt.NDArray[np.float64]


class Pace:
    """Probes of one process, from its start on."""

    def __init__(self) -> None:
        self._probes: list[tuple[float, float]] = []

    def between(self, start: float, end: float) -> float:
        """Mean processor time of the work from `start` to `end` on `time.monotonic()`, in units: 1.2 is a fifth slower.

        Raises:
            Unavailable: fewer than four probes ended between them.
        """
        took = [seconds for ended, seconds in self._probes if start <= ended < end]
        if len(took) < _FEWEST:
            raise Unavailable(f"The machine's pace is not known: {len(took)} probes in {end - start:.1f} s.")
        return sum(took) / len(took) / UNIT_S

    def known(self, start: float, end: float) -> float | None:
        """`between`; None where it is not known."""
        try:
            return self.between(start, end)
        except Unavailable:
            return None

    def each_second(self, start: float, seconds: float) -> Float64:
        """Mean of each second from `start` on, over that of all of them; 1 where no probe ended. Shape (seconds,)."""
        mean, count = self.between(start, start + seconds), math.ceil(seconds)
        found = np.ones(count)
        for second in range(count):
            took = [one for ended, one in self._probes if second <= ended - start < second + 1]
            found[second] = sum(took) / len(took) / UNIT_S / mean if took else 1.0
        return found

    def add(self, line: bytes | str) -> None:
        """A line of the process."""
        ended, seconds = line.split()
        self._probes.append((float(ended), float(seconds)))


@contextmanager
def pacing() -> Iterator[Pace]:
    """Probes in a process of its own, which ends with the block; `Pace.between` answers after it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", __name__]
    found = Pace()
    # In a session of its own: Ctrl-C at a terminal ends what is measured, and is nothing to the probes.
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            found.add(process.stdout.readline())
            yield found
        finally:
            process.stdin.close()  # it stops, and tells what it saw
            for line in process.stdout:
                found.add(line)


def pace_now(seconds: float = 5.0) -> float:
    """The pace over so many seconds from now on."""
    start = time.monotonic()
    with pacing() as pace:
        time.sleep(seconds)
    return pace.between(start, start + seconds)


def _probe(matrix: npt.NDArray[np.float32]) -> float:
    """`_work`, with its data in the caches: how much of them others took since the last time is not the cores' pace."""
    _work(matrix)
    return _work(matrix)


def _work(matrix: npt.NDArray[np.float32]) -> float:
    """Processor seconds of half interpreted, half vectorised work, as a server's are."""
    start = time.thread_time()
    total = 0
    for number in range(_LOOPS):
        total += number * number
    for _ in range(_PRODUCTS):
        matrix @ matrix
    return time.thread_time() - start


def _main() -> None:
    import select

    matrix = np.random.default_rng(0).random((_SIDE, _SIDE), dtype=np.float32)
    _work(matrix)
    lines = []
    print(time.monotonic(), _probe(matrix), flush=True)
    while not select.select([sys.stdin], [], [], _PAUSE_S)[0]:
        took = _probe(matrix)
        lines.append(f"{time.monotonic()} {took}")
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    _main()
