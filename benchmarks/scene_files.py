"""Damaged scene files of every format, read as the store reads uploads: in a process that can be killed.

Whatever the bytes are, the answer must be a scene or an error of ours, in bounded time and memory.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.report import Column, Report, this_command
from benchmarks.scene_damage import DAMAGE, whole_files
from deployments.scenes import work
from deployments.worker_pool import Subject, WorkerPool
from serve.errors import ArgusError

GOAL: Final = "whole files are read; damaged ones are read or refused with a code; none hangs, none takes much memory"
_GAUSSIANS: Final = 1000
_MOST_GAUSSIANS: Final = 5_000_000
_TASK_S: Final = 20.0
_WORKER_BYTES: Final = 4_000_000_000
# A file of 1,000 Gaussians is small whatever it says of itself.
_MOST_PEAK_MB: Final = 100.0
_SUBJECT: Final = Subject("scene reader", "scene", "scene")
_COLUMNS: Final = (
    Column("format", "format"),
    Column("damage", "damage"),
    Column("files", "files", "d"),
    Column("read", "read", "d"),
    Column("refused", "refused", "d"),
    Column("crashed", "worker ended", "d"),
    Column("slow", "too slow", "d"),
    Column("other", "other errors", "d"),
    Column("longest_ms", "longest, ms", ".0f"),
    Column("peak_mb", "peak memory, MB", ".1f"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one file.

    Attributes:
        result: `read`, an error's code, or `other: TYPE: MESSAGE` for what is none of our errors.
        peak_bytes: resident memory of the worker beyond what it had before.
    """

    result: str
    peak_bytes: int


@dataclass(slots=True)
class Group:
    """Files of one format with one kind of damage."""

    results: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    peak_bytes: int = 0

    def add(self, outcome: Outcome, seconds: float) -> None:
        """Counts a file."""
        self.results[outcome.result] += 1
        self.longest_s = max(self.longest_s, seconds)
        self.peak_bytes = max(self.peak_bytes, outcome.peak_bytes)

    def row(self, format: str, damage: str) -> dict[str, Any]:
        """The row of the table."""
        special = {"crashed": "scene_crashed", "slow": "scene_too_slow"}
        counts = {name: self.results[code] for name, code in special.items()}
        other = sum(count for result, count in self.results.items() if result.startswith("other"))
        files = self.results.total()
        read = self.results["read"]
        return {
            "format": format,
            "damage": damage,
            "files": files,
            "read": read,
            "refused": files - read - other - sum(counts.values()),
            **counts,
            "other": other,
            "longest_ms": 1000 * self.longest_s,
            "peak_mb": self.peak_bytes / 1e6,
            "codes": {code: count for code, count in self.results.items() if code != "read"},
        }


def run(*, cases: int, seed: int, progress: Console, only: Collection[str] | None = None) -> Report:
    """Reads `cases` files of each kind of damage of all formats, or only of some."""
    report = Report(
        command=this_command(),
        title=f"Damaged scene files of {_GAUSSIANS:,} Gaussians, {cases} of each kind",
        goal=GOAL,
        columns=_COLUMNS,
        settings={"cases": cases, "seed": seed, "gaussians": _GAUSSIANS, "most_gaussians": _MOST_GAUSSIANS},
    )
    files = {name: data for name, data in whole_files(_GAUSSIANS).items() if only is None or name in only}
    groups = asyncio.run(_read_all(files, cases, seed, progress))
    report.rows = [group.row(*key) for key, group in groups.items()]
    ended = sum(row["crashed"] for row in report.rows)
    report.notes.append(
        f"{sum(row['files'] for row in report.rows):,} files; a worker ended {ended} times, which its client sees as "
        "the error scene_crashed and nobody else sees. Peak memory is that of a worker beyond what it had before."
    )
    report.misses = [miss for row in report.rows for miss in _misses(row)]
    return report


def _misses(row: dict[str, Any]) -> list[str]:
    where = f"{row['format']}, {row['damage']}"
    found = []
    if row["damage"] == "none" and row["read"] < row["files"]:
        found.append(f"{where}: {row['files'] - row['read']} whole files were not read: {row['codes']}")
    if row["slow"]:
        found.append(f"{where}: {row['slow']} took longer than {_TASK_S:g} s")
    if row["other"]:
        found.append(f"{where}: {row['codes']}")
    if row["peak_mb"] > _MOST_PEAK_MB:
        found.append(f"{where}: {row['peak_mb']:.0f} MB is more than {_MOST_PEAK_MB:.0f} MB")
    return found


async def _read_all(files: dict[str, bytes], cases: int, seed: int, progress: Console) -> dict[tuple[str, str], Group]:
    settings = work.WorkerSettings(_WORKER_BYTES, _MOST_GAUSSIANS)
    pool = WorkerPool(_SUBJECT, 1, _TASK_S, 1, work.start, settings)
    groups = {key: Group() for key in itertools.product(files, DAMAGE)}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for (format, damage), group in groups.items():
                rng = random.Random(f"{seed} {format} {damage}")
                progress.print(f"{format}: {damage}", highlight=False)
                for _ in range(cases if damage != "none" else 1):
                    data = DAMAGE[damage](files[format], rng)
                    started = time.perf_counter()
                    outcome = await _outcome(pool, Path(folder), data)
                    group.add(outcome, time.perf_counter() - started)
    finally:
        await pool.close()
    return groups


async def _outcome(pool: WorkerPool, folder: Path, data: bytes) -> Outcome:
    path = folder / "uploaded"
    path.write_bytes(data)
    try:
        return await pool.run(read_measured, path, folder / "scene")
    except ArgusError as error:  # the worker ended
        return Outcome(error.code, 0)


def read_measured(path: Path, target: Path) -> Outcome:
    """Runs in the worker: reads a file as the store does."""
    before = _resident("VmRSS")
    # Sets the peak back to what there is now.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    try:
        work.read_scene(path, target, None, None)
        result = "read"
    except ArgusError as error:
        result = error.code
    except Exception as error:
        result = f"other: {type(error).__name__}: {error}"[:200]
    return Outcome(result, max(_resident("VmHWM") - before, 0))


def _resident(name: str) -> int:
    """Bytes, of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
