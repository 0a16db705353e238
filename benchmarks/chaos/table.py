"""The record of all faults and its table in docs/survival.md: `python -m benchmarks.chaos.table RECORD...`.

All faults take about twenty minutes; whoever runs them in parts (`argus bench chaos --only ... --json RECORD`) puts the
parts together so, the newest last.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.chaos.run import NAMES

REPOSITORY: Final = Path(__file__).parents[2]
RECORD: Final = REPOSITORY / "benchmarks" / "results" / "chaos.json"
PAGE: Final = REPOSITORY / "docs" / "survival.md"
HEAD: Final = (
    "| fault | requests sent | failed | codes | retried | lost | longest stall, s | recovery, s | remark |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def merged(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One record of several: of each fault the last row, in the suite's order, with the number of its run."""
    runs: list[dict[str, Any]] = []
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        parts = record.get("runs") or [_run(record)]
        rows |= {row["fault"]: {**row, "run": len(runs) + row.get("run", 0)} for row in record["rows"]}
        runs += parts
    return {"runs": runs, "rows": [rows[name] for name in NAMES if name in rows]}


def _run(record: Mapping[str, Any]) -> dict[str, Any]:
    """All but the rows. Where the part was written to says nothing."""
    command = re.sub(r" --json \S+", "", record["command"])
    return {**{key: value for key, value in record.items() if key not in ("rows", "notes")}, "command": command}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    return HEAD + "".join(f"| {' | '.join(_cells(row))} |\n" for row in rows)


def with_table(page: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The page with this table in place of its own.

    Raises:
        ValueError: it has none.
    """
    before, head, after = page.partition(HEAD)
    if not head:
        raise ValueError(f"there is no table of faults in {PAGE}")
    lines = after.splitlines(keepends=True)
    rest = next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return before + table(rows) + "".join(lines[rest:])


def _cells(row: Mapping[str, Any]) -> list[str]:
    whole = [row.get(key) for key in ("sent", "failed", "codes", "retried", "lost")]
    seconds = (("stall_s", ".2f"), ("recovery_s", ".1f"))
    timed = ["" if row.get(key) is None else format(row[key], form) for key, form in seconds]
    remarks = filter(None, (row.get("remark"), *row.get("misses", ())))
    return [row["title"], *("" if value is None else str(value) for value in whole), *timed, "; ".join(remarks)]


def _write(paths: Sequence[Path]) -> None:
    record = merged([json.loads(path.read_text(encoding="utf-8")) for path in paths])
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), record["rows"]), encoding="utf-8")


if __name__ == "__main__":
    _write([Path(path) for path in sys.argv[1:]])
