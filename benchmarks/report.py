"""What a benchmark says: one table, one verdict against its goal, one JSON record."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_PACKAGES = ("argus-serve", "ray", "torch", "transformers", "numpy", "pillow")
_WIDTH_IN_A_FILE = 140


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table.

    Attributes:
        key: of the row.
        title: with the unit.
        format: for `format()`; values that are no numbers are shown as they are.
    """

    key: str
    title: str
    format: str = ""

    def cell(self, row: Mapping[str, Any]) -> str:
        """The row's text in this column."""
        value = row.get(self.key)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "-"
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return format(value, self.format) if is_number else str(value)


def this_command() -> str:
    """The command line of this process, as typed."""
    return shlex.join(["argus", *sys.argv[1:]])


def this_machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "revision": _revision(),
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _revision() -> str | None:
    """The commit that was measured, marked `-dirty` when files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def rounded(value: Any) -> Any:
    """A record as JSON has it: floats at six significant digits, None for those that are not finite."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


@dataclass(slots=True)
class Report:
    """One run of one benchmark.

    Attributes:
        command: `argus bench ...`, as it can be typed again.
        goal: in words.
        settings: everything that the figures depend on.
        rows: one mapping a line of the table.
        notes: what a reader must know to read the figures right.
        misses: why the goal is not met, one line each; empty when it is.
    """

    command: str
    title: str
    goal: str
    columns: tuple[Column, ...]
    settings: Mapping[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    misses: list[str] = field(default_factory=list)
    machine: Mapping[str, Any] = field(default_factory=this_machine)
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return not self.misses

    def record(self) -> dict[str, Any]:
        """The JSON record."""
        return {
            "command": self.command,
            "date": self.date,
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "rows": self.rows,
            "notes": self.notes,
            "goal": self.goal,
            "verdict": "met" if self.met else "missed",
            "misses": self.misses,
        }

    def save(self, path: Path) -> None:
        """Writes the record; numbers are rounded to six significant digits."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rounded(self.record()), indent=1) + "\n", encoding="utf-8")

    def show(self, console: Console) -> None:
        """Prints table, notes and verdict."""
        table = Table(title=self.title, title_justify="left")
        for column in self.columns:
            table.add_column(column.title, justify="right" if column.format else "left")
        for row in self.rows:
            table.add_row(*(column.cell(row) for column in self.columns))
        if not console.is_terminal:
            console = Console(file=console.file, width=_WIDTH_IN_A_FILE)
        console.print(table)
        for note in self.notes:
            console.print(f"  {note}", highlight=False, style="dim", soft_wrap=True)
        console.print(f"Goal: {self.goal}", highlight=False, soft_wrap=True)
        if self.met:
            console.print("[green]met[/green]")
        for miss in self.misses:
            console.print(f"[red]missed[/red] {miss}", highlight=False, soft_wrap=True)
