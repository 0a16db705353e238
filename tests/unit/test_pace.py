"""The pace of this machine's processors: what is averaged, and the process that measures."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.capacity.pace import UNIT_S, Pace, pacing
from serve.errors import Unavailable


def probes(*took: float) -> Pace:
    """One probe a second from 100 on."""
    pace = Pace()
    for number, seconds in enumerate(took):
        pace.add(f"{100.0 + number} {seconds}".encode())
    return pace


def test_a_pace_is_the_mean_of_the_probes_of_its_time() -> None:
    pace = probes(9.0, UNIT_S, UNIT_S, 2 * UNIT_S, 2 * UNIT_S, 9.0)
    assert pace.between(101.0, 105.0) == pytest.approx(1.5)


def test_each_second_is_over_the_mean_and_one_where_nobody_looked() -> None:
    pace = probes(UNIT_S, UNIT_S, 3 * UNIT_S, 3 * UNIT_S)
    pace.add(f"105.5 {2 * UNIT_S}")
    assert pace.each_second(100.0, 6.0) == pytest.approx([0.5, 0.5, 1.5, 1.5, 1.0, 1.0])


def test_too_few_probes_are_no_pace() -> None:
    with pytest.raises(Unavailable, match=r"3 probes in 3\.0 s"):
        probes(UNIT_S, UNIT_S, UNIT_S, UNIT_S).between(101.0, 104.0)
    assert probes(UNIT_S, UNIT_S, UNIT_S, UNIT_S).known(101.0, 104.0) is None
    assert probes(UNIT_S, UNIT_S, UNIT_S, UNIT_S).known(100.0, 104.0) == pytest.approx(1.0)


def test_a_process_probes_until_the_block_ends() -> None:
    start = time.monotonic()
    with pacing() as pace:
        time.sleep(2.0)
        end = time.monotonic()
    assert 0.01 < pace.between(start, end) < 100
    with pytest.raises(Unavailable):
        pace.between(end + 1, end + 10)


def test_ctrl_c_at_a_terminal_is_not_for_the_probes() -> None:
    """It goes to every process of the terminal's group."""
    script = (
        "import os, signal, time\n"
        "from benchmarks.capacity.pace import pacing\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "with pacing() as pace:\n"
        "    start = time.monotonic()\n"
        f"    os.killpg(0, {int(signal.SIGINT)})\n"
        "    time.sleep(2)\n"
        "    end = time.monotonic()\n"
        "print(pace.known(start, end) is not None)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=120,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("True\n", "")
